"""The rank of the effect among the tested perturbations, with its interval."""

import numpy as np

from rankshift.screen.stats.arithmetic.resampling import ranks
from rankshift.screen.stats.evidence import Evidence, OneRun, TwoRuns
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def of_run(one: OneRun) -> Columns:
    """Ranks of the means, over cells or over donors."""
    return _ranks(one, one.ranked, one.highest_first)


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
