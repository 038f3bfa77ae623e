"""One row per perturbation of a run held against another run: other cells, other states, another model of the same genes.

Cells and donors of the two runs count as different ones. What is not tested, for too few cells or groups, is empty.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import stdtr

from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.empirical_null import typical
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.arithmetic.rank_sum import RankSum, between, two_sided
from rankshift.screen.stats.arithmetic.resampling import (
    Units,
    agreement,
    half_means,
    intervals,
    ranks,
    resampled_means,
)
from rankshift.screen.stats.donors import Balanced, Groups, balanced, units_of
from rankshift.screen.stats.measures.baselines import against_likes
from rankshift.screen.stats.measures.columns import described
from rankshift.screen.stats.observations import Observations, match, null_means
from rankshift.screen.stats.options import Columns, Judging, centre_of, hits_of, identity, in_order, summary_of
from rankshift.screen.stats.ranks_in_cells import in_cells, single_genes


def null_effects(run: Run, null: Run, judging: Judging) -> tuple[pa.Table, dict[str, Any]]:
    """Similarities against those of another run, gene by gene: hits first, then the strongest effect (lowest difference)."""
    test, other = Observations.read(run, ["similarity"]), Observations.read(null, ["similarity"])
    values, null_values = test.values["similarity"], other.values["similarity"]
    same = match(test, other)
    count, null_count, mean, null_mean = null_means(test, other, same)
    tested = np.minimum(count, null_count) >= judging.min_cells
    difference = mean - null_mean
    result = _between(test, values, other, null_values, same)
    centre = centre_of(result, tested)
    centred = np.where(tested, two_sided(result.z_around(centre)), np.nan)
    columns = {**identity(test), "enough_cells": tested, "null_cells": null_count, "similarity_mean": mean}
    columns |= {"null_similarity_mean": null_mean, "difference_mean": difference, "superiority": result.superiority}
    columns |= {"p_value": np.where(tested, result.p, np.nan), "centred_p_value": centred, "fdr": fdr(centred)}
    summary: dict[str, Any] = {"typical_superiority": centre}
    groups, null_groups, apart, here = None, None, difference, mean
    away = result.superiority - centre
    if judging.by is not None:
        groups = balanced(test, values, Groups.read(run, judging.by))
        null_groups = balanced(other, null_values, Groups.read(null, judging.by))
        found, apart, away, typical_one = _balanced(groups, null_groups, _back(same, len(count)), tested)
        columns, here, summary["typical_difference"] = columns | found, groups.mean, typical_one
    columns["rank"] = np.full(len(count), np.nan)
    columns["rank"][tested] = ranks(apart[tested], highest_first=False)
    decides = columns["fdr" if judging.by is None else "balanced_fdr"]
    columns |= hits_of(run, decides, "similarity", 1 - here, acts=(apart < 0) & (away < 0))
    summary = summary_of(test, columns, judging) | {"null": str(null.path), "null_cells": other.cells, **summary}
    if single_genes(test) and single_genes(other):
        places, null_places = in_cells(run, test, values), in_cells(null, other, null_values)
        columns |= _adjusted(test, places.adjusted, other, null_places.adjusted, same, tested, summary)
        columns |= against_likes(run, test, places, difference, tested, judging.seed, summary)
    units = units_of(test, values, groups), units_of(other, null_values, null_groups)
    columns |= _resampled(*units, _back(same, len(count)), tested, judging, summary)
    return described(in_order(columns, -columns["hit"].astype(int), difference)), summary


def _back(same: np.ndarray, genes: int) -> np.ndarray:
    """int64 [genes]: the number in the null run of each perturbation, -1 where it is not there."""
    out = np.full(genes, -1, np.int64)
    kept = np.flatnonzero(same >= 0)
    out[same[kept]] = kept
    return out


def _aligned(values: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Rows of the null run's genes in the order of the run's; NaN where it lacks one."""
    out = np.full((len(back), *values.shape[1:]), np.nan, values.dtype)
    out[back >= 0] = values[back[back >= 0]]
    return out


def _between(
    test: Observations, values: np.ndarray, other: Observations, null_values: np.ndarray, same: np.ndarray
) -> RankSum:
    """Values of every gene against the null run's values of it, corrected for ties; NaN takes no part."""
    gene = same[other.gene]
    mine, kept = ~np.isnan(values), (gene >= 0) & ~np.isnan(null_values)
    return between(test.gene[mine], values[mine], gene[kept], null_values[kept], len(test.count), ties=True)


def _adjusted(
    test: Observations,
    values: np.ndarray,
    other: Observations,
    null_values: np.ndarray,
    same: np.ndarray,
    tested: np.ndarray,
    summary: dict[str, Any],
) -> Columns:
    """The same test of what remains after the cells and their trends over rank."""
    result = _between(test, values, other, null_values, same)
    centre = centre_of(result, tested)
    p = np.where(tested, two_sided(result.z_around(centre)), np.nan)
    summary["typical_adjusted_superiority"] = centre
    mean = test.mean(values) - _aligned(other.mean(null_values), _back(same, len(tested)))
    return {"adjusted_mean": mean, "adjusted_p_value": p, "adjusted_fdr": fdr(p)}


def _balanced(
    here: Balanced, there: Balanced, back: np.ndarray, tested: np.ndarray
) -> tuple[Columns, np.ndarray, np.ndarray, float]:
    """Columns over groups, difference of the means, how far the differences are from the typical gene's, and that.

    Welch's t test over groups: groups of both runs count as different ones, which errs on the safe side where they are the
    same. Degrees of freedom by Satterthwaite.
    """
    groups, null_groups = here.groups, np.where(back >= 0, there.groups[back], 0)
    difference = here.difference - _aligned(there.difference, back)
    a, b = here.error**2, _aligned(there.error, back) ** 2
    error = np.sqrt(a + b)
    centre = typical(difference, error, tested, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = (a + b) ** 2 / (a**2 / (groups - 1) + b**2 / (null_groups - 1))
        p = np.where(tested & (error > 0), 2 * stdtr(freedom, -np.abs((difference - centre) / error)), np.nan)
    mean = here.mean - _aligned(there.mean, back)
    columns = {"groups": groups, "null_groups": null_groups, "balanced_mean": mean, "balanced_difference": difference}
    return columns | {"balanced_p_value": p, "balanced_fdr": fdr(p)}, mean, difference - centre, centre


def _resampled(
    units: Units, null_units: Units, back: np.ndarray, tested: np.ndarray, judging: Judging, summary: dict[str, Any]
) -> Columns:
    """Intervals of the difference and of its rank, both runs resampled; and how halves of both agree."""
    rng = np.random.default_rng(judging.seed)
    halves, null_halves = half_means(units, rng), half_means(null_units, rng)
    found = None
    if halves is not None and null_halves is not None:
        one, two = (h - _aligned(n, back) for h, n in zip(halves, null_halves, strict=True))
        found = agreement((one, two), tested, highest_first=False)
    summary["stability"] = None if found is None else asdict(found)
    if not judging.bootstrap:
        return {}
    mean = resampled_means(units, judging.bootstrap, rng)
    mean -= _aligned(resampled_means(null_units, judging.bootstrap, rng), back)
    interval = intervals(mean, tested, highest_first=False)
    return {
        "difference_low": interval.low,
        "difference_high": interval.high,
        "rank_low": interval.rank_low,
        "rank_high": interval.rank_high,
    }
