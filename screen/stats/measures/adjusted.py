"""What remains of the effect after each cell's own level and its trend over rank."""

import numpy as np

from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.arithmetic.grouped import chunks
from rankshift.screen.stats.arithmetic.rank_sum import RankSum, two_sided, within_strata
from rankshift.screen.stats.evidence import Evidence, OneRun, TwoRuns
from rankshift.screen.stats.measure import Column, Heading, Measure
from rankshift.screen.stats.options import Columns
from rankshift.screen.stats.ranks_in_cells import by_cell


def of_run(one: OneRun) -> Columns:
    """Adjusted values, ranked within each cell; none for joint perturbations, which have no rank."""
    if (places := one.places) is None:
        return {}
    order, _ = by_cell(one.seen)
    kept = 0
    for some in chunks(len(order)):  # in its own place, which is a column of memory less
        part = order[some][~np.isnan(places.adjusted[order[some]])]
        order[kept : kept + len(part)] = part
        kept += len(part)
    order = order[:kept]
    within = within_strata(one.seen.cell, one.seen.gene, places.adjusted, len(one.tested), order=order)
    out = _columns(one, within, one.seen.mean(places.adjusted))
    if not np.isnan(places.removed[0]):
        one.summary["variance_removed"] = {"cell": places.removed[0], "cell_and_rank": places.removed[1]}
    return out


def of_contrast(two: TwoRuns) -> Columns:
    """The test between the runs of what remains in each."""
    if two.places is None or two.null_places is None:
        return {}
    here, there = two.places.adjusted, two.null_places.adjusted
    mean = two.seen.mean(here) - two.aligned(two.other.mean(there))
    return _columns(two, two.rank_sum_of(here, there), mean)


def _columns(evidence: Evidence, result: RankSum, mean: np.ndarray) -> Columns:
    centre = evidence.centre_of(result)
    evidence.summary["typical_adjusted_superiority"] = centre
    p = evidence.where_tested(two_sided(result.z_around(centre)))
    return {"adjusted_mean": mean, "adjusted_p_value": p, "adjusted_fdr": fdr(p)}


MEASURE = Measure(
    name="adjusted",
    sentence=(
        "adjusted_fdr takes out each cell's own level and the trend over rank: an effect that vanishes there was one of the "
        "cell or of the rank. Use it to see what an effect owes to them, not as the test to publish."
    ),
    columns=(
        Column(
            name="adjusted_mean",
            unit="cosine",
            meaning="mean over cells after the cell and its trend over rank were taken out",
        ),
        Column(
            name="adjusted_p_value",
            unit="probability",
            meaning="rank test of the adjusted values within cells (null: between runs), centred",
        ),
        Column(
            name="adjusted_fdr",
            unit="probability",
            meaning="Benjamini-Hochberg of adjusted_p_value",
            heading=Heading(title="Adjusted FDR", help="without the cell's own level and the trend over rank"),
        ),
    ),
    of_run=of_run,
    of_contrast=of_contrast,
)
