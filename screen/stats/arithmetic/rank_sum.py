"""Wilcoxon rank-sum tests of many genes at once, by sorting integers: no loop over genes, no float sorted twice.

Legend: N values, G groups (genes), R values of a sample. Two-sided normal approximations throughout; whoever calls says
whether ties are corrected for. NaN is refused by the caller, not here.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from rankshift.screen.stats.arithmetic.grouped import CHUNK, chunks, grouped_counts, whole_groups

AT_ONCE = 16_000_000  # values sorted at a time, 0.7 GB with what is made of them
SAMPLE = 1 << 16  # values that say where to cut the others into ranges of about AT_ONCE
LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankSum:
    """Result per group, float64 [G]. Donors without values, or without any to compare with, have NaN.

    superiority: chance that a value of the group exceeds one it is compared with, ties counted half (U / n1 n2); 0.5 is
    no difference. error: its standard error if there is none; 0 where all values are tied.
    """

    superiority: np.ndarray
    error: np.ndarray

    def z_around(self, centre: float) -> np.ndarray:
        """How far the superiority is from `centre`, in standard errors; 0 where all values are tied."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.error == 0, 0.0, (self.superiority - centre) / self.error)

    @property
    def z(self) -> np.ndarray:
        """The test statistic; positive: the group lies higher."""
        return self.z_around(0.5)

    @property
    def p(self) -> np.ndarray:
        """Two-sided p-value."""
        return two_sided(self.z)


def ordered_bits(values: np.ndarray) -> np.ndarray:
    """uint32 [N] that compare as the float32 `values` do, with -0.0 equal to 0.0.

    >>> ordered_bits(np.array([-1.0, -0.0, 0.0, 2.5])).argsort(kind="stable").tolist()
    [0, 1, 2, 3]
    """
    bits = (np.asarray(values, np.float32) + np.float32(0)).view(np.uint32)
    flip = (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(0x80000000)
    return bits ^ flip


def two_sided(z: np.ndarray) -> np.ndarray:
    """2 Phi(-|z|)."""
    return 2 * ndtr(-np.abs(z))


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of every run of equal neighbours."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return starts, np.diff(starts, append=len(keys))


def _result(u: np.ndarray, pairs: np.ndarray, variance: np.ndarray) -> RankSum:
    with np.errstate(invalid="ignore", divide="ignore"):
        return RankSum(
            superiority=u / pairs, error=np.where(pairs > 0, np.sqrt(np.maximum(variance, 0)) / pairs, np.nan)
        )


def against_rest(group: np.ndarray, values: np.ndarray, groups: int) -> RankSum:
    """Each group against all values of all other groups, corrected for ties.

    group int [N] in 0..G-1, values float32 [N]. The pool is the same for every group (its own values and the rest), so one
    sort serves them all: W = sum of midranks, U = W - n(n+1)/2, and with T = sum of t^3 - t over the tied blocks
    var = n (N-n)/12 (N + 1 - T / (N(N-1)))   (Lehmann, Nonparametrics, 1975, section 1.4)
    """
    total, below = len(values), 0
    sums, ties = np.zeros(groups), 0.0  # multiples of a half below 2^53: exact, whatever is added first
    for some_group, some in _by_value(np.asarray(group), np.asarray(values, np.float32)):
        keys = (ordered_bits(some).astype(np.uint64) << np.uint64(32)) | some_group.astype(np.uint64)
        keys.sort()
        starts, counts = _runs(keys >> np.uint64(32))
        rank = np.repeat(starts + below + (counts + 1) / 2, counts)
        tied = counts[counts > 1].astype(np.float64)
        keys &= LOW
        sums += np.bincount(keys.view(np.int64), weights=rank, minlength=groups)
        ties += float((tied**3 - tied).sum())
        below += len(some)
    n = grouped_counts(group, groups).astype(np.float64)
    pairs = n * (total - n)
    variance = pairs / 12 * (total + 1 - ties / max(total * (total - 1), 1))
    return _result(sums - n * (n + 1) / 2, pairs, variance)


def _by_value(group: np.ndarray, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups and values, from the lowest values to the highest: AT_ONCE at a time, more where more are equal."""
    if len(values) <= AT_ONCE:
        yield group, values
        return
    sample = np.sort(values[:: -(-len(values) // SAMPLE)])
    inner = np.unique(sample[:: len(sample) * AT_ONCE // len(values) + 1][1:])
    for low, high in zip([-np.inf, *inner], [*inner, np.inf], strict=True):
        found = []
        for some in chunks(len(values)):
            part = values[some]
            kept = np.flatnonzero((part >= low) & ((part < high) | (high == np.inf)))
            found.append((group[some][kept], part[kept]))
        yield np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def against_sample(offsets: np.ndarray, values: np.ndarray, sample: np.ndarray) -> RankSum:
    """Each group against one sample, as the published statistics do: no correction for ties (PS 4.1).

    values float32 [N] group after group, group g is values[offsets[g]:offsets[g + 1]]; sample float32 [R].
    """
    sample = np.sort(sample)
    n = np.diff(offsets).astype(np.float64)
    twice = np.zeros(len(n), np.float64)  # 2 U: sample values below plus those not above
    group = np.repeat(np.arange(len(n), dtype=np.int32), np.diff(offsets))
    for i in range(0, len(values), CHUNK):
        part = values[i : i + CHUNK]
        count = np.searchsorted(sample, part, "left") + np.searchsorted(sample, part, "right")
        twice += np.bincount(group[i : i + CHUNK], weights=count, minlength=len(n))
    pairs = n * len(sample)
    return _result(twice / 2, pairs, pairs * (n + len(sample) + 1) / 12)


def between(
    group: np.ndarray, values: np.ndarray, other_group: np.ndarray, other: np.ndarray, groups: int, *, ties: bool
) -> RankSum:
    """The values of every group against the `other` values of the same group; `ties`: correct for them.

    group int [N], values float32 [N], other_group int [M], other float32 [M]; at most 2^31 groups.
    """

    def keys_of(number: np.ndarray, value: np.ndarray, flag: int) -> np.ndarray:
        keys = (np.asarray(number).astype(np.uint64) << np.uint64(33)) | np.uint64(flag)
        keys |= ordered_bits(value).astype(np.uint64) << np.uint64(1)
        return keys

    keys = np.concatenate([keys_of(group, values, 0), keys_of(other_group, other, 1)])
    keys.sort()
    n = np.bincount(group, minlength=groups).astype(np.float64)
    m = np.bincount(other_group, minlength=groups).astype(np.float64)
    edge = np.concatenate([[0], np.cumsum(n + m)]).astype(np.int64)  # where each group begins among the sorted
    sums, tied = np.zeros(groups), np.zeros(groups)
    for first, last in whole_groups(edge):
        part = keys[edge[first] : edge[last]]
        if len(part):
            starts, counts = _runs(part >> np.uint64(1))
            owner = (part[starts] >> np.uint64(33)).astype(np.int64) - first
            rank = starts + edge[first] - edge[first + owner] + (counts + 1) / 2
            mine = np.add.reduceat(1 - (part & np.uint64(1)).astype(np.int64), starts)
            sums[first:last] = np.bincount(owner, weights=rank * mine, minlength=last - first)
            block = counts.astype(np.float64)
            tied[first:last] = np.bincount(owner, weights=block**3 - block, minlength=last - first)
    total, pairs = n + m, n * m
    correction = tied / np.maximum(total * (total - 1), 1) if ties else 0.0
    return _result(sums - n * (n + 1) / 2, pairs, pairs / 12 * (total + 1 - correction))


def within_strata(
    stratum: np.ndarray, group: np.ndarray, values: np.ndarray, groups: int, *, order: np.ndarray | None = None
) -> RankSum:
    """Each group against the other values of the same stratum (cell), summed over strata (van Elteren, 1960).

    stratum, group int [N], values float32 [N]; order int [M]: which of them take part, by default all. stratum must not fall
    along it. In a stratum of m values a midrank r scores
    (r - (m+1)/2) / (m+1), of variance ((m^3 - m) - sum(t^3 - t)) / (12 m) / (m+1)^2 when the group is no different there.
    A stratum of one value says nothing. superiority: mean of r / (m+1). For one value of a group per stratum.
    """
    score, spread, compared = np.zeros(groups), np.zeros(groups), np.zeros(groups)
    shift = np.uint64(max(int(groups - 1).bit_length(), 1))
    count = len(stratum) if order is None else len(order)
    row: Callable[[int], int] = (lambda i: i) if order is None else order.__getitem__
    last = int(stratum[row(count - 1)]) + 1 if count else 0
    few = CHUNK * last // max(count, 1) + 1
    strata = min(1 << max(0, 32 - int(shift)), few)  # numbered in the bits that value and group leave free
    b = 0
    for begin in range(0, last, strata):
        a, b = b, bisect_left(range(count), begin + strata, lo=b, key=lambda i: stratum[row(i)])
        if a == b:
            continue
        some = slice(a, b) if order is None else order[a:b]
        keys = (np.asarray(stratum[some]) - begin).astype(np.uint64) << (shift + np.uint64(32))
        keys |= ordered_bits(values[some]).astype(np.uint64) << shift
        keys |= np.asarray(group[some]).astype(np.uint64)
        keys.sort()
        of_stratum = (keys >> (shift + np.uint64(32))).astype(np.int64)
        size = np.bincount(of_stratum).astype(np.float64)
        starts, counts = _runs(keys >> shift)
        owner = of_stratum[starts]
        first = np.concatenate([[0], np.cumsum(size)[:-1]])
        rank = starts - first[owner] + (counts + 1) / 2
        block = counts.astype(np.float64)
        ties = np.bincount(owner, weights=block**3 - block, minlength=len(size))
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = ((size**3 - size) - ties) / (12 * size) / (size + 1) ** 2
        m = size[owner]
        number = (keys & ((np.uint64(1) << shift) - np.uint64(1))).astype(np.int64)
        score += np.bincount(number, weights=np.repeat((rank - (m + 1) / 2) / (m + 1), counts), minlength=groups)
        spread += np.bincount(number, weights=variance[of_stratum], minlength=groups)
        compared += np.bincount(number, weights=(size > 1)[of_stratum], minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return RankSum(superiority=0.5 + score / compared, error=np.sqrt(spread) / compared)
