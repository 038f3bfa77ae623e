"""Exact medians of the values of every gene, for a corpus of any length: values wait on the disk, sorted by gene in runs.

Memory holds one run of values; the disk 8 bytes for every value.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse as sp

CHUNK = 1 << 22  # values sorted at a time: some 150 MB
FILE = "values.bin"


class GeneValues:
    """Gathers (gene, value) pairs in any order. folder: an empty one with room for the values; genes: how many there are."""

    def __init__(self, folder: Path, genes: int) -> None:
        self._path, self._genes = folder / FILE, genes
        self._gathered: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = 0
        self._starts: list[
            np.ndarray
        ] = []  # of every chunk: where the values of each gene begin in the file, [genes + 1]
        self._written = 0
        self._behind = ThreadPoolExecutor(1)  # sorts and writes while the next values are read
        self._writing: Future[None] | None = None

    def add(self, gene: np.ndarray, value: np.ndarray) -> None:
        """Take values: gene int32 [n], value float64 [n]."""
        self._gathered.append((gene, value))
        self._count += len(gene)
        if self._count >= CHUNK:
            self._hand_over()

    def _hand_over(self) -> None:
        """Let what was gathered be written, once what was handed over before is."""
        if self._writing is not None:
            self._writing.result()
        self._writing = self._behind.submit(self._write, self._gathered)
        self._gathered, self._count = [], 0

    def _write(self, gathered: list[tuple[np.ndarray, np.ndarray]]) -> None:
        gene, value = (np.concatenate(one) for one in zip(*gathered, strict=True))
        # A row of a matrix that is stored by column is sorted by counting.
        by_gene = sp.csr_matrix((value, gene, [0, len(gene)]), (1, self._genes)).tocsc()
        with self._path.open("ab") as file:
            by_gene.data.tofile(file)
        self._starts.append(by_gene.indptr.astype(np.int64) + self._written)
        self._written += len(gene)

    def medians(self) -> np.ndarray:
        """float64 [genes]: the median of each gene, of an even number the middle between two; NaN of none."""
        if self._count:
            self._hand_over()
        if self._writing is not None:
            self._writing.result()
        self._behind.shutdown()
        if not self._written:
            return np.full(self._genes, np.nan)
        starts = np.stack(self._starts)  # [chunks, genes + 1]
        total = np.diff(starts, axis=1).sum(axis=0)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found = threads.map(lambda genes: self._medians(starts, *genes), _groups(total))
            return np.concatenate(list(found))

    def _medians(self, starts: np.ndarray, first: int, last: int) -> np.ndarray:
        """The medians of the genes first..last-1, whose values fit into memory."""
        size = np.diff(starts[:, first : last + 1], axis=1)  # [chunks, genes of the group]
        ends = np.cumsum(size.sum(axis=0))
        place = ends - size.sum(axis=0)
        values = np.empty(int(ends[-1]))
        for start, count in zip(starts[:, first], size, strict=True):
            found = np.fromfile(self._path, np.float64, int(count.sum()), offset=8 * int(start))
            before = np.cumsum(count) - count
            values[np.repeat(place - before, count) + np.arange(len(found))] = found
            place = place + count
        return np.array([_median(some) for some in np.split(values, ends[:-1])])


def _groups(total: np.ndarray) -> Iterator[tuple[int, int]]:
    """Genes first..last-1 that together have CHUNK values or so; one gene may have more."""
    group = (np.cumsum(total) - 1) // CHUNK
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(total)]
    return pairwise(edges)


def _median(values: np.ndarray) -> float:
    half = len(values) // 2
    if not len(values):
        return np.nan
    if len(values) % 2:
        return float(np.partition(values, half)[half])
    low, high = np.partition(values, [half - 1, half])[half - 1 : half + 1]
    return float(low + (high - low) * 0.5)
