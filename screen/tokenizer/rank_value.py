"""Rank value encoding of count rows: which genes a cell expresses, by falling value.

    v = ((c * (1 / n)) * 10000) * (1 / m)        c count, n total of the cell, m median of the gene

The first two products are taken in the common type of counts and totals (float32 for float32 data), the last in float64:
that decides near-ties (PS 1.3). Exact ties go by ascending column. Explicit zeros and columns without a gene do not
count, columns of one gene are summed first. Two versions of one function: a plain one, which is the oracle and what runs
without numba, and one around a compiled loop.

Legend: R rows (cells), E stored counts, C columns of the file, G genes found in it.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rankshift.screen.cells.ragged import offsets_of, places_of
from rankshift.screen.extras import installed
from rankshift.screen.genes.framing import FrameTokens

SCALE = 10_000  # counts per 10,000, the unit of the medians
NO_LIMIT = 1 << 40  # stands for lists of any length
UNFRAMED = FrameTokens()


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class GeneColumns:
    """What the columns of a count matrix mean.

    gene: int32 (C,), number of the column's gene, -1 for none. Genes are numbered by their column, those with one column
    first, then those with several (the order in which the reference lays out summed genes, PS 1.2).
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
    frame: FrameTokens = UNFRAMED,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank lists of R rows: tokens int32 one row after the other, and lengths int64 (R,).

    data (E,) non-negative finite counts, column (E,) ascending within a row; row r is begin[r]:end[r]. total (R,) positive.
    frame is put around every list; limit is the longest list, frame included. A row without a gene has length 0.
    The first call compiles, see `rank_value_loop`. Without `threads` there is one per core. Without numba (extra `fast`)
    the rows are ranked by `rank_rows_plain`, which gives the same lists.
    """
    if not installed("numba"):
        return rank_rows_plain(data, column, begin, end, total, genes, limit, frame)
    from rankshift.screen.tokenizer.rank_value_loop import (
        rank_rows_loop,  # imported here, because nothing else needs numba
    )

    kind, inverse = _inverse(data, total)
    data = np.ascontiguousarray(data, kind)
    column = np.ascontiguousarray(column, np.int32).view(np.uint32)
    begin, end = np.ascontiguousarray(begin, np.int64), np.ascontiguousarray(end, np.int64)

    token = np.append(genes.token, np.int32(-1))[genes.gene]  # (C,), the last for columns without a gene
    inverse_median = np.append(genes.inverse_median, 0.0)[genes.gene]
    # The latest place at which a row's list can begin.
    room = offsets_of(np.minimum(end - begin + frame.frame.size, limit))
    ids, length = np.empty(int(room[-1]), np.int32), np.empty(len(begin), np.int64)

    def part(rows: tuple[int, int]) -> int:
        chosen = slice(*rows)
        return rank_rows_loop(
            data,
            column,
            begin[chosen],
            end[chosen],
            inverse[chosen],
            kind.type(SCALE),
            genes.gene,
            token,
            inverse_median,
            genes.shared,
            genes.token[genes.shared :],
            genes.inverse_median[genes.shared :],
            limit,
            np.array(frame.head, np.int32),
            np.array(frame.tail, np.int32),
            ids[room[rows[0]] :],
            length[chosen],
        )

    threads = threads or _cores()
    pieces = (
        1 if threads == 1 else min(4 * threads, len(begin) // 64 + 1)
    )  # pieces have like sizes, so that no thread waits long
    edges = np.searchsorted(room, np.linspace(0, room[-1], pieces + 1)).tolist()
    edges[0], edges[-1] = 0, len(begin)
    with ThreadPoolExecutor(threads) as pool:  # the loop runs without the interpreter lock
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
    frame: FrameTokens = UNFRAMED,
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
        if len(ranked):
            ranked = np.concatenate([frame.head, ranked[: frame.frame.room(limit)], frame.tail])
        lists.append(ranked.astype(np.int32))
    return np.concatenate([*lists, np.empty(0, np.int32)]), np.array([len(ids) for ids in lists], np.int64)


def cropped_lists(ids: np.ndarray, length: np.ndarray, limit: int, frame: FrameTokens) -> tuple[np.ndarray, np.ndarray]:
    """Rank lists without limit and frame (flat ids, lengths) cropped and framed as `rank_rows` does."""
    kept = np.minimum(length, frame.frame.room(limit))
    place = places_of(length)
    ids = ids[place < np.repeat(kept, length)]
    if not frame.frame.size:
        return ids, kept
    end = np.cumsum(kept)[kept > 0]
    begin = end - kept[kept > 0]
    at = np.column_stack([*[begin] * len(frame.head), *[end] * len(frame.tail)]).ravel()
    around = np.tile((*frame.head, *frame.tail), len(end))
    return np.insert(ids, at, around), np.where(kept > 0, kept + frame.frame.size, 0)


def _inverse(data: np.ndarray, total: np.ndarray) -> tuple[np.dtype, np.ndarray]:
    """The type of the first products, and 1 / n in it; the division itself is done in the type of n."""
    inverse = np.true_divide(1, total)
    kind = np.dtype(np.float32 if np.result_type(data, inverse) == np.float32 else np.float64)
    return kind, inverse.astype(kind)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
