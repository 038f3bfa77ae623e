"""The token table: one rank list per cell beside its annotations, in memory as two flat arrays and an Arrow table.

Reading checks every cell, not the first one: lengths, tokens and framing. It refuses tables that mix framed and plain
cells, and drops (and names) cells without a gene. Choosing cells for a screen is here too, because its order matters.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankshift.screen.cells.dataset_folder import write_dataset
from rankshift.screen.cells.obs import unified
from rankshift.screen.cells.token_table import (
    ROWS,
    STAMP,
    TABLE_VERSION,
    VERSION,
    Check,
    open_table,
    rank_lists,
    readable_batches,
    table_files,
)
from rankshift.screen.cells.uncropped import LENGTH_UNCROPPED, UNCROPPED, Below, split_off, uncropped
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.foreign import first_line
from rankshift.screen.genes.framing import PLAIN, Frame
from rankshift.screen.genes.token_space import Tokens
from rankshift.screen.genes.vocabulary import Vocabulary

SEED = 42  # the published code samples cells with it (PS 2.2)


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
    below: Below | None = None

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
    def read(path: Path | Sequence[Path], bundle: Tokens, *, below: bool = False) -> "Cells":
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

    def checked(self, bundle: Tokens) -> "Cells":
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


# What takes cells as they are made: flat ids, offsets from 0, obs with cell_id, and uncropped ids with their lengths.
Write = Callable[[np.ndarray, np.ndarray, pa.Table, tuple[np.ndarray, np.ndarray] | None], None]


class Writer:
    """Appends cells to a token table that is being written."""

    def __init__(self, path: Path, stamp: str | None) -> None:
        self._path = path
        self._metadata = {VERSION: str(TABLE_VERSION).encode()} | ({} if stamp is None else {STAMP: stamp.encode()})
        self._file: pq.ParquetWriter | None = None

    def __call__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        obs: pa.Table,
        whole: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Append cells: ids int32 flat, offsets (n + 1,) from 0, obs n rows with cell_id; whole: uncropped ids, lengths."""
        first = ["cell_id", *(name for name in obs.column_names if name != "cell_id")]
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids, pa.int32()))
        table = obs.select(first).append_column("input_ids", lists)
        table = table.append_column("length", pa.array(np.diff(offsets), pa.int32()))
        if whole is not None:
            ends = pa.array(np.concatenate([[0], np.cumsum(whole[1])]), pa.int32())
            table = table.append_column(UNCROPPED, pa.ListArray.from_arrays(ends, pa.array(whole[0], pa.int32())))
        if self._file is None:
            schema = table.schema.with_metadata(self._metadata)
            # A token has two idle bytes: splitting bytes writes faster and smaller than a dictionary of tokens.
            leaves = [f"{name}.list.element" for name in ("input_ids", UNCROPPED) if name in table.column_names]
            self._file = pq.ParquetWriter(
                self._path,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=first,
                write_statistics=first,
                column_encoding=dict.fromkeys(leaves, "BYTE_STREAM_SPLIT"),
                write_page_checksum=True,
            )
        self._file.write_table(table.cast(self._file.schema))

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()


@contextmanager
def writing(path: Path, stamp: str | None = None) -> Iterator[Writer]:
    """Write a token table piece by piece; it appears at `path` when the block ends well. A .dataset is a folder."""
    path = Path(path)
    if path.suffix == ".dataset":
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".rankshift-", dir=path.parent) as place:
            table = Path(place) / "cells.parquet"
            with writing(table, stamp) as write:
                yield write
            write_dataset(table, path)
        return
    with replacing(path) as temporary:
        writer = Writer(temporary, stamp)
        try:
            yield writer
        finally:
            writer.close()


def select(
    cells: Cells,
    *,
    where: str | None = None,
    state_key: str | None = None,
    start: str | None = None,
    contains: Sequence[int] | None = None,
    max_cells: int | None = None,
) -> np.ndarray:
    """Rows to process, in processing order (PS 2.2).

    where: SQL condition over the obs columns and `length`. state_key, start: cells whose column equals this state.
    contains: tokens a cell must all have. Then a sample of max_cells, then by falling length, stable.
    Raises InputError naming the step that left nothing.
    """
    rows = np.arange(len(cells))
    if where is not None:
        rows = rows_where(cells.obs.append_column("length", pa.array(cells.lengths)), where)
        _left(rows, f"--where {where!r}", len(cells))
    if (state_key is None) != (start is None):
        raise InputError("a state key and a start state belong together: give both or neither")
    if state_key is not None and start is not None:
        rows = _in_state(cells, rows, state_key, start)
    if contains is not None:
        for token in contains:
            before = len(rows)
            rows = rows[_containing(cells, token)[rows]]
            _left(rows, f"keeping those that hold token {token}, a perturbed gene", before)
    if max_cells is not None:
        if max_cells < 1:
            raise InputError(f"--max-cells is {max_cells}: give at least 1")
        if max_cells < len(rows):
            rows = rows[np.random.default_rng(SEED).permutation(len(rows))[:max_cells]]
    return rows[np.argsort(-cells.lengths[rows], kind="stable")]


def _left(rows: np.ndarray, step: str, before: int) -> None:
    if len(rows) == 0:
        raise InputError(f"no cell is left after {step} (0 of {before}): loosen it")


def rows_where(table: pa.Table, where: str) -> np.ndarray:
    """Row numbers, ascending, for which the SQL condition over the table's columns holds; it can reach nothing else."""
    row = "row"
    while row in table.column_names:
        row += "_"
    table = table.append_column(row, pa.array(np.arange(table.num_rows)))
    with duckdb.connect(":memory:", config={"enable_external_access": False}) as connection:
        connection.register("cells", table)
        try:
            found = connection.execute(f'SELECT "{row}" FROM cells WHERE ({where}\n) ORDER BY 1').fetchnumpy()
        except duckdb.Error as error:
            columns = ", ".join(table.column_names[:-1])
            raise InputError(f"--where {where!r}: {first_line(error)}; the columns are {columns}") from error
    return np.asarray(found[row], dtype=np.int64)


def _in_state(cells: Cells, rows: np.ndarray, key: str, start: str) -> np.ndarray:
    if key not in cells.obs.column_names:
        raise InputError(f"--state-key {key!r} is not a column: the columns are {', '.join(cells.obs.column_names)}")
    try:
        states = cells.obs.column(key).take(pa.array(rows)).cast(pa.string())
    except pa.ArrowException as error:
        raise InputError(
            f"--state-key {key!r} is of type {cells.obs.column(key).type}: give a column of labels"
        ) from error
    label = str(start).lower() if pa.types.is_boolean(cells.obs.column(key).type) else str(start)
    kept = rows[np.asarray(pc.fill_null(pc.equal(states, label), False))]
    if len(kept) == 0:
        counts = sorted(((c["values"], c["counts"]) for c in states.value_counts().to_pylist()), key=lambda c: -c[1])
        there = ", ".join(f"{state} ({n})" for state, n in counts[:10]) + (", …" if len(counts) > 10 else "")
        raise InputError(f"no cell has {key} = {start!r} (0 of {len(rows)}): the states are {there}")
    return kept


def _containing(cells: Cells, token: int) -> np.ndarray:
    hits = np.flatnonzero(cells.ids == token)
    mask = np.zeros(len(cells), bool)
    mask[np.searchsorted(cells.offsets, hits, side="right") - 1] = True
    return mask


def _gather(path: Path, batches: Iterable[pa.RecordBatch], bundle: Tokens, with_below: bool) -> Cells:
    check = Check(path, bundle)
    ids, used = np.empty(0, np.int32), 0
    lengths: list[np.ndarray] = []
    obs: list[pa.RecordBatch] = []
    nested: list[str] = []
    below: list[Below] = []
    row = 0
    for batch in readable_batches(path, batches):
        if "input_ids" not in batch.schema.names:
            raise InputError(f"{path} has no column input_ids, only {', '.join(batch.schema.names)}: tokenize first")
        size, flat = rank_lists(path, batch.column("input_ids"))
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
    table = pa.Table.from_batches(obs)
    _refuse_repeated(path, table.column("cell_id"))
    return Cells(
        ids=ids,
        offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
        obs=table,
        frame=check.frame,
        notes=(*check.notes(), *(f"column {name} left out: it is nested" for name in nested)),
        below=Below.joined(below) if below else None,
    )


def _one_table(files: Sequence[Path], tables: Sequence[Cells], bundle: Tokens) -> Cells:
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
        offsets=np.concatenate([[0], np.cumsum(np.concatenate([table.lengths for table in tables]))]).astype(np.int64),
        obs=pa.concat_tables(obs),
        frame=tables[0].frame,
        notes=tuple(f"{file.name}: {n}" for file, table in zip(files, tables, strict=True) for n in table.notes),
        below=None if any(b is None for b in below) else Below.joined([b for b in below if b is not None]),
    )


def _refuse_repeated(path: Path, labels: pa.ChunkedArray) -> None:
    if labels.null_count:
        raise InputError(f"{path}: {labels.null_count} cells have no cell_id: name every cell, or leave the column out")
    if pc.count_distinct(labels).as_py() != len(labels):
        counts = labels.value_counts()
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        raise InputError(f"{path}: cell_id {twice[0]['values']} occurs {twice[0]['counts']} times: ids must be unique")
