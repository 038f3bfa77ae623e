"""Which genes could still be called at a false discovery rate, if all their cells were measured.

The test of `any_effect` calls gene g where |d_g| > t_g(p) s_g, with d_g its mean over all its cells beyond cell and rank, s_g
the standard error of that, t_g(p) the quantile of Student's t with n_g - 1 degrees of freedom, and p the value below which
Benjamini and Hochberg call: of G genes, p = rate x (genes below p) / G. While a gene is not measured in all its cells, d_g is
what is believed of it, so that

    P_g(p) = P(|d_g| > slack t_g(p) s_g),   p the largest with   rate x sum_g P_g(p) >= p G,   rate / G where there is none

slack below 1: predictions make effects of genes smaller, and a gene's own spread may be less than that of others. In drawn
tables of weak effects, 1 lost a fifth or more of what the full screen calls, 0.75 at most a twelfth.
"""

from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from rankshift.screen.adaptive.mixture import Belief
from rankshift.screen.adaptive.model import noise
from rankshift.screen.adaptive.population import Population
from rankshift.screen.adaptive.trend import Trend

SLACK = 0.75
STEPS = 60  # of the grid of p, even in its logarithm


def chance_to_pass(
    of: Population, now: Belief, values: np.ndarray, fitted: np.ndarray, plain: Trend, rate: float, slack: float = SLACK
) -> np.ndarray:
    """float64 [G]: the probability that a gene is called at `rate`, if it is finished.

    now: of the means of genes. plain: the trend without the prediction, as `any_effect` fits it on the rows `fitted` int64, of
    which `values` float64 [N] are known.
    """
    cells_and_ranks = plain.predicted.copy()
    cells_and_ranks[fitted] = values[fitted] - plain.residual
    every = np.arange(len(of))
    count = of.count.astype(np.float64)
    beyond = replace(now, mean=now.mean - (of.sums(every, cells_and_ranks) / count)[:, None])
    error = np.sqrt(of.sums(every, noise(of, fitted, plain))) / count

    def chance(p: float) -> np.ndarray:
        needed = -stdtrit(np.maximum(count - 1, 1), p / 2) * error * slack
        return np.where(count > 1, beyond.beyond(needed[:, None]), 0.0)

    least = rate / of.genes
    for p in np.geomspace(rate, least, STEPS):
        found = chance(float(p))
        if rate * found.sum() >= p * of.genes:
            return found
    return chance(least)
