"""Ragged arrays: lists of different lengths one after the other, as flat values and where each list begins."""

import numpy as np


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Where each list begins, and where the last one ends: int64 (n + 1,) from its lengths (n,).

    >>> offsets_of(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def places_of(counts: np.ndarray) -> np.ndarray:
    """The place of each value in its own list, from 0: int64 (values,).

    >>> places_of(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(int(np.sum(counts))) - np.repeat(np.cumsum(counts) - counts, counts)
