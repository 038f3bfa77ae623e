"""Two Gaussians fitted to numbers by expectation and maximisation, started from two means: scikit-learn's, digit for digit.

The published analysis uses scikit-learn's mixture with its random start (PS B3), so the start draws the same numbers here.
"""

import numpy as np

LEAST_VARIANCE = 1e-6  # added to every variance
ROUNDS, ENOUGH = 100, 1e-3  # of the fit: most rounds, and the rise of the mean log likelihood that ends it
LLOYD, STILL = 300, 1e-4  # of the start: most rounds, and the move of the centres, in variances, that ends it


def two_gaussians(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, variances and weights, float64 [2] each, of the two components of `values` float64 [N]."""
    share = np.eye(2)[_two_means(values - values.mean(), np.random.RandomState(seed))]
    mean, variance, weight = _moments(values, share)
    before = -np.inf
    for _ in range(ROUNDS):
        log = np.log(weight) - 0.5 * (np.log(2 * np.pi * variance) + (values[:, None] - mean) ** 2 / variance)
        likelihood = np.logaddexp(log[:, 0], log[:, 1])
        mean, variance, weight = _moments(values, np.exp(log - likelihood[:, None]))
        if abs(likelihood.mean() - before) < ENOUGH:
            break
        before = likelihood.mean()
    return mean, variance, weight


def _moments(values: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = share.sum(0) + 10 * np.finfo(np.float64).eps
    mean = share.T @ values / count
    variance = (share * (values[:, None] - mean) ** 2).sum(0) / count + LEAST_VARIANCE
    return mean, variance, count / count.sum()


def _two_means(values: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
    """int64 [N], 0 or 1: k-means++ with two tries for the second centre, then Lloyd's rounds."""
    first = values[draw.choice(len(values), p=np.full(len(values), 1 / len(values)))]
    far = (values - first) ** 2
    tries = np.searchsorted(np.cumsum(far), draw.uniform(size=2) * far.sum()).clip(max=len(values) - 1)
    left = [np.minimum(far, (values - values[i]) ** 2).sum() for i in tries]
    centre = np.array([first, values[tries[int(np.argmin(left))]]])
    group = np.full(len(values), -1)
    for _ in range(LLOYD):
        nearest = np.abs(values[:, None] - centre).argmin(1)
        moved = np.array([values[nearest == k].mean() if (nearest == k).any() else centre[k] for k in (0, 1)])
        shift, centre = ((moved - centre) ** 2).sum(), moved
        if (nearest == group).all():
            break
        group = nearest
        if shift <= STILL * values.var():
            break
    return np.abs(values[:, None] - centre).argmin(1)
