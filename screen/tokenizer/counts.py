"""Count matrices, read in blocks of cells, and those of an AnnData. Files are in `count_file`.

It refuses what cannot be a count (negative, not finite), naming the gene and the cell.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from rankshift.screen.cells.labels import label_text
from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import first_line
from rankshift.screen.tokenizer.layers import RAW, X, choose, spread
from rankshift.screen.tokenizer.whole_counts import whole_counts

BLOCK_CELLS = 4096  # cells read at a time


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Block:
    """Rows start.. of a count matrix: row r holds data[offsets[r]:offsets[r + 1]] in ascending columns."""

    start: int
    data: np.ndarray
    column: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Counts:
    """Counts of cells by genes with `obs` and `var` as data frames, read in blocks; `notes` say what was done differently.

    Use it in a `with` block, which closes what was opened. path: where the counts come from, for messages.
    """

    path: Path
    shape: tuple[int, int]
    obs: Any
    var: Any

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def stored(self) -> int:
        """Stored counts, zeros of a dense matrix included."""
        raise NotImplementedError

    @property
    def dtype(self) -> np.dtype:
        """Type of the counts."""
        raise NotImplementedError

    def matrices(self, cells: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Rows in order, at most `cells` at a time, with the number of their first."""
        raise NotImplementedError

    def blocks(self, cells: int = BLOCK_CELLS) -> Iterator[Block]:
        """All rows in order, at most `cells` at a time; every count is checked, what was divided by depth is whole again."""
        if cells < 1:
            raise InputError(f"blocks of {cells} cells: give at least 1")
        if self.dtype.kind not in "fiub":
            raise InputError(f"{self.path}: X holds {self.dtype}: store counts as numbers")
        told = 0
        try:
            for start, matrix in self.matrices(cells):
                if not matrix.has_canonical_format:
                    matrix.sum_duplicates()  # sorts columns too
                self._check(start, matrix)
                offsets = matrix.indptr.astype(np.int64)
                data, whole = whole_counts(matrix.data, offsets)
                told += whole
                yield Block(start=start, data=data, column=matrix.indices, offsets=offsets)
        except (OSError, KeyError, ValueError, RuntimeError, TypeError, IndexError) as error:  # all that h5py raises
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path}: X is damaged ({first_line(error)}): write the file again") from error
        if told:
            note = f"{self.path.name}: {told:,} cells were divided by their depth; whole counts are told from each cell's step"
            self.notes += [note] if note not in self.notes else []

    def _check(self, start: int, matrix: sp.csr_matrix) -> None:
        data = matrix.data
        if not len(data) or (data.min() >= 0 and np.isfinite(data.max())):  # false for NaN too
            return
        at = int(np.argmax(~((data >= 0) & (data < np.inf))))
        row = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
        raise InputError(
            f"{self.path}: count of gene {self.var.index[matrix.indices[at]]} in cell {self.obs.index[start + row]} is "
            f"{data[at]}: X must hold raw counts, 0 or more"
        )


class CountsInMemory(Counts):
    """The counts of an AnnData in memory or backed by a file, with their obs and var, none of which is changed.

    layer: `raw`, `X` or the name of a layer; None for the first of them that may be counts (module `layers`).
    """

    def __init__(self, data: Any, layer: str | None = None, path: Path | None = None) -> None:
        super().__init__()
        self.path = Path("AnnData") if path is None else path
        matrices = {RAW: data.raw.X} if data.raw is not None else {}
        matrices |= {name: data.layers[name] for name in data.layers}
        matrices |= {} if data.X is None else {X: data.X}
        rows = {name: partial(_some_rows, matrix) for name, matrix in matrices.items()}
        chosen = choose("the AnnData" if path is None else str(path), rows, layer, "log1p" in data.uns)
        self._x, self.obs = _readable(matrices[chosen.layer]), data.obs
        self.var = data.raw.var if chosen.layer == RAW else data.var
        for name, frame in (("obs", self.obs), ("var", self.var)):
            check_columns(frame, name, self.path)
        self.shape = (data.n_obs, len(self.var))
        self.notes += [] if chosen.note is None else [f"{self.path.name}: {chosen.note}"]

    @property
    def stored(self) -> int:
        """Stored counts, zeros of a dense matrix included."""
        return int(self._x.nnz) if sp.issparse(self._x) else int(np.prod(self.shape))

    @property
    def dtype(self) -> np.dtype:
        """Type of the counts."""
        return np.dtype(self._x.dtype)

    def matrices(self, cells: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Rows in order, copied: the AnnData's own must not be sorted or summed."""
        for start in range(0, len(self), cells):
            yield start, sp.csr_matrix(wide(self._x[start : start + cells]), copy=True)


def again(
    file: Counts, opens: Callable[[], AbstractContextManager[Counts]], alone: bool
) -> Callable[[], AbstractContextManager[Counts]]:
    """What opens these counts once more: as before, but of the only source there is what lies in memory is kept there."""
    return (lambda: nullcontext(file)) if alone and isinstance(file, CountsInMemory) else opens


def check_columns(frame: Any, name: str, path: Path) -> None:
    """Refuse a frame (`name`: obs or var) in which two columns have one name."""
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"{path}: {name} has two columns {str(twice)!r}: rename or drop one")


def wide(values: Any) -> Any:
    """Values as they are, those of 16 bits as float32: scipy has no sparse matrices of them."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _readable(matrix: Any) -> Any:
    """A matrix whose rows can be cut out: sparse ones checked, because scipy reads beyond their ends where they are broken."""
    if not sp.issparse(matrix):
        return matrix if hasattr(matrix, "shape") and not isinstance(matrix, np.matrix) else np.asarray(matrix)
    try:
        matrix.check_format(full_check=True)
    except (AttributeError, ValueError) as error:
        if isinstance(error, ValueError):
            raise InputError(f"AnnData: X is damaged ({first_line(error)}): make the matrix again") from error
    return matrix.tocsr()


def _some_rows(matrix: Any) -> Iterator[sp.csr_matrix]:
    rows = _readable(matrix)
    return (sp.csr_matrix(wide(rows[part])) for part in spread(rows.shape[0]))


def totals(file: Counts) -> np.ndarray | None:
    """n_counts of obs, as stored, or None when the file has none; refuses what is not a total."""
    if "n_counts" not in file.obs.columns:
        return None
    column: Any = file.obs["n_counts"].to_numpy()
    if column.dtype.kind not in "fiu":
        raise InputError(f"{file.path}: obs n_counts holds {column.dtype}: give numbers, or leave the column out")
    bad = ~((column >= 0) & (column < np.inf))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{file.path}: n_counts of cell {file.obs.index[row]} is {column[row]} ({int(bad.sum())} such cells): "
            "give totals of 0 or more, or leave the column out"
        )
    return column


def row_sums(block: Block, genes: int) -> np.ndarray:
    """float64 (rows,): totals over all genes, for files without n_counts."""
    return sp.csr_matrix((block.data, block.column, block.offsets), (len(block), genes)) @ np.ones(genes)


def filter_pass(file: Counts) -> np.ndarray:
    """bool (cells,): obs filter_pass equals 1, or all when there is no such column (PS 1.1)."""
    if "filter_pass" not in file.obs.columns:
        return np.ones(len(file), bool)
    values = file.obs["filter_pass"].to_numpy()
    if values.dtype.kind not in "biuf":
        raise InputError(f"{file.path}: obs filter_pass holds {values.dtype}: give 1 or 0, or True or False")
    return values == 1


def obs_table(file: Counts) -> pa.Table:
    """obs in Arrow, `cell_id` first (the obs column of that name, else the names of obs) as text.

    Categories become plain values, and columns Arrow has no type for become text.
    """
    named = "cell_id" in file.obs.columns
    labels = file.obs["cell_id"] if named else file.obs.index
    columns = {"cell_id": pa.array([label_text(label) for label in labels], pa.string())}
    if missing := columns["cell_id"].null_count:
        raise InputError(
            f"{file.path}: {missing} cells have no cell_id: name every cell, or drop the obs column cell_id"
        )
    for name in file.obs.columns:
        series = file.obs[name]
        try:
            column = pa.array(series, from_pandas=True)
        except (pa.ArrowException, TypeError):
            column = pa.array([label_text(value) for value in series], pa.string())
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        columns.setdefault(str(name), column)
    return pa.table(columns)
