"""Token tables read batch by batch, every cell checked: tokens go where the reader wants them, annotations are gathered.

It refuses tables that mix framed and plain cells or have different columns, and drops (and names) cells without a gene.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankshift.screen.cells.labels import without_nan
from rankshift.screen.cells.obs import unified
from rankshift.screen.cells.ragged import Tokens
from rankshift.screen.cells.token_table import Check, open_table, rank_lists, readable_batches, table_files
from rankshift.screen.cells.uncropped import LENGTH_UNCROPPED, UNCROPPED, split_off
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.genes.token_space import TokenSpace

LISTS = ("input_ids", "length", UNCROPPED, LENGTH_UNCROPPED)  # columns of a table that are no annotations


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRead:
    """What one or several tables hold beside their tokens: lengths int64 [n] of the lists; below: genes below the limit,
    int64 [n], None where they were not read.
    """

    lengths: np.ndarray
    obs: pa.Table
    frame: Frame
    notes: tuple[str, ...]
    below: np.ndarray | None


def read_tables(
    path: Path | Sequence[Path], bundle: TokenSpace, tokens: Tokens, below: Tokens | None = None
) -> TableRead:
    """Read token tables into `tokens`, and their genes below the limit into `below`, where those are wanted.

    Several tables, or folders of them, are one table if they have the same columns. `cell_id` is the row number when a table
    has none. Raises InputError naming the first cell that does not fit the bundle.
    """
    files = table_files(path)
    tables = []
    for file in files:
        batches, stamp = open_table(file, (UNCROPPED,) if below is None else ())
        check_stamp(file, stamp, bundle)
        tables.append(_gather(file, batches, bundle, tokens, below))
    return tables[0] if len(tables) == 1 else _one_table(files, tables, bundle)


def check_stamp(file: Path, stamp: str | None, bundle: TokenSpace) -> None:
    """Refuse a table whose tokens are those of another vocabulary."""
    if stamp is not None and stamp != bundle.vocabulary.tokens_sha256:
        raise InputError(f"{file} was tokenized with another vocabulary than {bundle.path} has: tokenize it again")


def _gather(
    path: Path, batches: Iterable[pa.RecordBatch], bundle: TokenSpace, tokens: Tokens, below: Tokens | None
) -> TableRead:
    check = Check(path, bundle)
    lengths: list[np.ndarray] = []
    obs: list[pa.RecordBatch] = []
    nested: list[str] = []
    beyond: list[np.ndarray] = []
    row = 0
    for batch in readable_batches(path, batches):
        if "input_ids" not in batch.schema.names:
            raise InputError(f"{path} has no column input_ids, only {', '.join(batch.schema.names)}: tokenize first")
        if len(set(batch.schema.names)) < len(batch.schema.names):
            twice = next(name for name in batch.schema.names if batch.schema.names.count(name) > 1)
            raise InputError(f"{path} has two columns {twice!r}: rename one")
        size, flat = rank_lists(path, batch.column("input_ids"))
        names = [name for name in batch.schema.names if name not in LISTS]
        nested = [name for name in names if pa.types.is_nested(batch.schema.field(name).type)]
        columns = {name: batch.column(name) for name in names if name not in nested}
        columns.setdefault("cell_id", pa.array(np.arange(row, row + batch.num_rows)))
        labels = columns["cell_id"]
        keep = check(flat, size, labels, batch.column("length") if "length" in batch.schema.names else None)
        row += batch.num_rows
        rest = pa.RecordBatch.from_pydict({"cell_id": columns.pop("cell_id"), **columns})
        if not keep.all():
            flat, size, rest = flat[np.repeat(keep, size)], size[keep], rest.filter(pa.array(keep))
        if below is not None and UNCROPPED in batch.schema.names:
            long, longer = rank_lists(path, batch.column(UNCROPPED).filter(pa.array(keep)))
            more = split_off(path, flat, size, longer, long, check.frame, bundle.vocabulary)
            below.append(more.ids)
            beyond.append(more.counts)
        tokens.append(flat)
        lengths.append(size)
        obs.append(rest)
    if not any(len(size) for size in lengths):
        raise InputError(f"{path} holds no cell with a gene ({row} rows): give another token table")
    table = without_nan(pa.Table.from_batches(obs))
    _refuse_repeated(path, table.column("cell_id"))
    return TableRead(
        lengths=np.concatenate(lengths),
        obs=table,
        frame=check.frame,
        notes=(*check.notes(), *(f"column {name} left out: it is nested" for name in nested)),
        below=np.concatenate(beyond) if beyond else None,
    )


def _one_table(files: Sequence[Path], tables: Sequence[TableRead], bundle: TokenSpace) -> TableRead:
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
    below = [table.below for table in tables if table.below is not None]
    return TableRead(
        lengths=np.concatenate([table.lengths for table in tables]),
        obs=pa.concat_tables(obs),
        frame=tables[0].frame,
        notes=tuple(f"{file.name}: {n}" for file, table in zip(files, tables, strict=True) for n in table.notes),
        below=np.concatenate(below) if len(below) == len(tables) else None,
    )


def _refuse_repeated(path: Path, labels: pa.ChunkedArray) -> None:
    if labels.null_count:
        raise InputError(f"{path}: {labels.null_count} cells have no cell_id: name every cell, or leave the column out")
    if pc.count_distinct(labels).as_py() != len(labels):
        counts = labels.value_counts()
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        raise InputError(f"{path}: cell_id {twice[0]['values']} occurs {twice[0]['counts']} times: ids must be unique")
