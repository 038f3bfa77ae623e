"""Exact tests over donors, for many genes at once: signed ranks of one value per donor, ranks between two groups of donors.

Both are permutation tests of ranks, so that they hold for any number of donors and any distribution (of the first:
symmetric around its centre). Legend: G genes, D donors; NaN is a donor without a value.
"""

from collections.abc import Callable, Iterator
from functools import cache
from math import comb

import numpy as np
from scipy.stats import rankdata

LEVEL = 0.05
CHUNK = 4_000_000  # numbers held at a time


def signed_rank_floor(donors: int) -> float:
    """The smallest two-sided p that signed ranks of so many donors can give: 2 of the 2^D signs.

    >>> signed_rank_floor(8)
    0.0078125
    """
    return min(1.0, 2.0 ** (1 - donors))


def between_floor(donors: int, others: int) -> float:
    """The smallest two-sided p of ranks between two groups of donors: 2 of the ways to draw the first of all."""
    return min(1.0, 2.0 / comb(donors + others, donors))


def signed_rank(values: np.ndarray) -> np.ndarray:
    """Two-sided p float64 [G] of Wilcoxon's signed ranks, exact also with ties; values float64 [G, D], zeros left out.

    NaN for genes without a donor. The probability that random signs give a sum of positive ranks as far from its middle
    (Wilcoxon, 1945; zeros are left out as there).
    """
    size = np.abs(values)
    known = np.isfinite(values) & (size > 0)
    rank = rankdata(np.where(known, size, np.inf), axis=1)
    count = known.sum(1)
    twice = np.rint(2 * np.where(known & (values > 0), rank, 0).sum(1)).astype(np.int64)
    order = np.sort(np.where(known, size, np.nan), axis=1)
    tied = (np.diff(order, axis=1) == 0).any(1) if values.shape[1] > 1 else np.zeros(len(values), bool)
    p = np.full(len(values), np.nan)
    for n in np.unique(count[count > 0]).tolist():
        some = (count == n) & ~tied
        p[some] = _tails(_signs(tuple(range(2, 2 * n + 1, 2))), twice[some])
    for gene in np.flatnonzero(tied):
        ranks = np.rint(2 * rank[gene, known[gene]]).astype(int)
        p[gene] = _tails(_signs(tuple(sorted(ranks.tolist()))), twice[gene : gene + 1])[0]
    p[(count == 0) & np.isfinite(values).any(1)] = 1.0  # nothing but zeros
    return p


def rank_between(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two-sided p float64 [G] of the rank-sum test, exact also with ties; values float64 [G, D], other: bool [D], second group.

    Twice the smaller share of the ways to draw the first group whose ranks sum to as much, or as little (Wilcoxon, 1945).
    NaN where a group has no donor.
    """
    p = np.full(len(values), np.nan)
    for some, part in _by_pattern(values):
        if not (part & ~other).any() or not (part & other).any():
            continue
        twice = np.rint(2 * rankdata(values[np.ix_(some, part)], axis=1)).astype(np.int64)
        sums = twice[:, ~other[part]].sum(1)
        plain = tuple(range(2, 2 * twice.shape[1] + 1, 2))
        ordered = np.sort(twice, axis=1)
        tied = (ordered != plain).any(1)
        p[some[~tied]] = _tails(_draws(plain, int((part & ~other).sum())), sums[~tied])
        for row in np.flatnonzero(tied).tolist():
            chance = _draws(tuple(ordered[row].tolist()), int((part & ~other).sum()))
            p[some[row]] = _tails(chance, sums[row : row + 1])[0]
    return p


def centre(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hodges-Lehmann centre and its exact 95 % interval, three float64 [G], of values float64 [G, D] (NaN: no donor).

    The median of the Walsh averages (x_i + x_j) / 2, i <= j, and those of them between which signed ranks do not refuse
    the centre at LEVEL (Hollander, Wolfe and Chicken, 2014, section 3.3). Fewer than six donors give no such interval: NaN.
    """
    out = np.full((3, len(values)), np.nan)
    for n, some, x in _by_count(values):
        i, j = np.triu_indices(n)
        width = max(1, CHUNK // len(i))
        for begin in range(0, len(some), width):
            part = x[begin : begin + width]
            walsh = np.sort((part[:, i] + part[:, j]) / 2, axis=1)
            low, high = np.full((2, len(part)), np.nan)
            if (cut := _cut(n)) is not None:
                low, high = walsh[:, cut], walsh[:, len(i) - 1 - cut]
            out[:, some[begin : begin + width]] = np.median(walsh, axis=1), low, high
    return out[0], out[1], out[2]


def centre_between(values: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of the first group of donors minus the second: median of all differences, and the interval by rank sums."""
    out = np.full((3, len(values)), np.nan)
    for some, part in _by_pattern(values):
        mine, theirs = part & ~other, part & other
        m, n = int(mine.sum()), int(theirs.sum())
        if not m or not n:
            continue
        a, b = values[np.ix_(some, mine)], values[np.ix_(some, theirs)]
        apart = np.sort((a[:, :, None] - b[:, None, :]).reshape(len(some), -1), axis=1)
        out[0, some] = np.median(apart, axis=1)
        if (cut := _cut_between(m, n)) is not None:
            out[1, some], out[2, some] = apart[:, cut], apart[:, m * n - 1 - cut]
    return out[0], out[1], out[2]


def leave_out(
    values: np.ndarray, part_of: np.ndarray, middle: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest `middle` of the genes, float64 [G] each, when one part of the donors is left out at a time.

    values float64 [G, D]; part_of int [D]: donors of a number are left out together. Of a gene only the parts count in
    which it has values.
    """
    low, high = np.full(len(values), np.inf), np.full(len(values), -np.inf)
    for one in np.unique(part_of):
        gone = part_of == one
        touched = np.isfinite(values[:, gone]).any(1)
        found = np.full(len(values), np.nan)
        found[touched] = middle(np.where(gone, np.nan, values[touched]))
        low, high = np.fmin(low, found), np.fmax(high, found)
    return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)


@cache
def _signs(ranks: tuple[int, ...]) -> np.ndarray:
    """Probability of every sum 0, 1, … of the ranks (doubled, whole) that random signs make positive."""
    chance = np.ones(1)
    for rank in ranks:
        longer = np.zeros(len(chance) + rank)
        longer[: len(chance)] += chance / 2
        longer[rank:] += chance / 2
        chance = longer
    return chance


@cache
def _draws(ranks: tuple[int, ...], count: int) -> np.ndarray:
    """Probability of every sum 0, 1, … of `count` of the ranks (doubled, whole), drawn without putting back."""
    chance = np.zeros((count + 1, sum(ranks) + 1))
    chance[0, 0] = 1
    for rank in ranks:
        chance[1:, rank:] += chance[:-1, : chance.shape[1] - rank].copy()
    return chance[count] / comb(len(ranks), count)


def _tails(chance: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Twice the smaller tail at the sums `at`, 1 at most."""
    below, above = np.cumsum(chance), np.cumsum(chance[::-1])[::-1]
    return np.minimum(1.0, 2 * np.minimum(below[at], above[at]))


@cache
def _cut(donors: int) -> int | None:
    """How many Walsh averages lie outside the interval at either end; None where not even the outermost is far enough."""
    below = np.cumsum(_signs(tuple(range(1, donors + 1))))
    far = np.flatnonzero(2 * below <= LEVEL)
    return int(far[-1]) if len(far) else None


@cache
def _cut_between(m: int, n: int) -> int | None:
    below = np.cumsum(_draws(tuple(range(1, m + n + 1)), m)[m * (m + 1) // 2 :])  # by pairs, from none on
    far = np.flatnonzero(2 * below <= LEVEL)
    return int(far[-1]) if len(far) else None


def _by_count(values: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number of donors, genes with so many, their values without the missing ones [genes, number]."""
    order = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(1)
    for n in np.unique(count[count > 0]).tolist():
        some = np.flatnonzero(count == n)
        yield n, some, order[some, :n]


def _by_pattern(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Genes that have values in the same donors, and which these are, bool [D]."""
    patterns, number = np.unique(np.isfinite(values), axis=0, return_inverse=True)
    number = number.reshape(-1)
    order = np.argsort(number, kind="stable")
    for pattern, some in zip(patterns, np.split(order, np.cumsum(np.bincount(number))[:-1]), strict=True):
        yield some, pattern
