"""Shards: blocks of cells x perturbations with deterministic names, the unit of work, retry and commit.

A shard is committed by its marker, written after its part: what has no marker does not exist for any reader.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.runs.layout import genes_path, marker_path, part_path
from rankshift.screen.runs.sums import FILES, sums_of
from rankshift.screen.runs.writing import writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Cells first_cell..last_cell-1 of a run; if that is a single cell, only its lists first_list..last_list-1.

    `lists`: how many perturbed lists there are, and so rows of the part.
    """

    index: int
    first_cell: int
    last_cell: int
    first_list: int
    last_list: int
    lists: int

    @property
    def name(self) -> str:
        """The same for the same run on any machine."""
        return f"shard-{self.index:06d}"


def plan(counts: np.ndarray, lengths: np.ndarray, tokens: int) -> Iterator[Shard]:
    """Cut cells with `counts` perturbed lists of about `lengths` rows into shards of about `tokens` rows.

    A shard takes whole cells until it is full; a cell larger than a shard is cut into even parts. Cells without a list
    cost nothing and belong to the shard around them.

    >>> [(s.first_cell, s.last_cell, s.lists) for s in plan(np.array([3, 1, 9]), np.array([10, 10, 10]), 40)]
    [(0, 2, 4), (2, 3, 3), (2, 3, 3), (2, 3, 3)]
    """
    index, first, lists, filled = 0, 0, 0, 0
    for cell, (count, length) in enumerate(zip(counts.tolist(), lengths.tolist(), strict=True)):
        size = count * length
        if lists and filled + size > tokens:
            yield Shard(index=index, first_cell=first, last_cell=cell, first_list=0, last_list=lists, lists=lists)
            index, first, lists, filled = index + 1, cell, 0, 0
        if size > tokens:
            parts = min(-(-size // tokens), count)
            edges = [count * i // parts for i in range(parts + 1)]
            for a, b in pairwise(edges):
                yield Shard(index=index, first_cell=cell, last_cell=cell + 1, first_list=a, last_list=b, lists=b - a)
                index += 1
            first = cell + 1
        else:
            lists, filled = lists + count, filled + size
    if lists:
        yield Shard(index=index, first_cell=first, last_cell=len(counts), first_list=0, last_list=lists, lists=lists)


COLUMNS = ("first_cell", "last_cell", "first_list", "last_list", "lists")


class Shards(Sequence[Shard]):
    """All shards of a run as columns, int32 [5, shards] in the order of COLUMNS. Each is made when it is asked for."""

    def __init__(self, columns: np.ndarray) -> None:
        self._columns = columns

    @staticmethod
    def of(shards: Iterable[Shard]) -> "Shards":
        """Those of a plan, which numbers them from 0."""
        rows = [(s.first_cell, s.last_cell, s.first_list, s.last_list, s.lists) for s in shards]
        return Shards(np.array(rows, np.int32).reshape(-1, len(COLUMNS)).T)

    @staticmethod
    def read(path: Path) -> "Shards":
        """Those that a run records."""
        table = pq.read_table(path, columns=list(COLUMNS))
        return Shards(np.stack([table[name].to_numpy() for name in COLUMNS]))

    def write(self, path: Path) -> None:
        """Record them in a run that is being made."""
        _table(path, dict(zip(COLUMNS, self._columns, strict=True)))

    def __len__(self) -> int:
        return self._columns.shape[1]

    @overload
    def __getitem__(self, index: int) -> Shard: ...

    @overload
    def __getitem__(self, index: slice) -> list[Shard]: ...

    def __getitem__(self, index: int | slice) -> Shard | list[Shard]:
        """One shard, or some in a list."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return Shard(index=at, **dict(zip(COLUMNS, self._columns[:, at].tolist(), strict=True)))


def write_counts(path: Path, counts: np.ndarray) -> None:
    """Record in a run that is being made how many perturbed lists each of its cells has."""
    _table(path, {"lists": counts.astype(np.int32)})


def read_counts(path: Path) -> np.ndarray:
    """int64 [cells]: what `write_counts` recorded."""
    return pq.read_table(path, columns=["lists"])["lists"].to_numpy().astype(np.int64)


def _table(path: Path, columns: dict[str, np.ndarray]) -> None:
    pq.write_table(
        pa.table(columns),
        path,
        compression="zstd",
        use_dictionary=False,
        column_encoding=dict.fromkeys(columns, "DELTA_BINARY_PACKED"),
    )


def commit(run: Path, shard: Shard, shifts: pa.Table, record: dict, genes: pa.Table | None = None) -> list[str]:
    """Write a shard's parts, then its marker, and return their names in this order.

    Each is there whole or not at all; doing it twice changes nothing. Raises InputError where the run is gone.
    """
    written = [part_path(run, shard.name)]
    _write(shifts, written[0], run)
    if genes is not None:
        written.append(genes_path(run, shard.name))
        _write(genes, written[1], run)
    marker = marker_path(run, shard.name)
    with writing(run, marker) as temporary:
        files = sums_of(run, (path.relative_to(run).as_posix() for path in written))
        temporary.write_text(json.dumps({"shard": shard.name, "rows": shifts.num_rows, **record, FILES: files}))
    return [*files, marker.relative_to(run).as_posix()]


def encodings(schema: pa.Schema) -> dict[str, Any]:
    """How parts are written, for a writer of pyarrow."""
    # Floats are byte-stream split: similar exponents lie together and compress.
    floats = [f.name for f in schema if pa.types.is_floating(f.type)]
    ids = [f.name for f in schema if pa.types.is_integer(f.type)]
    encoded = {**dict.fromkeys(floats, "BYTE_STREAM_SPLIT"), **dict.fromkeys(ids, "DELTA_BINARY_PACKED")}
    return {"compression": "zstd", "use_dictionary": False, "column_encoding": encoded}


def _write(table: pa.Table, path: Path, run: Path) -> None:
    with writing(run, path) as temporary:
        pq.write_table(table, temporary, **encodings(table.schema))
