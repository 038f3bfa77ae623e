"""Count matrices of h5ad and loom files, read from disk in blocks of cells.

It refuses files that contradict themselves, and those whose data lie in other files: what is read is what was given.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import scipy.sparse as sp
from anndata.io import read_elem

from rankshift.screen.errors import InputError
from rankshift.screen.files.hdf5 import DAMAGED, open_hdf5
from rankshift.screen.files.one_line import first_line
from rankshift.screen.tokenizer.counts import Counts, check_columns, wide
from rankshift.screen.tokenizer.layers import RAW, X, choose, spread

LOOM_NAMES = {"obs": ("CellID", "obs_names", "cell_names"), "var": ("Accession", "var_names", "Gene")}
STORED = 1 << 23  # stored counts in memory at a time: 64 MB in the usual types


class CountFile(Counts):
    """An open h5ad or loom file with its counts on disk.

    A loom file is a dense matrix of genes by cells, whose column attributes are obs and row attributes var.
    layer: `raw`, `X` or the name of a layer; None for the first of them that may be counts (module `layers`).
    """

    def __init__(self, path: Path, layer: str | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self._file = open_hdf5(self.path, "h5ad or loom")
        try:
            self._open(layer)
        except BaseException as error:
            self._file.close()
            if isinstance(error, InputError) or not isinstance(error, DAMAGED):
                raise
            raise InputError(f"{path}: X is damaged ({first_line(error)}): write the file again") from error

    def _open(self, layer: str | None) -> None:
        self._loom = "matrix" in self._file and "row_attrs" in self._file
        places = {name: _Stored(self.path, name, node, self._loom) for name, node in self._nodes().items()}
        logged = not self._loom and "log1p" in self._file.get("uns", ())
        chosen = choose(str(self.path), {name: place.some for name, place in places.items()}, layer, logged)
        self._var = "raw/var" if chosen.layer == RAW and not self._loom else "var"
        self._stored, self.shape = places[chosen.layer], places[chosen.layer].shape
        self.notes += [] if chosen.note is None else [f"{self.path.name}: {chosen.note}"]

    def _nodes(self) -> dict[str, h5py.Dataset | h5py.Group]:
        """Every matrix of the file by the name that `layer` gives it."""
        names = {X: "matrix"} if self._loom else {RAW: "raw/X", X: "X"}
        found = {name: self._file[place] for name, place in names.items() if place in self._file}
        layers = self._file.get("layers", {})
        return {**{name: layers[name] for name in layers if name not in found}, **found}

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
        """The data frame of the genes whose counts are read, which are more in raw than in X."""
        return self._frame(self._var, self.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Type of the counts."""
        return self._stored.dtype

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
        check_columns(frame, name, self.path)
        if len(frame) != rows:
            raise InputError(f"{self.path}: X is {self.shape}, but {name} has {len(frame)} rows: write it again")
        return frame

    def matrices(self, cells: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Rows as they are stored, one part of the file in memory at a time."""
        if self._stored.kind == "csc_matrix":
            note = f"{self.path.name}: X is stored by gene (CSC) and was loaded whole"
            self.notes += [note] if note not in self.notes else []
        return self._stored.parts(cells)


class _Stored:
    """One matrix of a file: dense, CSR or CSC. Rows are cells, also where the file has them as columns (loom)."""

    def __init__(self, path: Path, name: str, node: h5py.Dataset | h5py.Group, transposed: bool) -> None:
        self._path, self._name, self._node, self._transposed = path, name, node, transposed
        self._dense = isinstance(node, h5py.Dataset)
        attributes = node.attrs
        kind = str(attributes.get("encoding-type", attributes.get("h5sparse_format", "array")))
        self.kind = {"csr": "csr_matrix", "csc": "csc_matrix"}.get(kind, kind)
        shape = node.shape if self._dense else attributes.get("shape", attributes.get("h5sparse_shape"))
        if shape is None or len(shape) != 2 or (kind == "array" and not self._dense):
            raise InputError(f"{path}: {name} is no matrix of cells and genes: write it with anndata")
        self.shape = (int(shape[1]), int(shape[0])) if transposed else (int(shape[0]), int(shape[1]))

    @property
    def size(self) -> int:
        """Stored values, zeros of a dense matrix included."""
        return self.shape[0] * self.shape[1] if self._dense else int(self._node["data"].shape[0])

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        node = self._node
        return node.dtype if self._dense else node["data"].dtype if "data" in node else np.dtype(float)

    def some(self) -> Iterator[sp.csr_matrix]:
        """Some rows from all over the matrix, to judge it by."""
        if self.dtype.kind not in "fiub":
            raise InputError(f"{self._path}: {self._name} holds {self.dtype}: store counts as numbers")
        self._check_kind()
        wanted = spread(self.shape[0])
        if self.kind == "csr_matrix":
            offsets = self._offsets(self.shape[0])
            return (self._csr_rows(offsets, part.start, part.stop) for part in wanted)
        if self.kind == "csc_matrix":
            return (self._by_gene[part] for part in wanted)
        return (self._dense_rows(part) for part in wanted)

    def parts(self, cells: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        """All rows in order with the number of their first, at most `cells` and STORED values at a time."""
        self._check_kind()
        count = self.shape[0]
        if self.kind == "csr_matrix":
            offsets, start = self._offsets(count), 0
            while start < count:
                full = int(np.searchsorted(offsets, offsets[start] + STORED, side="right")) - 1
                stop = min(max(full, start + 1), start + cells, count)
                yield start, self._csr_rows(offsets, start, stop)
                start = stop
        elif self.kind == "csc_matrix":
            for start in range(0, count, cells):
                yield start, self._by_gene[start : start + cells]
        else:
            step = max(1, min(cells, STORED // max(1, self.shape[1])))
            for start in range(0, count, step):
                yield start, self._dense_rows(slice(start, start + step))

    def _check_kind(self) -> None:
        if self.kind not in ("csr_matrix", "csc_matrix") and not (self._dense and self.kind == "array"):
            raise InputError(f"{self._path}: X is stored as {self.kind!r}: store it as CSR, CSC or dense counts")

    def _dense_rows(self, part: slice) -> sp.csr_matrix:
        return sp.csr_matrix(wide(self._node[:, part].T if self._transposed else self._node[part]))

    @cached_property
    def _by_gene(self) -> sp.csr_matrix:
        """A CSC matrix whole. Its indices are checked, because scipy writes outside of its arrays where they are wrong."""
        data, index, offsets = (self._node[name][:] for name in ("data", "indices", "indptr"))
        matrix = sp.csc_matrix((wide(data), index, offsets), self.shape)
        matrix.check_format(full_check=True)
        return matrix.tocsr()

    def _offsets(self, rows: int) -> np.ndarray:
        offsets = self._node["indptr"][:].astype(np.int64)
        if len(offsets) != rows + 1 or offsets[0] != 0 or offsets[-1] != self.size or (np.diff(offsets) < 0).any():
            raise ValueError("row pointers do not fit the stored counts")
        if rows and (most := int(np.diff(offsets).max())) > max(STORED, self.shape[1]):
            raise ValueError(f"a row of {self.shape[1]:,} columns stores {most:,} counts")
        return offsets

    def _csr_rows(self, offsets: np.ndarray, start: int, stop: int) -> sp.csr_matrix:
        b, e = int(offsets[start]), int(offsets[stop])
        data, column = self._node["data"][b:e], self._node["indices"][b:e]
        if len(column) != e - b or (len(column) and not 0 <= column.min() <= column.max() < self.shape[1]):
            raise ValueError("a column number lies outside the genes")
        return sp.csr_matrix((wide(data), column, offsets[start : stop + 1] - b), (stop - start, self.shape[1]))


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
