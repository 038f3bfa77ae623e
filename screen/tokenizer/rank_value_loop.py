"""The compiled loop of the rank value encoding, for numba; `rank_value` calls it and says what it computes.

The first call with a type of counts compiles, in less than 3 s; the machine code is kept beside this file in `__pycache__`,
or in the user's cache folder where that cannot be written. If neither can, each process compiles again. Importing
this module imports numba, so only ranking imports it.

Values are positive, so their bits as integers order like themselves. A row's range of bits is cut to 2 * DIGIT bits and
sorted by two counting passes, which keep the column order; what shares those bits is put right with the full bits.
A key is a uint64: the cut bits, counted down from the largest value, above the entry's place in the row (32 bits).
No fastmath: products rounded otherwise than numpy rounds them would order near-ties differently.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

DIGIT = 10
BINS = 1 << DIGIT

# numba makes uint64 and int64 together a float64, so constants that meet keys are uint64 too.
_PLACE = np.uint64(32)  # bits of a key below the cut value
_DIGIT = np.uint64(DIGIT)
_LAST_BIN = np.uint64(BINS - 1)
_NONE, _ONE = np.uint64(0), np.uint64(1)
_MOST = np.uint64(2**64 - 1)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code that lets other threads run."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder can be written, as in a read-only container: every process compiles anew
        return njit(nogil=True)(function)


@compiled
def _after(bits: np.ndarray, x: int, y: int) -> bool:
    """Whether key x belongs behind key y: by falling value, ties by ascending place."""
    i, j = np.uint32(x), np.uint32(y)
    return bool(bits[i] < bits[j] or (bits[i] == bits[j] and i > j))


@compiled
def _counting_pass(keys: np.ndarray, out: np.ndarray, bins: np.ndarray, shift: int) -> None:
    """Order keys by the digit at `shift`, keeping what is equal in order; bins holds how often each digit occurs."""
    start = np.uint32(0)
    for b in range(BINS):
        count = bins[b]
        bins[b] = start
        start += count
    for i in range(len(keys)):
        digit = (keys[i] >> shift) & _LAST_BIN
        out[bins[digit]] = keys[i]
        bins[digit] += np.uint32(1)


@compiled
def _merge_sort(bits: np.ndarray, keys: np.ndarray, spare: np.ndarray) -> None:
    n, width = len(keys), 1
    while width < n:
        for start in range(0, n, 2 * width):
            middle, end = min(start + width, n), min(start + 2 * width, n)
            i, j = start, middle
            for k in range(start, end):
                if i < middle and (j >= end or not _after(bits, keys[i], keys[j])):
                    spare[k] = keys[i]
                    i += 1
                else:
                    spare[k] = keys[j]
                    j += 1
        for k in range(n):
            keys[k] = spare[k]
        width *= 2


@compiled
def _sort_falling(bits: np.ndarray, keys: np.ndarray, spare: np.ndarray, bins: np.ndarray) -> None:
    """Fill keys with those of the values of a row, by falling value; spare and bins are work space."""
    n, low, high, shift = len(bits), _MOST, _NONE, _NONE
    for i in range(n):
        low, high = min(low, bits[i]), max(high, bits[i])
    while ((high - low) >> shift) >> (_DIGIT + _DIGIT) != 0:
        shift += _ONE
    bins.fill(0)
    for i in range(n):
        cut = (high - bits[i]) >> shift
        keys[i] = cut << _PLACE | np.uint64(i)
        bins[0, cut & _LAST_BIN] += np.uint32(1)
        bins[1, cut >> _DIGIT] += np.uint32(1)
    _counting_pass(keys, spare, bins[0], _PLACE)
    _counting_pass(spare, keys, bins[1], _PLACE + _DIGIT)
    moves = 8 * n  # neighbours closer than the cut are few; if not, sort in full
    for i in range(1, n):
        if keys[i - 1] >> _PLACE != keys[i] >> _PLACE:
            continue
        key, j = keys[i], i
        while j > 0 and keys[j - 1] >> _PLACE == key >> _PLACE and _after(bits, keys[j - 1], key):
            keys[j] = keys[j - 1]
            j -= 1
            moves -= 1
        keys[j] = key
        if moves < 0:
            _merge_sort(bits, keys, spare)
            return


@compiled
def rank_rows_loop(
    data: np.ndarray,
    column: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    inverse_total: np.ndarray,
    scale: float,
    gene: np.ndarray,
    token: np.ndarray,
    inverse_median: np.ndarray,
    shared: int,
    shared_token: np.ndarray,
    shared_inverse_median: np.ndarray,
    limit: int,
    head: np.ndarray,
    tail: np.ndarray,
    ids: np.ndarray,
    length: np.ndarray,
) -> int:
    """Write the rank lists of R rows to ids, one after the other, and their lengths (R,); returns how many ids.

    data, inverse_total and scale are of the type of the first products. column is uint32, which spares numba a test for
    negative places. gene, token and inverse_median are those of the C columns, shared_token and shared_inverse_median
    those of the genes from number `shared` on, whose columns are summed. head and tail are put around every list.
    """
    width, several, used = 1, len(shared_token), 0
    for row in range(len(begin)):
        width = max(width, end[row] - begin[row])
    value, tokens = np.empty(width, np.float64), np.empty(width, np.int32)
    bits = value.view(np.uint64)
    keys, spare = np.empty(width, np.uint64), np.empty(width, np.uint64)
    bins = np.empty((2, BINS), np.uint32)
    summed = np.zeros(several, data.dtype)
    most = limit - len(head) - len(tail)

    for row in range(len(begin)):
        n, met = 0, False
        for i in range(begin[row], end[row]):
            c = column[i]
            if gene[c] >= shared:
                summed[gene[c] - shared] += data[i]
                met = True
                continue
            value[n] = np.float64(data[i] * inverse_total[row] * scale) * inverse_median[c]
            tokens[n] = token[c]
            n += (gene[c] >= 0) & (
                data[i] != 0
            )  # the next entry overwrites one that does not count: cheaper than a branch
        if met:
            for s in range(several):
                if summed[s] != 0:
                    value[n] = np.float64(summed[s] * inverse_total[row] * scale) * shared_inverse_median[s]
                    tokens[n] = shared_token[s]
                    summed[s] = 0
                    n += 1
        length[row] = 0
        if n == 0:
            continue
        _sort_falling(bits[:n], keys[:n], spare[:n], bins)
        first = used
        for t in head:
            ids[used] = t
            used += 1
        for i in range(min(n, most)):
            ids[used] = tokens[np.uint32(keys[i])]
            used += 1
        for t in tail:
            ids[used] = t
            used += 1
        length[row] = used - first
    return used
