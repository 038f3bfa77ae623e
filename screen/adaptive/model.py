"""What is believed of every gene's mean over its cells while only some of its rows are measured.

    mean_g = (sum of measured y + sum over the others of (predicted + gamma_g)) / n_g

gamma_g is what the gene adds to cell, rank and prediction: its measured residuals, weighted by precision, are shrunk as a scale
mixture of normals (module `mixture`). The variance adds that of gamma_g and the noise of the rows not measured; where none is
left, the mean is that of the full screen and has no variance. Sums are float64 in the order of the population.
"""

import numpy as np

from rankshift.screen.adaptive.mixture import Belief, posterior
from rankshift.screen.adaptive.population import Population
from rankshift.screen.adaptive.trend import Trend

BINS = 8  # of rank, with a noise of their own
LEAST_SHARE = 0.25  # of a bin's squared residuals that stays noise, however little is known of its cells


def noise(of: Population, rows: np.ndarray, trend: Trend) -> np.ndarray:
    """float64 [N]: variance of a row around what the trend says of it, from the rows int64 [P] that it was fitted on.

    Squared residuals by bins of rank, less the part that comes of the cells' coefficients, which every row adds for itself.
    Effects of genes are in it, so it is rather too large than too small.
    """
    edges = np.quantile(of.rank[rows], np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.searchsorted(edges, of.rank)
    fitted = bins[rows]
    count = np.maximum(np.bincount(fitted, minlength=BINS), 1)
    square = np.bincount(fitted, trend.residual**2, BINS) / count
    own = np.bincount(fitted, trend.variance[rows], BINS) / count
    return np.maximum(square - own, LEAST_SHARE * square)[bins] + trend.variance


def belief(of: Population, seen: np.ndarray, values: np.ndarray, fitted: np.ndarray, trend: Trend) -> Belief:
    """What is believed of the mean of every gene, given the rows `seen` bool [N] with `values` float64 [N].

    fitted int64 [P]: the rows that the trend was fitted on; their residuals are those of the fit that left them out.
    """
    variance = np.maximum(noise(of, fitted, trend), 1e-300)
    residual = values - trend.predicted
    residual[fitted] = trend.residual
    measured, left = np.flatnonzero(seen), np.flatnonzero(~seen)
    precision = of.sums(measured, 1 / variance[measured])
    some = precision > 0
    centre = of.sums(measured, residual[measured] / variance[measured])[some] / precision[some]
    shrunk, prior = posterior(centre, 1 / precision[some])
    weight, gamma, spread = (np.tile(one, (of.genes, 1)) for one in (prior.weight, prior.weight, prior.variance))
    gamma[:] = prior.mean
    weight[some], gamma[some], spread[some] = shrunk.weight, shrunk.mean, shrunk.variance
    open_ = of.sums(left)[:, None]
    known = of.sums(measured, values[measured]) + of.sums(left, trend.predicted[left])
    count = of.count[:, None].astype(np.float64)
    return Belief(
        weight=weight,
        mean=(known[:, None] + open_ * gamma) / count,
        variance=(open_**2 * spread + of.sums(left, variance[left])[:, None]) / count**2,
    )
