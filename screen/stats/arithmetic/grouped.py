"""Sums and places of many values by group, a few million values at a time: what is made on the way does not grow with them.

Values are added one after the other in their order, so that the sums are those of one pass to the last bit.
"""

from collections.abc import Callable, Iterator

import numpy as np

CHUNK = 4_000_000  # values at a time: what is made on the way stays below 100 MB


def chunks(count: int) -> Iterator[slice]:
    """Slices that cover `count` values, CHUNK at a time."""
    return (slice(begin, min(begin + CHUNK, count)) for begin in range(0, count, CHUNK))


def whole_groups(edge: np.ndarray) -> Iterator[tuple[int, int]]:
    """First group, and the one after the last, of pieces of about CHUNK values; edge int64 [G + 1]: where each group begins.

    >>> list(whole_groups(np.array([0, 3_000_000, 3_500_000, 9_000_000, 9_000_001])))
    [(0, 2), (2, 3), (3, 4)]
    """
    first = 0
    while first < len(edge) - 1:
        last = max(first + 1, int(np.searchsorted(edge, edge[first] + CHUNK, "right")) - 1)
        yield first, last
        first = last


def grouped_sums(group: np.ndarray, weights: Callable[[slice], np.ndarray], groups: int) -> np.ndarray:
    """float64 [G]: sums of weights by group, int [N] in 0..G-1. weights: those of a slice of the N values; NaN counts as such.

    >>> grouped_sums(np.array([0, 2, 0]), lambda some: np.array([1.0, 2.0, 3.0])[some], 3).tolist()
    [4.0, 0.0, 2.0]
    """
    total: np.ndarray = np.zeros(groups)
    every = np.arange(groups)
    for some in chunks(len(group)):
        there = np.concatenate([every, group[some]])
        total = np.bincount(there, weights=np.concatenate([total, weights(some)]), minlength=groups)
    return total


def grouped_counts(group: np.ndarray, groups: int) -> np.ndarray:
    """int64 [G]: how many of `group`, int [N] in 0..G-1, are of each.

    >>> grouped_counts(np.array([0, 2, 0]), 3).tolist()
    [2, 0, 1]
    """
    total = np.zeros(groups, np.int64)
    for some in chunks(len(group)):
        total += np.bincount(group[some], minlength=groups)
    return total


def places_by_group(group: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Where each value stands when values are sorted by group and keep their order within: int32 [N], int64 of 2^31 and more.

    group int [N]; count int64 [G]: how many values each has.

    >>> places_by_group(np.array([1, 0, 1, 0]), np.array([2, 2])).tolist()
    [2, 0, 3, 1]
    """
    place = np.empty(len(group), np.int32 if len(group) < 1 << 31 else np.int64)
    following = np.cumsum(count) - count
    narrow = len(count) <= 1 << 16  # 16-bit keys are sorted by counting, which takes a tenth of the time
    for some in chunks(len(group)):
        part = group[some]
        order = np.argsort(part.astype(np.uint16) if narrow else part, kind="stable")
        found = np.bincount(part, minlength=len(count))
        first = np.cumsum(found) - found
        place[some.start + order] = np.arange(len(part)) + np.repeat(following - first, found)
        following += found
    return place
