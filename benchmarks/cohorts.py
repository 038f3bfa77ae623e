"""Calibration of verdicts on drawn cohorts, in which no gene does anything of its own: how often a study claims that one does.

    python -m benchmarks.cohorts [--studies 1000] [--genes 2000] [--processes 2]

No encoder takes part: shifts are drawn. A value is the level of its donor (the same for all genes), an effect of the gene in
this donor, where the case says so an effect that the gene has in all donors, as every gene has one, and the mean of its
cells' noise. Arms are anticorrelated in both kinds of effects, so that measured ones are at about -0.6. One donor has 80 % of
the raw cells; a study draws 100 cells of each, the pooled test takes all. A false verdict is an adjusted p of at most 0.05
with arms in opposite ways, before the rules of stability and technical classes, which only take away.

With `planted`, 20 genes have an effect of 5 standard deviations of the others', and counted are false ones among those found.
"""

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, norm, spearmanr

from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.study.judge import Judging, judge

ANTICORRELATED = (
    -0.65
)  # of effects; with the noise of cells the Spearman correlation of the measured arms is about -0.6
ARMS = ("delete", "overexpress")
RAW = 20_000  # start cells
LEVEL = 0.05
OWN = 0.3  # effect of a gene in one donor, where the noise of one cell is 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """donors; spread: of effects that genes have in all donors, over that of a gene in one; planted: genes with a real effect.

    tails: degrees of freedom of the effects in all donors, None for normal ones. listed: genes of a list, with 100 controls;
    0 for all genes.
    """

    name: str
    donors: int
    spread: float = 0.0
    tails: float | None = None
    planted: int = 0
    listed: int = 0


CASES = (
    Case(name="8 donors, donor effects", donors=8),
    Case(name="20 donors, donor effects", donors=20),
    Case(name="8 donors, every gene has an effect", donors=8, spread=1.0),
    Case(name="20 donors, every gene has an effect", donors=20, spread=1.0),
    Case(name="20 donors, effects with heavy tails (t, 5)", donors=20, spread=1.0, tails=5),
    Case(name="8 donors, a list of 5 genes", donors=8, spread=1.0, listed=5),
    Case(name="20 donors, 20 genes of 2,000 planted", donors=20, spread=1.0, planted=20),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of one study: genes called, false ones, true ones; the same of the pooled test; genes judged and coherent; by the naive

    rules: with arms in opposite ways, and those of which both arms hold over donors at 5 %; correlation of the arms.
    """

    called: int
    false: int
    pooled: int
    pooled_false: int
    judged: int
    coherent: int
    opposite: int
    naive: int
    correlation: float


def study(case: Case, genes: int, seed: int) -> Counts:
    """Draw a cohort and judge it."""
    rng = np.random.default_rng([seed, case.donors, case.planted])
    genes = case.listed + 100 if case.listed else genes
    shape = (genes, case.donors)
    detection = rng.uniform(0.1, 1, genes)
    raw = np.full(case.donors, round(0.2 * RAW / (case.donors - 1)))
    raw[0] = round(0.8 * RAW)
    common = OWN * case.spread * _arms(rng, (genes,), case.tails) * (0.5 + detection)  # what many cells have moves more
    planted = np.arange(genes) < case.planted
    common += (
        5 * OWN * case.spread * planted * np.array([1, -1])[:, None] * rng.choice([-1, 1], genes) * (0.5 + detection)
    )
    own = OWN * _arms(rng, shape, None)
    level = rng.normal(0, 2, (2, 1, case.donors))
    cells = rng.binomial(100, detection[:, None], shape)
    all_cells = rng.binomial(raw, detection[:, None], shape)
    true = common[:, :, None] + own + level
    shift = {arm: true[i] + rng.normal(size=shape) / np.sqrt(np.maximum(cells, 1)) for i, arm in enumerate(ARMS)}
    control = np.arange(genes) >= case.listed if case.listed else None
    judging = Judging(family="holm" if case.listed else "fdr")
    found = judge(shift, dict.fromkeys(ARMS, cells), detection=detection, control=control, judging=judging)
    called = (found.adjusted_p <= LEVEL) & found.opposite
    pooled = _pooled(true[0] + rng.normal(size=shape) / np.sqrt(np.maximum(all_cells, 1)), all_cells)
    pooled = pooled & (control is None or ~control)
    rest = found.family & ~planted
    both = np.logical_and.reduce([arm.donor_p <= LEVEL for arm in found.arms.values()])
    effects = [arm.effect[rest] for arm in found.arms.values()]
    return Counts(
        called=int(called.sum()),
        false=int((called & ~planted).sum()),
        pooled=int(pooled.sum()),
        pooled_false=int((pooled & ~planted).sum()),
        judged=int(rest.sum()),
        coherent=int((found.coherent & rest).sum()),
        opposite=int((found.opposite & rest).sum()),
        naive=int((found.opposite & both & rest).sum()),
        correlation=float(spearmanr(*effects).statistic),
    )


def _arms(rng: np.random.Generator, shape: tuple[int, ...], tails: float | None) -> np.ndarray:
    """Effects [2, *shape] of variance 1 in two anticorrelated arms."""
    first, second = rng.normal(size=(2, *shape))
    out = np.stack([first, ANTICORRELATED * first + np.sqrt(1 - ANTICORRELATED**2) * second])
    return out if tails is None else out / np.sqrt(rng.chisquare(tails, shape) / (tails - 2))


def _pooled(mean: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Genes found at an FDR of 5 % when all cells count alike: z of the mean of all cells against the typical gene's.

    mean [G, D] of a donor's cells, each of variance 1 around it.
    """
    total = cells.sum(1)
    centre = (cells * mean).sum(1) / total
    variance = ((cells * (mean - centre[:, None]) ** 2).sum(1) + total - cells.shape[1]) / total
    z = (centre - np.median(centre)) / np.sqrt(variance / total)
    return fdr(2 * norm.sf(np.abs(z))) <= LEVEL


def interval(count: int, of: int) -> tuple[float, float]:
    """Exact 95 % interval of a share."""
    low = float(beta.ppf(0.025, count, of - count + 1)) if count else 0.0
    return low, float(beta.isf(0.025, count + 1, of - count)) if count < of else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of many studies. false: mean share of false ones among the called (of studies in which nothing is true, the share of

    studies that call any), its interval; pooled: the same of the pooled test. found: share of planted genes called. coherent,
    opposite, naive: shares of genes without an effect; the interval of coherent is over studies.
    """

    case: Case
    studies: int
    false: float
    false_interval: tuple[float, float]
    pooled: float
    pooled_genes: float
    found: float | None
    coherent: float
    coherent_interval: tuple[float, float]
    opposite: float
    naive: float
    correlation: float

    @staticmethod
    def of(case: Case, counts: list[Counts]) -> "Rates":
        """Sum up."""
        share = np.array([c.false / max(c.called, 1) for c in counts])
        pooled = np.array([c.pooled_false / max(c.pooled, 1) for c in counts])
        coherent = np.array([c.coherent / c.judged for c in counts])
        ends = _mean_ends(share) if case.planted else interval(int(share.sum()), len(share))
        return Rates(
            case=case,
            studies=len(counts),
            false=float(share.mean()),
            false_interval=ends,
            pooled=float(pooled.mean()),
            pooled_genes=float(np.mean([c.pooled_false for c in counts])),
            found=float(np.mean([(c.called - c.false) / case.planted for c in counts])) if case.planted else None,
            coherent=float(coherent.mean()),
            coherent_interval=_mean_ends(coherent),
            opposite=float(np.mean([c.opposite / c.judged for c in counts])),
            naive=float(np.mean([c.naive / c.judged for c in counts])),
            correlation=float(np.mean([c.correlation for c in counts])),
        )

    def lines(self) -> Iterator[str]:
        """The rates in words."""
        low, high = self.false_interval
        yield f"{self.case.name} ({self.studies} studies)"
        found = "" if self.found is None else f"; planted genes found {self.found:.0%}"
        yield f"  false verdicts     {self.false:.1%} ({low:.1%} to {high:.1%}){found}"
        yield f"  pooled cells       {self.pooled:.1%} false, {self.pooled_genes:.0f} genes a study"
        low, high = self.coherent_interval
        yield f"  coherent           {self.coherent:.2%} of genes ({low:.2%} to {high:.2%})"
        yield f"  arms               correlate at {self.correlation:.2f}"
        yield f"  opposite signs     {self.opposite:.0%} of genes; with both arms below 0.05 over donors {self.naive:.1%}"


def _mean_ends(values: np.ndarray) -> tuple[float, float]:
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - 1.96 * error, float(values.mean()) + 1.96 * error


def rates(case: Case, studies: int, genes: int, processes: int = 1) -> Rates:
    """Draw and judge many studies, the seeds 0, 1, …; the number of processes changes nothing."""
    arguments = [case] * studies, [genes] * studies, range(studies)
    if processes == 1:
        return Rates.of(case, [study(*one) for one in zip(*arguments, strict=True)])
    with ProcessPoolExecutor(processes) as pool:
        return Rates.of(case, list(pool.map(study, *arguments, chunksize=10)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="only this one")
    a = parser.parse_args()
    for case in CASES if a.case is None else [CASES[a.case]]:
        began = time.perf_counter()
        for line in rates(case, a.studies, a.genes, a.processes).lines():
            print(line)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
