"""A vocabulary from a corpus of count matrices: the median of every gene over the cells that express it.

Medians belong to a model: make them once for the data it is pretrained on, never again for data it is used on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import scratch
from rankshift.screen.genes.vocabulary import CLS, EOS, MASK, PAD, Vocabulary, plain_id
from rankshift.screen.tokenizer.counts import Counts, again, filter_pass, row_sums, totals
from rankshift.screen.tokenizer.endings import count_files
from rankshift.screen.tokenizer.formats import open_counts
from rankshift.screen.tokenizer.gene_columns import SYMBOL_COLUMNS, ensembl_column, var_labels
from rankshift.screen.tokenizer.medians import GeneValues
from rankshift.screen.tokenizer.rank_value import SCALE

SPECIALS = {"v1": (PAD, MASK), "v2": (PAD, MASK, CLS, EOS)}


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyReport:
    """What a vocabulary was made from; `str` gives it as text."""

    out: Path
    genes: int
    generation: str
    cells: int
    unused_cells: int  # filter_pass is not 1, or n_counts is 0
    undetected: int  # genes of the files that no used cell expresses
    foreign: int  # columns whose name is no Ensembl id
    exact: bool
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [
            f"{self.out}: {self.genes} genes and {len(SPECIALS[self.generation])} specials ({self.generation}) "
            f"from {self.cells} cells, medians {'exact' if self.exact else 'approximate (t-digest)'}"
        ]
        left = [(self.unused_cells, "cells not used: filter_pass is not 1, or n_counts is 0")]
        left += [(self.undetected, "genes left out: in no cell"), (self.foreign, "columns left out: no Ensembl id")]
        lines += [f"  {n} {what}" for n, what in left if n]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def build_vocabulary(
    data: Path | Sequence[Path],
    out: Path,
    *,
    generation: str = "v1",
    exact: bool = True,
    gene_column: str | None = None,
    layer: str | None = None,
) -> VocabularyReport:
    """Write vocabulary.parquet: the specials, then the detected genes by id, each with its median.

    The value of a gene in a cell is count / n_counts * 10,000; the median is over the cells with a non-zero count, over
    all files. exact: by sorting all values, which takes 8 bytes of disk for each beside `out`; otherwise a t-digest per gene.
    gene_column: column of var with the gene ids, by default the first that holds Ensembl ids. layer: the matrix that holds
    counts, as for `tokenize`.
    """
    if generation not in SPECIALS:
        raise InputError(f"--generation is {generation!r}: give v1 (no <cls>) or v2")
    files = count_files(data)
    genes = _Genes()
    parts = []
    for path in files:
        opens = partial(open_counts, path, layer)
        with opens() as file:
            opened = again(file, opens, len(files) == 1)
            parts.append((opened, genes.number(file, gene_column), totals(file), filter_pass(file)))
    tally = {"cells": 0, "unused": 0}
    notes: list[str] = []
    values = _values(parts, len(genes.names), tally, notes)
    medians = _exact_medians(values, len(genes.names), Path(out)) if exact else _digest_medians(values)
    if not medians:
        raise InputError(f"no gene is detected in {tally['cells']} cells of {len(files)} files: give count matrices")
    found = sorted((genes.names[number], number) for number in medians)
    special = SPECIALS[generation]
    Vocabulary(
        token=np.arange(len(special) + len(found)),
        ensembl_id=[*special, *(name for name, _ in found)],
        median=np.array([np.nan] * len(special) + [medians[number] for _, number in found]),
        symbol=[*[None] * len(special), *(genes.symbols.get(name) for name, _ in found)],
    ).write(Path(out), sealed=True)
    return VocabularyReport(
        out=Path(out),
        genes=len(found),
        generation=generation,
        cells=tally["cells"],
        unused_cells=tally["unused"],
        undetected=len(genes.names) - len(found),
        foreign=genes.foreign,
        exact=exact,
        notes=tuple(notes),
    )


class _Genes:
    """Numbers for the genes of all files, in order of first appearance."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.symbols: dict[str, str] = {}
        self.foreign = 0
        self._number: dict[str, int] = {}

    def number(self, file: Counts, column: str | None) -> np.ndarray:
        """int32 (columns,): gene numbers of a file's columns, -1 for a column that is no gene."""
        ids = ensembl_column(file.path, file.var, column)
        numbers = np.full(len(ids), -1, np.int32)
        symbols = _symbols(file.var, ids)
        for i, name in enumerate(ids):
            if name is None:
                self.foreign += 1
                continue
            if name not in self._number:
                self._number[name] = len(self.names)
                self.names.append(name)
            numbers[i] = self._number[name]
            if symbols is not None and symbols[i] not in ("", "nan", "None", "<NA>"):
                self.symbols.setdefault(name, symbols[i])
        return numbers


def _symbols(var: Any, ids: Sequence[str | None]) -> list[str] | None:
    """Symbols from the first of SYMBOL_COLUMNS; else the names of var, as in files of scanpy, where they are not the ids."""
    name = next((name for name in SYMBOL_COLUMNS if name in var.columns), None)
    if name is not None:
        return var_labels(var, name)
    names = var_labels(var, "index")
    same = sum(plain_id(name) == gene for name, gene in zip(names, ids, strict=True))
    return names if 2 * same < len(names) and not all(name.isdecimal() for name in names) else None


_SCHEMA = pa.schema([("gene", pa.int32()), ("value", pa.float64())])


def _values(
    parts: Sequence[tuple[Callable[[], AbstractContextManager[Counts]], np.ndarray, np.ndarray | None, np.ndarray]],
    genes: int,
    tally: dict[str, int],
    notes: list[str],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(gene int32, value float64) of every non-zero count of every used cell.

    parts: what opens a file, its gene numbers, totals, filter_pass.
    """
    for opens, numbers, given, passing in parts:
        with opens() as file:
            if given is None:
                notes.append(f"{file.path.name}: obs has no n_counts, totals summed over all genes")
            several = len(np.unique(numbers[numbers >= 0])) < (numbers >= 0).sum()
            everything = (numbers >= 0).all()
            for block in file.blocks():
                inside = slice(block.start, block.start + len(block))
                total = (row_sums(block, len(numbers)) if given is None else given[inside]).astype(np.float64)
                used = passing[inside] & (total > 0)
                tally["cells"] += int(used.sum())
                tally["unused"] += int((~used).sum())
                gene, count = numbers[block.column], block.data
                size = np.diff(block.offsets)
                if not (everything and used.all() and count.all()):
                    kept = np.repeat(used, size) & (gene >= 0) & (count != 0)
                    row = np.repeat(np.arange(len(block)), size)[kept]
                    gene, count, size = gene[kept], count[kept], np.bincount(row, minlength=len(block))
                if several:  # columns of one gene are one count
                    row = np.repeat(np.arange(len(block)), size)
                    summed = sp.coo_matrix((count, (row, gene)), (len(block), genes)).tocsr()
                    gene, count, size = summed.indices, summed.data, np.diff(summed.indptr)
                value = count.astype(np.float64)
                value /= np.repeat(total, size)
                value *= SCALE
                yield gene, value
            notes += file.notes


def _exact_medians(values: Iterator[tuple[np.ndarray, np.ndarray]], genes: int, out: Path) -> dict[int, float]:
    """{gene: median} of the genes that have a value."""
    with scratch(out) as folder:
        gathered = GeneValues(folder, genes)
        for gene, value in values:
            gathered.add(gene, value)
        medians = gathered.medians()
    return {int(gene): float(medians[gene]) for gene in np.flatnonzero(~np.isnan(medians))}


def _digest_medians(values: Iterator[tuple[np.ndarray, np.ndarray]]) -> dict[int, float]:
    """{gene: median}, near. One thread, because a t-digest depends on the order in which it meets its values."""
    failed: list[Exception] = []

    def told() -> Iterator[pa.RecordBatch]:
        try:
            for gene, value in values:
                yield pa.record_batch([pa.array(gene, pa.int32()), pa.array(value)], schema=_SCHEMA)
        except Exception as error:  # DuckDB would wrap it into one of its own
            failed.append(error)
            raise

    with duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": False}) as connection:
        connection.register("corpus", pa.RecordBatchReader.from_batches(_SCHEMA, told()))
        try:
            query = "SELECT gene, approx_quantile(value, 0.5) FROM corpus GROUP BY gene"
            return dict(connection.execute(query).fetchall())
        except duckdb.Error:
            if failed:
                raise failed[0] from None
            raise
