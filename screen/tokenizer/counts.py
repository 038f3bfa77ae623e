"""Count matrices of h5ad and loom files and of AnnData in memory, read in blocks of cells. Only X is read, never raw or layers.

It refuses what cannot be a count (negative, not finite) and files that contradict themselves, naming the gene and the cell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import scipy.sparse as sp
from anndata.io import read_elem

from rankshift.screen.errors import InputError
from rankshift.screen.files.foreign import first_line, readable

LOOM_NAMES = {"obs": ("CellID", "obs_names", "cell_names"), "var": ("Accession", "var_names", "Gene")}
BLOCK_CELLS = 4096  # cells read at a time
_STORED = 1 << 23  # and at most this many stored counts: 64 MB in the usual types


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
    def dtype(self) -> np.dtype:
        """Type of the counts."""
        raise NotImplementedError

    def matrices(self, cells: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Rows in order, at most `cells` at a time, with the number of their first."""
        raise NotImplementedError

    def blocks(self, cells: int = BLOCK_CELLS) -> Iterator[Block]:
        """All rows in order, at most `cells` at a time; every count is checked."""
        if cells < 1:
            raise InputError(f"blocks of {cells} cells: give at least 1")
        if self.dtype.kind not in "fiub":
            raise InputError(f"{self.path}: X holds {self.dtype}: store counts as numbers")
        try:
            for start, matrix in self.matrices(cells):
                if not matrix.has_canonical_format:
                    matrix.sum_duplicates()  # sorts columns too
                self._check(start, matrix)
                yield Block(
                    start=start, data=matrix.data, column=matrix.indices, offsets=matrix.indptr.astype(np.int64)
                )
        except (OSError, KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path}: X is damaged ({first_line(error)}): write the file again") from error

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
    """The counts of an AnnData: its X, obs and var, none of which is changed."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.path = Path("AnnData")
        if data.X is None:
            raise InputError("the AnnData has no X: put the raw counts there")
        if data.isbacked:
            raise InputError(f"the AnnData is backed by {data.filename}: give that file, or data.to_memory()")
        self.obs, self.var, self.shape = data.obs, data.var, data.shape
        self._x = data.X.tocsr() if sp.issparse(data.X) else np.asarray(data.X)

    @property
    def dtype(self) -> np.dtype:
        """Type of the counts."""
        return np.dtype(self._x.dtype)

    def matrices(self, cells: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Rows in order, copied: the AnnData's own must not be sorted or summed."""
        for start in range(0, len(self), cells):
            yield start, sp.csr_matrix(self._x[start : start + cells], copy=True)


class CountFile(Counts):
    """An open h5ad or loom file with X on disk.

    A loom file is a dense X of genes by cells, whose column attributes are obs and row attributes var.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = readable(Path(path))
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise InputError(
                f"{path} is not a readable h5ad or loom file ({first_line(error)}): write it again"
            ) from error
        try:
            self._loom = "matrix" in self._file and "row_attrs" in self._file
            if not self._loom and "X" not in self._file:
                raise InputError(f"{path} has no X: put the raw counts there")
            self._x = self._file["matrix" if self._loom else "X"]
            self._dense = isinstance(self._x, h5py.Dataset)
            self.shape = self._shape()
        except BaseException:
            self._file.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @cached_property
    def obs(self) -> Any:
        """The data frame of cells."""
        return self._frame("obs", self.shape[0])

    @cached_property
    def var(self) -> Any:
        """The data frame of genes."""
        return self._frame("var", self.shape[1])

    @property
    def stored(self) -> int:
        """Stored counts, zeros of a dense matrix included."""
        return self.shape[0] * self.shape[1] if self._dense else int(self._x["data"].shape[0])

    @property
    def dtype(self) -> np.dtype:
        """Type of the counts."""
        return self._x.dtype if self._dense else self._x["data"].dtype if "data" in self._x else np.dtype(float)

    def _frame(self, name: str, rows: int) -> Any:
        try:
            frame = _loom_frame(self._file, name) if self._loom else read_elem(self._file[name])
        except Exception as error:  # anndata raises its own kinds for files of other or damaged layout
            what = f"{self.path}: {name} cannot be read ({first_line(error)})"
            raise InputError(f"{what}: write it with anndata") from error
        if not hasattr(frame, "columns"):
            raise InputError(
                f"{self.path}: {name} is no table, as in files before anndata 0.7: read and write it again"
            )
        if len(frame) != rows:
            raise InputError(f"{self.path}: X is {self.shape}, but {name} has {len(frame)} rows: write it again")
        return frame

    def _kind(self) -> str:
        attributes = self._x.attrs
        kind = attributes.get("encoding-type", attributes.get("h5sparse_format", "array"))
        return {"csr": "csr_matrix", "csc": "csc_matrix"}.get(str(kind), str(kind))

    def _shape(self) -> tuple[int, int]:
        attributes = self._x.attrs
        shape = self._x.shape if self._dense else attributes.get("shape", attributes.get("h5sparse_shape"))
        if shape is None or len(shape) != 2:
            raise InputError(f"{self.path}: X is no matrix of cells and genes: write it with anndata")
        return (int(shape[1]), int(shape[0])) if self._loom else (int(shape[0]), int(shape[1]))

    def matrices(self, cells: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Rows as they are stored, one part of the file in memory at a time."""
        kind = self._kind()
        if kind == "array" and self._dense:
            step = max(1, min(cells, _STORED // max(1, self.shape[1])))
            for start in range(0, len(self), step):
                cut = slice(start, start + step)
                yield start, sp.csr_matrix(self._x[:, cut].T if self._loom else self._x[cut])
        elif kind == "csr_matrix":
            yield from self._csr(cells)
        elif kind == "csc_matrix":
            note = f"{self.path.name}: X is stored by gene (CSC) and was loaded whole"
            self.notes += [note] if note not in self.notes else []
            whole = read_elem(self._x).tocsr()
            for start in range(0, len(self), cells):
                yield start, whole[start : start + cells]
        else:
            raise InputError(f"{self.path}: X is stored as {kind!r}: store it as CSR, CSC or dense counts")

    def _csr(self, cells: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        offsets = self._x["indptr"][:].astype(np.int64)
        stored = self._x["data"].shape[0]
        if len(offsets) != len(self) + 1 or offsets[0] != 0 or offsets[-1] != stored or (np.diff(offsets) < 0).any():
            raise ValueError("row pointers do not fit the stored counts")
        start = 0
        while start < len(self):
            full = int(np.searchsorted(offsets, offsets[start] + _STORED, side="right")) - 1
            stop = min(max(full, start + 1), start + cells, len(self))
            b, e = int(offsets[start]), int(offsets[stop])
            data, column = self._x["data"][b:e], self._x["indices"][b:e]
            if len(column) != e - b or (len(column) and not 0 <= column.min() <= column.max() < self.shape[1]):
                raise ValueError("a column number lies outside the genes")
            yield start, sp.csr_matrix((data, column, offsets[start : stop + 1] - b), (stop - start, self.shape[1]))
            start = stop


def _loom_frame(file: h5py.File, name: str) -> pd.DataFrame:
    """The one-dimensional attributes of a loom file; its index is the names of cells (obs) or genes (var)."""
    group = file["col_attrs" if name == "obs" else "row_attrs"]
    columns = {key: values[:] for key, values in group.items() if values.ndim == 1}
    columns = {key: v.astype(str) if v.dtype.kind == "S" else _text(v) for key, v in columns.items()}
    frame = pd.DataFrame(columns)
    index = next((key for key in LOOM_NAMES[name] if key in columns), None)
    return frame if index is None else frame.set_index(index, drop=False)


def _text(values: np.ndarray) -> np.ndarray:
    texts = [v.decode() if isinstance(v, bytes) else v for v in values] if values.dtype.kind == "O" else values
    return np.asarray(texts, dtype=values.dtype)


def count_files(data: Path | Sequence[Path]) -> list[Path]:
    """The h5ad and loom files meant: a file, a folder of them (by name), or several of either."""
    paths = [Path(data)] if isinstance(data, (str, Path)) else [Path(path) for path in data]
    files: list[Path] = []
    for path in paths:
        inside = sorted((*path.glob("*.h5ad"), *path.glob("*.loom"))) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path} holds no .h5ad or .loom file: give count matrices")
        files += inside
    if not files:
        raise InputError("no count file is given: give one or more .h5ad files")
    return files


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
    columns = {"cell_id": pa.array([str(label) for label in labels], pa.string())}
    for name in file.obs.columns:
        series = file.obs[name]
        try:
            column = pa.array(series, from_pandas=True)
        except (pa.ArrowException, TypeError):
            column = pa.array([None if value is None else str(value) for value in series])
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        columns.setdefault(str(name), column)
    return pa.table(columns)
