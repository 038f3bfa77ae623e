"""Rank value encoding of count rows: which genes a cell expresses, by falling value.

    v = ((c * (1 / n)) * 10000) * (1 / m)        c count, n total of the cell, m median of the gene

The first two products are taken in the common type of counts and totals (float32 for float32 data), the last in float64:
that decides near-ties (semantics 1.3). Exact ties go by ascending column. Explicit zeros and columns without a gene do not
count, columns of one gene are summed first. Two versions of one function: a plain one, which is the oracle, and a C loop.

Legend: R rows (cells), E stored counts, C columns of the file, G genes found in it.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rankshift.screen.compiled import load

SCALE = 10_000  # counts per 10,000, the unit of the medians


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class GeneColumns:
    """What the columns of a count matrix mean.

    gene: int32 (C,), number of the column's gene, -1 for none. Genes are numbered by their column, those with one column
    first, then those with several (the order in which the reference lays out summed genes, semantics 1.2).
    token: int32 (G,). inverse_median: float64 (G,). shared: number of the first gene with several columns.
    """

    gene: np.ndarray
    token: np.ndarray
    inverse_median: np.ndarray
    shared: int


def rank_rows(
    data: np.ndarray,
    column: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    total: np.ndarray,
    genes: GeneColumns,
    limit: int,
    frame: tuple[int, int] | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank lists of R rows: tokens int32 one row after the other, and lengths int64 (R,).

    data (E,) non-negative finite counts, column (E,) ascending within a row; row r is begin[r]:end[r]. total (R,) positive.
    frame puts (<cls>, <eos>) around a list; limit is the longest list, frame included. A row without a gene has length 0.
    """
    loop = _loop()
    if loop is None:
        return rank_rows_plain(data, column, begin, end, total, genes, limit, frame)
    kind, inverse = _inverse(data, total)
    data = np.ascontiguousarray(data, kind)
    column = np.ascontiguousarray(column, np.int32)
    begin, end = np.ascontiguousarray(begin, np.int64), np.ascontiguousarray(end, np.int64)
    function = loop.rank_rows_float if kind == np.float32 else loop.rank_rows_double

    room = np.concatenate(
        [[0], np.cumsum(np.minimum(end - begin + 2, limit))]
    )  # where a row's list may begin at the latest
    ids, length = np.empty(int(room[-1]), np.int32), np.empty(len(begin), np.int64)

    def part(rows: tuple[int, int]) -> int:
        chosen = slice(*rows)
        used = function(
            *(_pointer(a) for a in (data, column, begin[chosen], end[chosen], inverse[chosen])),
            ctypes.c_int64(rows[1] - rows[0]),
            *(_pointer(a) for a in (genes.gene, genes.token, genes.inverse_median)),
            ctypes.c_int32(genes.shared),
            ctypes.c_int32(len(genes.token)),
            ctypes.c_int64(limit),
            ctypes.c_int32(-1 if frame is None else frame[0]),
            ctypes.c_int32(-1 if frame is None else frame[1]),
            _pointer(ids[room[rows[0]] :]),
            _pointer(length[chosen]),
        )
        if used < 0:
            raise MemoryError("no memory for the work space of the rank loop")
        return int(used)

    threads = threads or _cores()
    pieces = 1 if threads == 1 else min(4 * threads, len(begin) // 64 + 1)  # of like size, so that no thread waits long
    edges = np.searchsorted(room, np.linspace(0, room[-1], pieces + 1)).tolist()
    edges[0], edges[-1] = 0, len(begin)
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter lock while the loop runs
        used = list(pool.map(part, pairwise(edges)))
    stop = 0
    for first, n in zip(edges, used, strict=False):  # close the gaps between the pieces
        if stop != room[first]:
            ids[stop : stop + n] = ids[room[first] : room[first] + n]
        stop += n
    return ids[:stop], length


def rank_rows_plain(
    data: np.ndarray,
    column: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    total: np.ndarray,
    genes: GeneColumns,
    limit: int,
    frame: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`rank_rows` in numpy, row by row."""
    kind, inverse = _inverse(data, total)
    lists = []
    for row, (b, e) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        gene, count = genes.gene[column[b:e]], data[b:e].astype(kind)
        if genes.shared < len(genes.token):
            several = gene >= genes.shared
            summed = np.zeros(len(genes.token), kind)
            np.add.at(summed, gene[several], count[several])
            found = np.flatnonzero(summed)
            gene, count = np.append(gene[~several], found), np.append(count[~several], summed[found])
        kept = (gene >= 0) & (count != 0)
        value = count[kept] * inverse[row] * kind.type(SCALE) * genes.inverse_median[gene[kept]]
        ranked = genes.token[gene[kept][np.argsort(-value, kind="stable")]]
        if frame is not None and len(ranked):
            ranked = np.concatenate([frame[:1], ranked[: limit - 2], frame[1:]])
        lists.append(ranked[:limit].astype(np.int32))
    return np.concatenate([*lists, np.empty(0, np.int32)]), np.array([len(ids) for ids in lists], np.int64)


def _inverse(data: np.ndarray, total: np.ndarray) -> tuple[np.dtype, np.ndarray]:
    """The type of the first products, and 1 / n in it; the division itself is done in the type of n."""
    inverse = np.true_divide(1, total)
    kind = np.dtype(np.float32 if np.result_type(data, inverse) == np.float32 else np.float64)
    return kind, inverse.astype(kind)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def _loop() -> ctypes.CDLL | None:
    library = load(_SOURCE)
    if library is not None:
        library.rank_rows_float.restype = library.rank_rows_double.restype = ctypes.c_int64
    return library


# Values are positive, so their bits as integers order like themselves. A row's range of bits is cut to 2 * DIGIT bits and
# sorted by two counting passes, which keep the column order; what shares those bits is put right with the full bits.
_HEAD = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define DIGIT 10
#define BINS (1 << DIGIT)
#define AT(x) ((uint32_t)(x))

static void pass(const uint64_t *from, uint64_t *to, int64_t n, uint32_t *bin, int shift) {
    uint32_t sum = 0;
    for (int b = 0; b < BINS; b++) { uint32_t k = bin[b]; bin[b] = sum; sum += k; }
    for (int64_t i = 0; i < n; i++) to[bin[(from[i] >> shift) & (BINS - 1)]++] = from[i];
}

static int after(const uint64_t *bits, uint64_t x, uint64_t y) {  /* x belongs behind y */
    uint64_t u = bits[AT(x)], v = bits[AT(y)];
    return u < v || (u == v && AT(x) > AT(y));
}

static void merge_sort(uint64_t *a, uint64_t *b, int64_t n, const uint64_t *bits) {
    for (int64_t w = 1; w < n; w *= 2) {
        for (int64_t s = 0; s < n; s += 2 * w) {
            int64_t m = s + w < n ? s + w : n, e = s + 2 * w < n ? s + 2 * w : n, i = s, j = m;
            for (int64_t k = s; k < e; k++) b[k] = i < m && (j >= e || !after(bits, a[i], a[j])) ? a[i++] : a[j++];
        }
        memcpy(a, b, n * sizeof *a);
    }
}

static void sort_falling(const uint64_t *bits, uint64_t *a, uint64_t *b, int64_t n, uint64_t low, uint64_t high) {
    uint32_t bin[2 * BINS];
    int shift = 0;
    while (((high - low) >> shift) >> (2 * DIGIT)) shift++;
    memset(bin, 0, sizeof bin);
    for (int64_t i = 0; i < n; i++) {
        uint64_t q = (high - bits[i]) >> shift;
        a[i] = q << 32 | (uint64_t)i;
        bin[q & (BINS - 1)]++;
        bin[BINS + (q >> DIGIT)]++;
    }
    pass(a, b, n, bin, 32);
    pass(b, a, n, bin + BINS, 32 + DIGIT);
    int64_t moves = 8 * n;  /* neighbours closer than the cut are few; if not, sort in full */
    for (int64_t i = 1; i < n; i++) {
        uint64_t x = a[i];
        int64_t j = i;
        for (; j > 0 && a[j - 1] >> 32 == x >> 32 && after(bits, a[j - 1], x); j--, moves--) a[j] = a[j - 1];
        a[j] = x;
        if (moves < 0) { merge_sort(a, b, n, bits); return; }
    }
}
"""
_BODY = """
int64_t rank_rows_REAL(const REAL *data, const int32_t *column, const int64_t *begin, const int64_t *end,
                       const REAL *inverse_total, int64_t rows, const int32_t *gene, const int32_t *token,
                       const double *inverse_median, int32_t shared, int32_t genes, int64_t limit,
                       int32_t first, int32_t last, int32_t *ids, int64_t *length) {
    int64_t width = 1, used = 0, several = genes - shared;
    for (int64_t r = 0; r < rows; r++) if (end[r] - begin[r] > width) width = end[r] - begin[r];
    uint64_t *bits = malloc(3 * width * sizeof *bits), *a = bits + width, *b = a + width;
    int32_t *tokens = malloc(width * sizeof *tokens);
    REAL *sum = calloc(several + 1, sizeof *sum);
    if (!bits || !tokens || !sum) { free(bits); free(tokens); free(sum); return -1; }
    for (int64_t r = 0; r < rows; r++) {
        uint64_t low = UINT64_MAX, high = 0;
        int64_t n = 0, met = 0;
        REAL scale = inverse_total[r];
#define TAKE(count, g) do { \\
            REAL c_ = (count); int32_t g_ = (g); \\
            double v = (double)(REAL)((REAL)(c_ * scale) * (REAL)10000) * inverse_median[g_]; \\
            uint64_t u; memcpy(&u, &v, 8); \\
            bits[n] = u; tokens[n] = token[g_]; n++; \\
            if (u < low) low = u; \\
            if (u > high) high = u; } while (0)
        for (int64_t i = begin[r]; i < end[r]; i++) {
            int32_t g = gene[column[i]];
            if (g < 0 || data[i] == 0) continue;
            if (g >= shared) { sum[g - shared] += data[i]; met++; } else TAKE(data[i], g);
        }
        for (int64_t s = 0; met && s < several; s++) if (sum[s] != 0) { TAKE(sum[s], shared + (int32_t)s); sum[s] = 0; }
#undef TAKE
        length[r] = 0;
        if (n == 0) continue;
        sort_falling(bits, a, b, n, low, high);
        int64_t most = first < 0 ? limit : limit - 2;
        if (n > most) n = most;
        int32_t *out = ids + used;
        if (first >= 0) *out++ = first;
        for (int64_t i = 0; i < n; i++) *out++ = tokens[AT(a[i])];
        if (first >= 0) *out++ = last;
        length[r] = out - (ids + used);
        used += length[r];
    }
    free(bits); free(tokens); free(sum);
    return used;
}
"""
_SOURCE = _HEAD + "".join(_BODY.replace("REAL", kind) for kind in ("float", "double"))
