"""Does a finished gene have an effect of its own, beyond what its cells and its ranks do to any gene?

    d_r = y_r - (B(rank_r) b + B(rank_r) w_c),   t = mean(d) / (sd(d) / sqrt(n)), n - 1 degrees of freedom, over its cells

with the trend of module `trend`, fitted without the prediction, which would explain effects of genes away. Genes that are not
finished count as p = 1 in the false discovery rate: what was set aside can lose an effect, and make no false one. Benjamini and
Hochberg (1995, Controlling the false discovery rate).
"""

import numpy as np
from scipy.special import stdtr

from rankshift.screen.adaptive.population import Population
from rankshift.screen.adaptive.trend import fit


def any_effect(
    of: Population, values: np.ndarray, fitted: np.ndarray, finished: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """p and false discovery rate of every gene, float64 [G], NaN where it is not finished or in one cell alone.

    values float64 [N], known where genes are finished. fitted int64: rows that were drawn, whatever their values; where one of
    them is judged, it is as if the trend had been fitted without it.
    """
    trend = fit(of.with_prediction(None), fitted, values[fitted])
    rest = values - trend.predicted
    rest[fitted] = trend.residual
    rows = np.flatnonzero(finished[of.gene])
    count = of.sums(rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = of.sums(rows, rest[rows]) / count
        square = of.sums(rows, (rest[rows] - mean[of.gene[rows]]) ** 2)
        t = mean / np.sqrt(square / (count - 1) / count)
        p = np.where(finished & (count > 1), 2 * stdtr(np.maximum(count - 1, 1), -np.abs(t)), np.nan)
    return p, np.where(np.isnan(p), np.nan, benjamini_hochberg(np.where(np.isnan(p), 1.0, p)))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """The false discovery rate at which each of G tests is called, float64 [G].

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 1.0])).round(4).tolist()
    [0.04, 0.0533, 0.0533, 1.0]
    """
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    out = np.empty(len(p))
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out
