"""How well a score puts hits before the other genes, with ties counted as chance would break them, for many resamples at once.

Legend: G genes, B resamples; weights are how often a resample has a gene.
"""

from collections.abc import Iterator

import numpy as np

CHUNK = 4_000_000  # numbers held at a time


def areas(score: np.ndarray, hit: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the receiver operating curve and average precision, float64 [B] each; score [G] falls, hit bool [G].

    Ties share a step: of the first area they count half, of average precision by the precision at their end, as in
    scikit-learn's average_precision_score. weights: float64 [B, G]. NaN where a resample lacks hits or others.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    roc, precision = np.empty(len(weights)), np.empty(len(weights))
    step = max(1, CHUNK // len(score))
    for begin in range(0, len(weights), step):
        part = weights[begin : begin + step][:, order]
        right = np.cumsum(part * hit[order], axis=1)[:, ends]
        wrong = np.cumsum(part * ~hit[order], axis=1)[:, ends]
        new = np.diff(right, axis=1, prepend=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            before = right - new / 2
            roc[begin : begin + step] = (np.diff(wrong, axis=1, prepend=0) * before).sum(1) / (
                right[:, -1] * wrong[:, -1]
            )
            gained = np.where(new > 0, new * right / (right + wrong), 0).sum(1)
            precision[begin : begin + step] = np.where(wrong[:, -1] > 0, gained / right[:, -1], np.nan)
    return roc, precision


def hits_in_top(score: np.ndarray, hit: np.ndarray, top: int) -> float:
    """Expected number of hits among the `top` genes of highest score, ties broken by chance."""
    out = 0.0
    for first, size, hits in _blocks(score, hit):
        if first >= top:
            break
        out += hits * min(1.0, (top - first) / size)
    return out


def mean_reciprocal_rank(score: np.ndarray, hit: np.ndarray) -> float:
    """Mean over hits of 1 / rank, 1 for the highest score; expected where ties are broken by chance."""
    inverse = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(score) + 1))])
    total = sum(hits * (inverse[first + size] - inverse[first]) / size for first, size, hits in _blocks(score, hit))
    return float(total / hit.sum())


def _blocks(score: np.ndarray, hit: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Tied blocks from the highest score down: genes before it, its size, its hits."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    hits = np.add.reduceat(hit[order].astype(np.int64), starts)
    sizes = np.diff(starts, append=len(score))
    yield from zip(starts.tolist(), sizes.tolist(), hits.tolist(), strict=True)
