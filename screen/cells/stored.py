"""Cells that need not be in memory: a table that was read into a temporary file, some rows of one, a run's file by row groups.

Annotations of the tables that a screen is prepared from are in memory, their lists are not. Nothing is written here.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.cells.cells import Cells, CellTable, joined
from rankshift.screen.cells.labels import without_nan
from rankshift.screen.cells.ragged import Tokens, offsets_of
from rankshift.screen.cells.reading import LISTS, check_stamp, read_tables
from rankshift.screen.cells.token_table import STAMP, Check, check_lists, rank_lists
from rankshift.screen.cells.uncropped import UNCROPPED, Uncropped, split_off
from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import first_line
from rankshift.screen.genes.framing import Frame
from rankshift.screen.genes.token_space import TokenSpace

MEMORY = 1 << 27  # bytes of tokens that a table keeps in memory: 16,000 cells of 2,048 genes
GROUPS = 2  # row groups that are kept: a shard begins in one and may end in the next
COPY = "copy the run again from where it was computed"


@dataclass(frozen=True, kw_only=True, eq=False)
class SpooledCells:
    """The cells of token tables, all of them checked; lists beyond MEMORY are in a temporary file. Fields as in `Cells`."""

    tokens: Tokens
    offsets: np.ndarray
    obs: pa.Table
    frame: Frame
    notes: tuple[str, ...]
    below: Tokens | None
    below_offsets: np.ndarray

    @staticmethod
    def read(path: Path | Sequence[Path], bundle: TokenSpace, *, below: bool = False) -> "SpooledCells":
        """Read token tables as `Cells.read` does, with the same refusals."""
        tokens, more = (Tokens(bundle.vocabulary.size, MEMORY) for _ in range(2))
        read = read_tables(path, bundle, tokens, more if below else None)
        return SpooledCells(
            tokens=tokens,
            offsets=offsets_of(read.lengths),
            obs=read.obs,
            frame=read.frame,
            notes=read.notes,
            below=None if read.below is None else more,
            below_offsets=offsets_of(np.zeros(len(read.lengths), np.int64) if read.below is None else read.below),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 (n,): tokens per cell, specials included."""
        return np.diff(self.offsets)

    @property
    def refillable(self) -> bool:
        """Are the genes below the input limit there, too?"""
        return self.below is not None

    def take(self, indices: Sequence[int] | np.ndarray) -> Cells:
        """These rows, in this order."""
        rows = np.asarray(indices, dtype=np.int64)

        def lists(tokens: Tokens, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            size = offsets[rows + 1] - offsets[rows]
            return tokens.lists(offsets[rows], size), offsets_of(size)

        ids, offsets = lists(self.tokens, self.offsets)
        below = None if self.below is None else Uncropped(*lists(self.below, self.below_offsets))
        return Cells(ids=ids, offsets=offsets, obs=self.obs.take(pa.array(rows)), frame=self.frame, below=below)

    def ids_of(self, cell: int) -> np.ndarray:
        """The rank list of one cell."""
        return self.take([cell]).ids

    def below_of(self, cell: int) -> int:
        """Genes below the limit of one cell, 0 where they were not read."""
        return int(self.below_offsets[cell + 1] - self.below_offsets[cell])


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenCells:
    """Some rows of a table, in an order of their own. refill: genes below the limit that are kept of a cell, None for all."""

    table: CellTable
    rows: np.ndarray
    refill: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 (n,): tokens per cell, specials included."""
        return self.table.lengths[self.rows]

    @cached_property
    def obs(self) -> pa.Table:
        """Annotations: n rows, `cell_id` first."""
        return self.table.obs.take(pa.array(self.rows))

    @property
    def frame(self) -> Frame:
        """What stands around the genes of a list."""
        return self.table.frame

    @property
    def refillable(self) -> bool:
        """Are the genes below the input limit there, too?"""
        return self.table.refillable

    def take(self, indices: Sequence[int] | np.ndarray) -> Cells:
        """These rows, in this order."""
        cells = self.table.take(self.rows[np.asarray(indices, dtype=np.int64)])
        if cells.below is None or self.refill is None:
            return cells
        return replace(cells, below=cells.below.first(self.refill))

    def ids_of(self, cell: int) -> np.ndarray:
        """The rank list of one cell."""
        return self.table.ids_of(int(self.rows[cell]))

    def below_of(self, cell: int) -> int:
        """Genes below the limit of one cell that are kept."""
        there = self.table.below_of(int(self.rows[cell]))
        return there if self.refill is None else min(there, self.refill)


class StoredCells:
    """The cells of a run, in the order in which they are screened: row groups of their file are read when cells of them are
    asked for, checked against the bundle, and the last GROUPS of them kept. Threads may share it.
    """

    def __init__(self, file: pq.ParquetFile, path: Path, bundle: TokenSpace, frame: Frame, refillable: bool) -> None:
        self.frame, self.refillable = frame, refillable
        self._file, self._path, self._bundle = file, path, bundle
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._first = offsets_of(np.array(groups, np.int64))
        self._kept: OrderedDict[int, Cells] = OrderedDict()
        self._lock = Lock()

    @staticmethod
    def open(
        path: Path, bundle: TokenSpace, frame: Frame, *, below: bool = False, source: pa.NativeFile | None = None
    ) -> "StoredCells":
        """Open the file of a run's cells, whose lists are framed by `frame`. source: the file, where it is not at `path`."""
        try:
            # A row group is read in one piece, which an object store answers with one transfer or few.
            file = pq.ParquetFile(source or path, pre_buffer=True, page_checksum_verification=True)
            stamp = (file.schema_arrow.metadata or {}).get(STAMP)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is not a readable Parquet file ({first_line(error)}): {COPY}") from error
        check_lists(path, file.metadata)
        check_stamp(path, None if stamp is None else stamp.decode(errors="replace"), bundle)
        return StoredCells(file, path, bundle, frame, below and UNCROPPED in file.schema_arrow.names)

    def __len__(self) -> int:
        return int(self._first[-1])

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 (n,): tokens per cell, specials included."""
        return self._columns(["length"])["length"].to_numpy().astype(np.int64)

    @cached_property
    def obs(self) -> pa.Table:
        """Annotations of all cells: n rows, `cell_id` first."""
        return without_nan(self._columns([name for name in self._file.schema_arrow.names if name not in LISTS]))

    def take(self, indices: Sequence[int] | np.ndarray) -> Cells:
        """These rows, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        if not len(rows):
            return self._group(0).take(rows)
        group = np.searchsorted(self._first, rows, side="right") - 1
        edges = np.flatnonzero(np.diff(group, prepend=-1)).tolist()
        parts = []
        for a, b in zip(edges, [*edges[1:], len(rows)], strict=True):
            parts.append(self._group(int(group[a])).take(rows[a:b] - self._first[group[a]]))
        return joined(parts)

    def ids_of(self, cell: int) -> np.ndarray:
        """The rank list of one cell."""
        cells, at = self._at(cell)
        return cells.ids_of(at)

    def below_of(self, cell: int) -> int:
        """Genes below the limit of one cell, 0 where they are not refilled."""
        cells, at = self._at(cell)
        return cells.below_of(at)

    def _at(self, cell: int) -> tuple[Cells, int]:
        """The row group of a cell, and its place there."""
        number = int(np.searchsorted(self._first, cell, side="right")) - 1
        return self._group(number), cell - int(self._first[number])

    def _group(self, number: int) -> Cells:
        """The cells of a row group."""
        with self._lock:
            found = self._kept.pop(number, None)
            if found is None:
                found = self._read(number)
            self._kept[number] = found
            while len(self._kept) > GROUPS:
                self._kept.popitem(last=False)
            return found

    def _read(self, number: int) -> Cells:
        path, bundle = self._path, self._bundle
        names = [name for name in self._file.schema_arrow.names if name != UNCROPPED or self.refillable]
        try:
            table = self._file.read_row_group(number, columns=names).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is truncated or damaged ({first_line(error)}): {COPY}") from error
        obs = without_nan(table.select([name for name in names if name not in LISTS]))
        size, flat = rank_lists(path, table["input_ids"].combine_chunks())
        check = Check(path, bundle)
        keep = check(flat, size, obs["cell_id"].combine_chunks(), table["length"].combine_chunks())
        if not keep.all() or check.frame != self.frame:
            raise InputError(f"{path} holds other cells than were prepared: {COPY}")
        below = None
        if self.refillable:
            whole_size, whole = rank_lists(path, table[UNCROPPED].combine_chunks())
            below = split_off(path, flat, size, whole, whole_size, self.frame, bundle.vocabulary)
        return Cells(ids=flat, offsets=offsets_of(size), obs=obs, frame=self.frame, below=below)

    def _columns(self, names: list[str]) -> pa.Table:
        with self._lock:
            try:
                return self._file.read(columns=names)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{self._path} is truncated or damaged ({first_line(error)}): {COPY}") from error
