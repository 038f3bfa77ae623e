"""The rank of the effect among the tested perturbations, with its interval."""

import numpy as np

from rankshift.screen.stats.arithmetic.resampling import ranks
from rankshift.screen.stats.evidence import Evidence, OneRun, TwoRuns
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def of_run(one: OneRun) -> Columns:
    """Ranks of the means, over cells or over donors."""
    return _ranks(one, one.ranked, one.highest_first)


def ties(one: OneRun) -> Columns:
    """Of every tested mean the first and the last rank whose means it cannot be told from; none with --by.

    Told apart are means that differ by more than the error of this one, sd / sqrt(n), and more than the noise floor's p99.
    """
    if one.options.by is not None:
        return {}
    tested, count, squares = one.tested, one.seen.count, one.seen.squares(one.values, one.effect)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
    floor = (one.run.manifest.noise_floor or {}).get(one.column)
    near = np.maximum(error, 0.0 if floor is None else floor.p99)[tested]
    strength = (one.effect if one.highest_first else -one.effect)[tested]
    falling = -np.sort(-strength)
    out = {name: np.full(len(count), np.nan) for name in ("tied_first", "tied_last")}
    out["tied_first"][tested] = np.searchsorted(-falling, -(strength + near), side="left") + 1
    out["tied_last"][tested] = np.searchsorted(-falling, -(strength - near), side="right")
    return out


def of_contrast(two: TwoRuns) -> Columns:
    """Ranks of the differences, the lowest first."""
    return _ranks(two, two.effect if two.donors is None else two.donor_test.mean, False)


def _ranks(evidence: Evidence, effect: np.ndarray, highest_first: bool) -> Columns:
    rank = np.full(len(effect), np.nan)
    rank[evidence.tested] = ranks(effect[evidence.tested], highest_first=highest_first)
    if (interval := evidence.resampled[0]) is None:
        return {"rank": rank}
    return {"rank": rank, "rank_low": interval.rank_low, "rank_high": interval.rank_high}


MEASURE = Measure(
    name="rank",
    sentence="A rank with a wide interval would be another one in another sample: read such a list as a set, not as an order.",
    columns=(
        Column(
            name="rank",
            unit="rank",
            meaning="of the mean among genes with enough cells, 1 for the strongest (highest shift, lowest similarity)",
        ),
        Column(name="rank_low", unit="rank", meaning="lower end of the 95 % bootstrap interval of the rank"),
        Column(name="rank_high", unit="rank", meaning="upper end of it"),
    ),
    of_run=of_run,
    of_contrast=of_contrast,
)

TIES = Measure(
    name="ties",
    sentence=(
        "Genes whose means differ by less than an error or the numerical noise cannot be separated: where a list of the "
        "strongest K ends, those with tied_first <= K <= tied_last are tied with its last."
    ),
    columns=(
        Column(
            name="tied_first",
            unit="rank",
            meaning="the first rank whose mean is within this mean's standard error, or the noise floor where that is more",
        ),
        Column(name="tied_last", unit="rank", meaning="the last such rank"),
    ),
    of_run=ties,
)
