"""Effects over donors, judged: from a value per gene, donor and arm to tests, joint tests of the arms, and stability.

It knows arrays only; words and tables are made in `verdicts`. Legend: G genes, D donors; NaN is a donor without a value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, norm, spearmanr, t

from rankshift.screen.errors import InputError
from rankshift.screen.study.controls import MEDIAN_COST, Cloud, Controls, freedom, unit
from rankshift.screen.study.design import Design
from rankshift.screen.study.exact import leave_out

POWER = 0.9  # of either test, so that both together find four of five
FAMILIES = ("holm", "fdr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How effects are judged. level: of the adjusted p. min_cells: fewer start cells of a donor with the gene give no value.

    family: "holm" for a list of genes (no false verdict among them), "fdr" for all genes (Benjamini-Hochberg). kept: share of
    the effect that must remain without any donor and without any fold.
    """

    level: float = 0.05
    min_cells: int = 5
    family: str = "fdr"
    kept: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level}: give a number between 0 and 1")
        if self.min_cells < 1:
            raise InputError(f"min_cells is {self.min_cells}: give at least 1")
        if self.family not in FAMILIES:
            raise InputError(f"family {self.family!r} is unknown: use one of {', '.join(FAMILIES)}")
        if not 0 <= self.kept < 1:
            raise InputError(f"kept is {self.kept}: give a share of at least 0 and below 1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """One quantity per gene [G]. values [G, D]: adjusted; effect, low, high; donor_p: exact; cloud: among the controls.

    p: the larger of donor_p and cloud.p, so that small means both: it holds over donors, and it is not what any gene does.
    """

    values: np.ndarray
    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray
    donor_p: np.ndarray
    cloud: Cloud
    p: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """arms: by name, in cosine. joint: what is judged, in standard deviations of the controls' effects: of one arm its values,
    of two half the difference of the first and the second. donors [G]: with a value of `joint`; floor [G]: smallest donor_p.

    opposite [G]: the arms point in opposite ways (of one arm: true). coherent [G]: they do, and the joint effect lies among
    the outermost of its controls', by joint.cloud.p and by its share. family [G]: genes that are judged. arms_correlation:
    Spearman, of the two arms' effects over these and the controls; None for one arm.
    """

    arms: dict[str, Tested]
    joint: Tested
    donors: np.ndarray
    floor: np.ndarray
    opposite: np.ndarray
    coherent: np.ndarray
    family: np.ndarray
    adjusted_p: np.ndarray
    arm_adjusted_p: dict[str, np.ndarray]
    enough: np.ndarray
    controls: Controls
    arms_correlation: float | None


def judge(
    shift: Mapping[str, np.ndarray],
    cells: Mapping[str, np.ndarray],
    *,
    detection: np.ndarray,
    rank: np.ndarray | None = None,
    control: np.ndarray | None = None,
    design: Design | None = None,
    judging: Judging | None = None,
) -> Judged:
    """Judge mean shifts float64 [G, D] by arm, one or two, of so many cells int [G, D]; the first arm gives the direction.

    detection, rank: float64 [G], by which controls are matched. control: bool [G], genes that are only controls, and then
    the only ones; None where every gene has the others.
    """
    design, judging = design or Design(), judging or Judging()
    values = {arm: np.where(cells[arm] >= judging.min_cells, shift[arm], np.nan) for arm in shift}
    both = np.logical_and.reduce([np.isfinite(v) for v in values.values()])
    counts = design.counts(np.where(both, 0.0, np.nan))
    floor = design.floor(counts)
    enough = floor <= judging.level
    eligible = enough if control is None else enough & control
    controls = Controls.match(detection, rank, eligible)
    arms = {arm: _tested(controls.adjusted(v), controls, eligible, design) for arm, v in values.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = [arm.values / arm.cloud.spread[:, None] for arm in arms.values()]
    scaled = [np.where(np.isfinite(s), s, np.nan) for s in scaled]
    joint = _tested(scaled[0] if len(scaled) == 1 else (scaled[0] - scaled[1]) / 2, controls, eligible, design)
    signs = [np.sign(arm.effect) for arm in arms.values()]
    opposite = np.ones(len(enough), bool) if len(signs) == 1 else signs[0] * signs[1] < 0
    known = enough & np.isfinite(joint.p)
    family = known if control is None else known & ~control
    return Judged(
        arms=arms,
        joint=joint,
        donors=counts.sum(1),
        floor=floor,
        opposite=opposite,
        coherent=known & opposite & (np.maximum(joint.cloud.p, joint.cloud.share) <= judging.level),
        family=family,
        adjusted_p=adjusted(joint.p, family, judging.family),
        arm_adjusted_p={name: adjusted(arm.p, family, judging.family) for name, arm in arms.items()},
        enough=enough,
        controls=controls,
        arms_correlation=_correlation([arm.effect[known] for arm in arms.values()]),
    )


def adjusted(p: np.ndarray, family: np.ndarray, how: str) -> np.ndarray:
    """Adjusted p [G] within the family, bool [G], NaN elsewhere: Holm (1979) or Benjamini and Hochberg (1995)."""
    out = np.full(len(p), np.nan)
    some = np.flatnonzero(family & np.isfinite(p))
    if not len(some):
        return out
    if how == "fdr":
        out[some] = false_discovery_control(p[some], method="bh")
        return out
    order = some[np.argsort(p[some], kind="stable")]
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out


def single_level(found: Judged, judging: Judging) -> float:
    """The p that one more gene needs to be called: the level over the size of the family, times the calls under FDR."""
    size = max(int(found.family.sum()), 1)
    calls = int((found.adjusted_p <= judging.level).sum()) if judging.family == "fdr" else 0
    return judging.level * max(calls, 1) / size


def detectable(found: Judged, design: Design, judging: Judging) -> np.ndarray:
    """Effect [G] in standard deviations of the controls' effects that POWER of studies would find by either test.

    NaN where the gene is of no family, infinite where so few donors cannot reach the p that is needed.
    """
    out = np.full(len(found.family), np.nan)
    some = np.flatnonzero(found.family)
    if not len(some):
        return out
    level = single_level(found, judging)
    values = found.joint.values[some]
    over_donors = design.spread(values) * design.detectable(design.counts(values), level, POWER)
    count = found.joint.cloud.count[some]
    wide = found.joint.cloud.spread[some] * np.sqrt(1 + MEDIAN_COST / count)
    tail = found.joint.cloud.tail
    among = wide * (t.isf(level / 2, np.minimum(freedom(count), tail)) / unit(tail) + norm.ppf(POWER))
    out[some] = np.fmax(over_donors, among)
    return out


def stability(found: Judged, fold: np.ndarray, design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Share [G] of the effect that remains without the donor, and without the fold (int [D]), whose absence leaves least.

    Negative where the sign changes.
    """
    values, effect = found.joint.values, found.joint.effect

    def middle(some: np.ndarray) -> np.ndarray:
        return design.effect(some)[0]

    out = []
    for part in (np.arange(values.shape[1]), np.asarray(fold)):
        low, high = leave_out(values, part, middle)
        with np.errstate(invalid="ignore", divide="ignore"):
            out.append(np.where(effect > 0, low, high) / effect)
    return out[0], out[1]


def _tested(values: np.ndarray, controls: Controls, among: np.ndarray, design: Design) -> Tested:
    effect, low, high = design.effect(values)
    cloud = controls.against(effect, among)
    donor_p = design.p(values)
    return Tested(
        values=values, effect=effect, low=low, high=high, donor_p=donor_p, cloud=cloud, p=np.maximum(donor_p, cloud.p)
    )


def _correlation(effects: Sequence[np.ndarray]) -> float | None:
    if len(effects) < 2:
        return None
    there = np.isfinite(effects[0]) & np.isfinite(effects[1])
    return float(spearmanr(effects[0][there], effects[1][there]).statistic) if there.sum() > 2 else None
