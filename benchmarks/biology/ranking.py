"""How well a score ranks known genes above others: the area under the ROC curve, its interval, and matched others."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """AUROC of `positives` known genes against `negatives` others; low, high: 95 % bootstrap interval over genes."""

    auroc: float
    low: float
    high: float
    positives: int
    negatives: int


def auroc(known: np.ndarray, others: np.ndarray) -> float:
    """Probability that a known gene's score is above another's, ties counted half (Mann-Whitney U / n m)."""
    ranks = rankdata(np.concatenate([known, others]))
    n = len(known)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(others)))


def area(score: np.ndarray, known: np.ndarray, among: np.ndarray, seed: int = 0) -> Area:
    """AUROC of `score` [G] for the genes `known`, bool [G], against those `among`, bool [G], that are not.

    The interval resamples known genes and others, each among themselves; NaN scores are the lowest.
    """
    score = np.where(np.isnan(score), -np.inf, score)
    yes, no = score[known], score[among & ~known]
    rng = np.random.default_rng(seed)
    drawn = [auroc(rng.choice(yes, len(yes)), rng.choice(no, len(no))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Area(auroc=auroc(yes, no), low=float(low), high=float(high), positives=len(yes), negatives=len(no))


def alike(known: np.ndarray, *traits: np.ndarray, count: int) -> np.ndarray:
    """bool [G]: genes among the `count` nearest of any known gene in all traits [G], as quantiles; known genes excepted."""
    place = np.column_stack([rankdata(t) for t in traits]) / len(known)
    others = np.flatnonzero(~known & ~np.isnan(place).any(1))
    near = cKDTree(place[others]).query(place[known], min(count, len(others)))[1]
    out = np.zeros(len(known), bool)
    out[others[np.unique(near)]] = True
    return out
