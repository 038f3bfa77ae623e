"""The token table: one rank list per cell beside its annotations, in memory as two flat arrays and an Arrow table.

Reading checks every cell, not the first one: lengths, tokens and framing. It refuses tables that mix framed and plain
cells, and drops (and names) cells without a gene.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankshift.screen.cells.labels import without_nan
from rankshift.screen.cells.obs import unified
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.cells.token_table import (
    ROWS,
    Check,
    open_table,
    rank_lists,
    readable_batches,
    table_files,
)
from rankshift.screen.cells.uncropped import LENGTH_UNCROPPED, UNCROPPED, Uncropped, split_off, uncropped
from rankshift.screen.cells.writer import writing
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import PLAIN, Frame
from rankshift.screen.genes.token_space import TokenSpace
from rankshift.screen.genes.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Cells:
    """Rank lists and annotations of n cells.

    ids: int32, all lists one after the other. offsets: int64 (n + 1,), cell i is ids[offsets[i]:offsets[i + 1]].
    obs: n rows, `cell_id` first, without input_ids and length. frame: what stands around the genes of a list.
    notes: what reading dropped or found odd, one sentence each. below: genes beyond the lists, where they were read.
    """

    ids: np.ndarray
    offsets: np.ndarray
    obs: pa.Table
    frame: Frame = PLAIN
    notes: tuple[str, ...] = field(default=())
    below: Uncropped | None = None

    def __post_init__(self) -> None:
        if len(self.offsets) != self.obs.num_rows + 1 or int(self.offsets[-1]) != len(self.ids):
            raise ValueError(
                f"{self.obs.num_rows} rows, {len(self.offsets)} offsets, {len(self.ids)} ids do not fit together"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 (n,): tokens per cell, specials included."""
        return np.diff(self.offsets)

    def ids_of(self, cell: int) -> np.ndarray:
        """The rank list of one cell, a view."""
        return self.ids[self.offsets[cell] : self.offsets[cell + 1]]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Cells":
        """These rows, in this order."""
        rows = pa.array(np.asarray(indices, dtype=np.int64))
        lists = pa.LargeListArray.from_arrays(self.offsets, self.ids).take(rows)
        offsets = np.asarray(lists.offsets) - lists.offsets[0].as_py()
        ids = np.asarray(lists.flatten())
        below = None if self.below is None else self.below.take(rows)
        return replace(self, ids=ids, offsets=offsets, obs=self.obs.take(rows), below=below)

    @staticmethod
    def read(path: Path | Sequence[Path], bundle: TokenSpace, *, below: bool = False) -> "Cells":
        """Read a Parquet token table or a reference `.dataset` folder, checked against the bundle (or the draft of one).

        Several tables, or folders of them, are one table if they have the same columns. `cell_id` is the row number when a
        table has none. below: keep the genes below the input limit, too. Raises InputError naming the first cell that does
        not fit.
        """
        files = table_files(path)
        tables = []
        for file in files:
            batches, stamp = open_table(file, () if below else (UNCROPPED,))
            if stamp is not None and stamp != bundle.vocabulary.tokens_sha256:
                raise InputError(
                    f"{file} was tokenized with another vocabulary than {bundle.path} has: tokenize it again"
                )
            tables.append(_gather(file, batches, bundle, below))
        return tables[0] if len(tables) == 1 else _one_table(files, tables, bundle)

    def checked(self, bundle: TokenSpace) -> "Cells":
        """These cells, held against the bundle as tables are that are read: cells without a gene are left out."""
        check = Check(Path("cells in memory"), bundle)
        labels = self.obs.column("cell_id").combine_chunks()
        keep = check(self.ids, self.lengths, labels, None)
        cells = self if keep.all() else self.take(np.flatnonzero(keep))
        return replace(cells, frame=check.frame, notes=(*self.notes, *check.notes()))

    def write(self, path: Path, vocabulary: Vocabulary | None = None) -> None:
        """Write a token table, Parquet or the folder of a .dataset: obs with cell_id first, input_ids list<int32>, length;
        with genes below the limit also input_ids_uncropped.

        With a vocabulary the file records whose tokens these are, and `read` holds other bundles against it.
        """
        with writing(path, None if vocabulary is None else vocabulary.tokens_sha256) as write:
            for start in range(0, max(len(self), 1), ROWS):
                stop = min(start + ROWS, len(self))
                some = self if stop - start == len(self) else self.take(np.arange(start, stop))
                write(some.ids, some.offsets, some.obs, None if some.below is None else uncropped(some))


def _gather(path: Path, batches: Iterable[pa.RecordBatch], bundle: TokenSpace, with_below: bool) -> Cells:
    check = Check(path, bundle)
    ids, used = np.empty(0, np.int32), 0
    lengths: list[np.ndarray] = []
    obs: list[pa.RecordBatch] = []
    nested: list[str] = []
    below: list[Uncropped] = []
    row = 0
    for batch in readable_batches(path, batches):
        if "input_ids" not in batch.schema.names:
            raise InputError(f"{path} has no column input_ids, only {', '.join(batch.schema.names)}: tokenize first")
        size, flat = rank_lists(path, batch.column("input_ids"))
        if len(set(batch.schema.names)) < len(batch.schema.names):
            twice = next(name for name in batch.schema.names if batch.schema.names.count(name) > 1)
            raise InputError(f"{path} has two columns {twice!r}: rename one")
        own = ("input_ids", "length", UNCROPPED, LENGTH_UNCROPPED)
        names = [name for name in batch.schema.names if name not in own]
        nested = [name for name in names if pa.types.is_nested(batch.schema.field(name).type)]
        columns = {name: batch.column(name) for name in names if name not in nested}
        columns.setdefault("cell_id", pa.array(np.arange(row, row + batch.num_rows)))
        labels = columns["cell_id"]
        keep = check(flat, size, labels, batch.column("length") if "length" in batch.schema.names else None)
        row += batch.num_rows
        rest = pa.RecordBatch.from_pydict({"cell_id": columns.pop("cell_id"), **columns})
        if not keep.all():
            flat, size, rest = flat[np.repeat(keep, size)], size[keep], rest.filter(pa.array(keep))
        if with_below and UNCROPPED in batch.schema.names:
            long, longer = rank_lists(path, batch.column(UNCROPPED).filter(pa.array(keep)))
            below.append(split_off(path, flat, size, longer, long, check.frame, bundle.vocabulary))
        if used + len(flat) > len(ids):
            ids.resize(max(used + len(flat), 2 * len(ids)), refcheck=False)  # grows in place, never two copies
        ids[used : used + len(flat)] = flat
        used += len(flat)
        lengths.append(size)
        obs.append(rest)
    if not any(len(size) for size in lengths):
        raise InputError(f"{path} holds no cell with a gene ({row} rows): give another token table")
    ids.resize(used, refcheck=False)
    table = without_nan(pa.Table.from_batches(obs))
    _refuse_repeated(path, table.column("cell_id"))
    return Cells(
        ids=ids,
        offsets=offsets_of(np.concatenate(lengths)),
        obs=table,
        frame=check.frame,
        notes=(*check.notes(), *(f"column {name} left out: it is nested" for name in nested)),
        below=Uncropped.joined(below) if below else None,
    )


def _one_table(files: Sequence[Path], tables: Sequence[Cells], bundle: TokenSpace) -> Cells:
    """Several tables behind each other; the cells of tables that share an id are named after their file."""
    columns = set(tables[0].obs.column_names)
    for file, table in zip(files, tables, strict=True):
        if differing := columns ^ set(table.obs.column_names):
            raise InputError(
                f"{file} and {files[0]} differ in the column {min(differing)}: keep the same columns in all tables"
            )
        if table.frame != tables[0].frame:
            around = " and ".join(bundle.frame_tokens.names)
            raise InputError(f"{file} and {files[0]}: only one is framed by {around}: tokenize both the same way")
    obs = unified(files, [table.obs.select(tables[0].obs.column_names) for table in tables])
    below = [table.below for table in tables]
    return Cells(
        ids=np.concatenate([table.ids for table in tables]),
        offsets=offsets_of(np.concatenate([table.lengths for table in tables])),
        obs=pa.concat_tables(obs),
        frame=tables[0].frame,
        notes=tuple(f"{file.name}: {n}" for file, table in zip(files, tables, strict=True) for n in table.notes),
        below=None if any(b is None for b in below) else Uncropped.joined([b for b in below if b is not None]),
    )


def _refuse_repeated(path: Path, labels: pa.ChunkedArray) -> None:
    if labels.null_count:
        raise InputError(f"{path}: {labels.null_count} cells have no cell_id: name every cell, or leave the column out")
    if pc.count_distinct(labels).as_py() != len(labels):
        counts = labels.value_counts()
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        raise InputError(f"{path}: cell_id {twice[0]['values']} occurs {twice[0]['counts']} times: ids must be unique")
