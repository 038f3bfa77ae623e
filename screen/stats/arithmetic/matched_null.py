"""The rank-matched null: a gene's mean against those of the genes most like it in rank and detection.

It assumes that most of these do nothing. The p-value is empirical and cannot go below its floor, which is shown beside it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

NEIGHBOURS = 400  # at most, for p-values down to 0.005
SHARE = 25  # one gene in so many: more would reach far away in rank and detection
FEWEST = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchedNull:
    """Per gene, float64 [G]: median of the matched genes, z against it in robust units, two-sided p; `floor` of the p."""

    median: np.ndarray
    z: np.ndarray
    p: np.ndarray
    floor: float


def matched_null(effect: np.ndarray, rank: np.ndarray, detected: np.ndarray, among: np.ndarray) -> MatchedNull:
    """Each mean effect [G] against those of its K nearest genes; only genes `among`, bool [G], take part.

    Near: by mean rank [G] and by number of cells with the gene [G], both as quantiles. K: one in SHARE of the genes, FEWEST
    to NEIGHBOURS. p = 2 (1 + the smaller of the numbers of neighbours at or above and at or below) / (K + 1): exact if the
    gene and they are exchangeable (Phipson and Smyth, 2010). NaN for genes left out, for all if there are at most K.
    """
    nan = np.full(len(effect), np.nan)
    kept = np.flatnonzero(among & ~np.isnan(effect) & ~np.isnan(rank))
    k = int(np.clip(len(kept) // SHARE, FEWEST, NEIGHBOURS))
    if k >= len(kept):
        return MatchedNull(median=nan, z=nan, p=nan, floor=float("nan"))
    place = np.column_stack([rankdata(rank[kept]), rankdata(detected[kept])]) / len(kept)
    near = cKDTree(place).query(place, k + 1)[1]
    other = near != np.arange(len(kept))[:, None]
    other[other.all(1), -1] = False  # among equals the gene itself need not be one of the nearest
    values = effect[kept][near[other].reshape(len(kept), k)]
    mine = effect[kept][:, None]
    above, below = (values >= mine).sum(1), (values <= mine).sum(1)
    median = np.median(values, axis=1)
    scale = 1.4826 * np.median(np.abs(values - median[:, None]), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (effect[kept] - median) / scale
    out = [nan.copy() for _ in range(3)]
    for column, result in zip(
        out, (median, z, np.minimum(1, 2 * (1 + np.minimum(above, below)) / (k + 1))), strict=True
    ):
        column[kept] = result
    return MatchedNull(median=out[0], z=out[1], p=out[2], floor=2 / (k + 1))
