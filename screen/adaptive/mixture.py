"""Effects of genes as a scale mixture of normals, and the posterior of each gene's effect given a noisy mean of it.

    effect_g ~ sum_j pi_j N(mu, tau_j^2),   mean_g | effect_g ~ N(effect_g, v_g)

The tau_j are a grid from 0 to the largest spread the means leave room for; mu is their mean weighted by precision, the pi_j
come of EM. Few strong effects among many weak ones, or none at all, are alike to it. Stephens (2017, False discovery rates: a
new deal) has the same model with a grid for rates; here its posterior shrinks means.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

GRID = 9  # scales; the first is 0
STEPS = 250  # of EM
TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """What is believed of a gene before it is seen: weight, variance float64 [J] of normals around `mean`."""

    mean: float
    weight: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Belief:
    """What is believed of G genes: weight, mean, variance float64 [G, J] of normals."""

    weight: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """float64 [G]: the expectation."""
        return (self.weight * self.mean).sum(1)

    @property
    def sd(self) -> np.ndarray:
        """float64 [G]: the standard deviation."""
        return np.sqrt((self.weight * (self.variance + (self.mean - self.centre[:, None]) ** 2)).sum(1))

    def above(self, value: float) -> np.ndarray:
        """float64 [G]: the probability of more than `value`."""
        return (self.weight * ndtr((self.mean - value) / np.sqrt(np.maximum(self.variance, TINY)))).sum(1)

    def beyond(self, value: float) -> np.ndarray:
        """float64 [G]: the probability of more than `value` in size, in either direction."""
        scale = np.sqrt(np.maximum(self.variance, TINY))
        return self.above(value) + (self.weight * ndtr((-value - self.mean) / scale)).sum(1)

    def widened(self, scale: float) -> "Belief":
        """The same with errors `scale` times as large."""
        return Belief(weight=self.weight, mean=self.mean, variance=self.variance * scale**2)

    def part(self, some: np.ndarray) -> "Belief":
        """Some of the genes."""
        return Belief(weight=self.weight[some], mean=self.mean[some], variance=self.variance[some])


def posterior(mean: np.ndarray, variance: np.ndarray) -> tuple[Belief, Prior]:
    """The effects of G genes whose `mean` [G] was measured with `variance` [G], and the mixture they come from.

    >>> shrunk, prior = posterior(np.array([-1.0, 1.0] * 50 + [10.0]), np.ones(101))
    >>> bool(abs(shrunk.centre[:-1]).max() < 0.5), bool(shrunk.centre[-1] > 8)
    (True, True)
    """
    beyond = mean**2 - variance
    centre = float(np.average(mean, weights=1 / np.maximum(variance + max(float(beyond.mean()), 0.0), TINY)))
    base = float(np.sqrt(max(float(np.median(variance)), TINY)))
    top = 2 * max(np.sqrt(max(float(((mean - centre) ** 2 - variance).max()), 0.0)), base)
    scale = np.concatenate([[0.0], np.geomspace(base / 8, top, GRID - 1) ** 2])
    spread = np.maximum(variance[:, None] + scale, TINY)
    log = -0.5 * np.log(spread) - 0.5 * (mean - centre)[:, None] ** 2 / spread
    likelihood = np.exp(log - log.max(1, keepdims=True))
    share = np.full(GRID, 1 / GRID)
    for _ in range(STEPS):
        weight = likelihood * share
        weight /= weight.sum(1, keepdims=True)
        share = weight.mean(0) + 1e-12  # no scale is ruled out for good
        share /= share.sum()
    weight = likelihood * share
    weight /= weight.sum(1, keepdims=True)
    kept = scale / spread
    belief = Belief(
        weight=weight,
        mean=centre + kept * (mean - centre)[:, None],
        variance=kept * variance[:, None],
    )
    return belief, Prior(mean=centre, weight=share, variance=scale)


def threshold(belief: Belief, top: int, *, absolute: bool = False) -> float:
    """The value that `top` genes are expected to exceed: sum of P(gene > value) = top, by bisection. absolute: in size."""
    centre, sd = np.abs(belief.centre) if absolute else belief.centre, belief.sd
    low = float(np.sort(centre)[-top] - 5 * sd.max() - 1e-12)
    low = max(low, 0.0) if absolute else low
    high = float((centre + 6 * sd).max())
    near = belief.part(centre + 8 * sd > low)
    for _ in range(60):
        middle = (low + high) / 2
        if (near.beyond(middle) if absolute else near.above(middle)).sum() > top:
            low = middle
        else:
            high = middle
    return (low + high) / 2
