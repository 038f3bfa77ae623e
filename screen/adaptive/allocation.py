"""The rounds of an adaptive screen: a pilot, an audit, then blocks of cells in which only likely genes go on.

`rounds` says which rows to measure and is told their values; it measures nothing. Genes are set aside while the expected number
of top genes among them stays under the miss that was asked for. What is left at the end is measured in all its cells.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from rankshift.screen.adaptive.any_effect import any_effect
from rankshift.screen.adaptive.mixture import TINY, Belief, threshold
from rankshift.screen.adaptive.model import belief
from rankshift.screen.adaptive.passing import chance_to_pass
from rankshift.screen.adaptive.population import Population
from rankshift.screen.adaptive.strata import BLOCKS, audited, blocks, pilot
from rankshift.screen.adaptive.trend import Trend, fit
from rankshift.screen.errors import InputError

STRATA, MOST_STRATA = 6, 24  # genes a cell in the pilot, doubled while that pays; 48 cost more than they saved
PAYS = 2.0  # a larger pilot must be able to save that many times its rows
PREDICTION = 8  # passes that the prediction of a cell counts for, with its backward pass
NORMAL = 1.96  # half width of a 95 % interval of a normal, in standard deviations
FAR = 6.0  # standard deviations; one audited gene farther off must not decide the scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked: the `top` genes, of highest or (highest=False) lowest mean, and how surely they are to be found.

    absolute: those whose mean is largest in size. confidence: the share of the top genes that is expected to be found. seed: of
    pilot, audit and blocks. fdr: finish, too, the genes that could be called at this false discovery rate (`any_effect`); of
    these the same share.
    """

    top: int
    highest: bool = True
    absolute: bool = False
    confidence: float = 0.98
    seed: int = 0
    fdr: float | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"--top is {self.top}: ask for at least 1 gene")
        if not 0.5 <= self.confidence <= 0.999:
            raise InputError(f"--confidence is {self.confidence:g}, it lies between 0.5 and 0.999: 0.98 is the default")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}: give a number of at least 0")
        if self.fdr is not None and not 0 < self.fdr <= 0.5:
            raise InputError(f"--fdr is {self.fdr:g}, it lies above 0 and goes up to 0.5: 0.05 is usual")

    def chance(self, now: Belief) -> np.ndarray:
        """float64 [G]: the probability that a gene is among the wanted ones, the highest; `now` is of turned values."""
        value = threshold(now, self.top, absolute=self.absolute)
        return now.beyond(value) if self.absolute else now.above(value)

    def strength(self, now: Belief) -> np.ndarray:
        """float64 [G]: by what genes are ranked, the larger the stronger."""
        return np.abs(now.centre) if self.absolute else now.centre

    def check(self, genes: int) -> None:
        """Refuse what a number of genes is too small for."""
        if self.top > genes:
            raise InputError(
                f"--top is {self.top}, {genes} genes are in enough cells: ask for fewer, or lower --min-cells"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """What is to be measured next: `rows` int64, sorted; kind: pilot, audit or block.

    genes: how many are still in question; ahead: rows of these that stay to be measured, at most; missed: expected number of
    the top genes among those set aside so far.
    """

    kind: str
    rows: np.ndarray
    genes: int
    ahead: int
    missed: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What a screen may say. finished bool [G]: all rows measured, so `estimate` is the full screen's mean.

    complete: did it come to its end, or did the budget end it? estimate float64 [G], half float64 [G]: of a 95 % interval, 0
    where finished. error float64 [G]: standard error of the measured rows' mean, NaN of fewer than two. missed: expected number
    of top genes that are not finished. p_value, fdr float64 [G]: of any effect (module `any_effect`), NaN where not finished.
    explained: share of what rank and cell leave open that the prediction explains. seen
    bool [N]. passes: spent. top int64: finished genes, the strongest first, as many as were asked for where there are so many.
    """

    complete: bool
    finished: np.ndarray
    estimate: np.ndarray
    half: np.ndarray
    error: np.ndarray
    p_value: np.ndarray
    fdr: np.ndarray
    missed: float
    explained: float
    seen: np.ndarray
    passes: int
    uncalled: float
    top: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """What was measured before, for a smaller number of genes: rows int64, their values float64, and the passes it took."""

    rows: np.ndarray
    values: np.ndarray
    passes: int


Measured = tuple[np.ndarray, np.ndarray]  # rows int64, and their values
Rounds = Generator[Round, Measured, Verdict]


@dataclass(slots=True, kw_only=True, eq=False)
class _Race:
    """The state between rounds. Values are turned so that the highest is wanted."""

    of: Population
    wanted: Wanted
    budget: float
    values: np.ndarray
    seen: np.ndarray
    active: np.ndarray
    free: np.ndarray  # bool [N]: rows that were measured before, and cost nothing
    spent: int
    missed: float = 0.0
    scale: float = 1.0
    width: float = NORMAL

    def measure(self, kind: str, rows: np.ndarray, kept: np.ndarray | None = None) -> Generator[Round, Measured, bool]:
        """Have rows bool [N] measured that were not yet; False where the budget does not allow it."""
        kept = self.active if kept is None else kept
        asked = Round(
            kind=kind,
            rows=np.flatnonzero(rows & ~self.seen),
            genes=int(kept.sum()),
            ahead=int((kept[self.of.gene] & ~self.seen & ~rows).sum()),
            missed=self.missed,
        )
        cost = passes(self.of, asked.rows[~self.free[asked.rows]])
        if cost and self.spent + cost > self.budget:
            return False
        if len(asked.rows):
            self.take(*(yield asked))
        self.spent += cost
        return True

    def take(self, rows: np.ndarray, found: np.ndarray) -> None:
        """Rows int64 and what was measured for them."""
        self.values[rows] = found if self.wanted.highest else -np.asarray(found, np.float64)
        self.seen[rows] = True

    def believed(self, fitted: np.ndarray, trend: Trend) -> Belief:
        """Of every gene's mean, with errors as the audit found them."""
        return belief(self.of, self.seen, self.values, fitted, trend).widened(self.scale)

    def callable(self, now: Belief, fitted: np.ndarray) -> np.ndarray:
        """float64 [G]: the probability that a gene is called at the rate that was asked for, 0 where none was."""
        rate = self.wanted.fdr
        if rate is None:
            return np.zeros(self.of.genes)
        plain = fit(self.of.with_prediction(None), fitted, self.values[fitted])
        return chance_to_pass(self.of, now, self.values, fitted, plain, rate)

    def candidates(self, now: Belief, fitted: np.ndarray) -> tuple[np.ndarray, float]:
        """bool [G]: genes that stay in question after a block's share of the miss; and what of the top goes with the others."""
        share = (1 - self.wanted.confidence) / len(BLOCKS)
        chance, called = self.wanted.chance(now), self.callable(now, fitted)
        kept = self.kept(chance, share * self.wanted.top, self.wanted.top)
        if self.wanted.fdr is not None:
            kept |= self.kept(called, share * max(float(called.sum()), 1.0), 0)
        return kept, float(chance[self.active & ~kept].sum())

    def kept(self, chance: np.ndarray, allowed: float, least: int) -> np.ndarray:
        """bool [G]: the active genes without those of least chance, which have `allowed` together; `least` stay at least."""
        order = np.argsort(np.where(self.active, chance, 0.0), kind="stable")
        order = order[self.active[order]]
        drop = max(min(int(np.searchsorted(np.cumsum(chance[order]), allowed)), len(order) - least), 0)
        kept = self.active.copy()
        kept[order[:drop]] = False
        return kept

    def pays(self, kept: np.ndarray, now: Belief, fitted: np.ndarray) -> bool:
        """Would as many rows again for the pilot save more than they cost?

        What can be saved are rows of candidates beyond the wanted number. Blocks of cells save some of them in any case.
        """
        rows = self.of.count - self.of.sums(np.flatnonzero(self.seen))
        best = np.zeros(self.of.genes, bool)
        best[np.argsort(-self.wanted.strength(now), kind="stable")[: self.wanted.top]] = True
        best |= self.callable(now, fitted) > 0.5  # they are finished in any case
        return float(rows[kept].sum() - rows[best].sum()) > PAYS * len(fitted)


def rounds(of: Population, wanted: Wanted, budget: int | None = None, known: Known | None = None) -> Rounds:
    """Every round that is to be measured, in order; send what was measured for each. Returns what may be said.

    The same values give the same rounds, whoever measured them and in whatever order. What is sent may be of other rows, where
    a plan that was written down elsewhere differs by the rounding of another processor. budget: passes that are not exceeded
    (`passes`); a round that would ends the screen with what is known. Raises InputError where not even the pilot fits.
    known: the rounds are the same with it, so they hold rows that need not be measured again; what it has besides counts in
    the end.
    """
    wanted.check(of.genes)
    free = np.zeros(len(of), bool)
    if known is not None:
        free[known.rows] = True
    race = _Race(
        of=of,
        wanted=wanted,
        budget=np.inf if budget is None else budget,
        values=np.zeros(len(of)),
        seen=np.zeros(len(of), bool),
        active=np.ones(of.genes, bool),
        free=free,
        spent=preparation(of) + (0 if known is None else known.passes),
    )
    least = pilot_passes(of, wanted.seed)
    if known is None and least > race.budget:
        raise InputError(
            f"--budget is {budget:,} passes, the pilot alone takes {least:,}: allow more, or take fewer cells"
        )
    strata = STRATA
    yield from race.measure("pilot", pilot(of, wanted.seed, strata))
    while True:
        fitted = np.flatnonzero(race.seen)
        trend = fit(of, fitted, race.values[fitted])
        now = race.believed(fitted, trend)
        kept, _ = race.candidates(now, fitted)
        strata *= 2
        if strata > MOST_STRATA or not race.pays(kept, now, fitted):
            break
        if not (yield from race.measure("pilot", pilot(of, wanted.seed, strata))):
            break
    checked = audited(of, wanted.seed)
    going = yield from race.measure("audit", checked[of.gene], kept)
    if going:
        race.scale, race.width = _calibrated(race, checked, now)
    block = blocks(of, wanted.seed)
    for number in range(len(BLOCKS)):
        if not going:
            break
        kept, lost = race.candidates(race.believed(fitted, trend), fitted)
        race.active, race.missed = kept, race.missed + lost
        going = yield from race.measure("block", kept[of.gene] & (block[of.cell] <= number))
    if known is not None:
        race.take(known.rows, known.values)
    return _verdict(race, race.believed(fitted, trend), fitted, trend, complete=going)


def _calibrated(race: _Race, checked: np.ndarray, before: Belief) -> tuple[float, float]:
    """By how much errors were too small for the audited genes, 1 at least; and the half width that covers 95 % of them.

    The width is a conformal quantile, in standard deviations as they are after the scale, and no less than a normal's.
    """
    exact = race.of.sums(np.flatnonzero(race.seen), race.values[race.seen]) / race.of.count
    z = (exact[checked] - before.centre[checked]) / np.maximum(before.sd[checked], TINY)
    scale = max(1.0, float(np.sqrt(np.mean(np.clip(z, -FAR, FAR) ** 2))))
    size = np.sort(np.abs(z))
    width = float(size[min(len(size), int(np.ceil(0.95 * (len(size) + 1)))) - 1])
    return scale, max(NORMAL, width / scale)


def _verdict(race: _Race, now: Belief, fitted: np.ndarray, trend: Trend, *, complete: bool) -> Verdict:
    of, wanted = race.of, race.wanted
    finished = of.sums(np.flatnonzero(race.seen)) == of.count
    p, fdr = any_effect(of, race.values, fitted, finished)
    order = np.argsort(np.where(finished, -wanted.strength(now), np.inf), kind="stable")
    return Verdict(
        complete=complete,
        finished=finished,
        estimate=now.centre if wanted.highest else -now.centre,
        half=np.where(finished, 0.0, race.width * now.sd),
        error=_errors(race),
        p_value=p,
        fdr=fdr,
        missed=race.missed if complete else float(wanted.chance(now)[~finished].sum()),
        explained=trend.explained,
        seen=race.seen,
        passes=race.spent,
        uncalled=float(race.callable(now, fitted)[~finished].sum()),
        top=order[: min(wanted.top, int(finished.sum()))],
    )


def _errors(race: _Race) -> np.ndarray:
    """Standard error of the mean of every gene's measured rows, float64 [G], NaN of fewer than two."""
    rows = np.flatnonzero(race.seen)
    count, values = race.of.sums(rows), race.values[rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = race.of.sums(rows, values) / count
        square = race.of.sums(rows, (values - mean[race.of.gene[rows]]) ** 2)
        return np.where(count > 1, np.sqrt(square / (count - 1) / count), np.nan)


def passes(of: Population, rows: np.ndarray) -> int:
    """Encoder passes of some rows int64: one each, and the original of every cell that is visited for them."""
    return len(rows) + len(np.unique(of.cell[rows]))


def preparation(of: Population, *, predicted: bool = False) -> int:
    """Passes that the predictions count for; `predicted`: also where they are yet to be made."""
    return PREDICTION * of.cells if predicted or of.predicted is not None else 0


def pilot_passes(of: Population, seed: int, *, predicted: bool = False) -> int:
    """Passes of the predictions and the smallest pilot, which are spent before anything is known."""
    return preparation(of, predicted=predicted) + passes(of, np.flatnonzero(pilot(of, seed, STRATA)))
