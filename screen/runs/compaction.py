"""Compaction: the committed parts of a run copied into few files, sorted by perturbation, then cell, for quick queries.

Nothing that exists is changed: files are written beside the parts, and one index, replaced as a whole, makes readers take
them (module `compacted`). Killed at any moment, readers see every committed row once. It refuses a run in an object store.
"""

import fcntl
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.errors import InputError
from rankshift.screen.runs.compacted import INDEX, INDEX_VERSION, Generation, generations
from rankshift.screen.runs.folder import RunFolder
from rankshift.screen.runs.layout import COMPACTED, EMPTY_PART, GENES, SHIFTS
from rankshift.screen.runs.markers import Stamp, stamped
from rankshift.screen.runs.shards import encodings
from rankshift.screen.runs.sql import limited
from rankshift.screen.runs.sums import read_before, stamp_of, sums_of, trust
from rankshift.screen.runs.views import literal, quoted
from rankshift.screen.runs.writing import writing

LOCK = ".lock"
GROUP_ROWS = 1 << 17  # of a row group: what a query for one gene reads at least, a megabyte or two
FILE_ROWS = 1 << 24  # of a file: some 200 MB
GROWTH = 2  # a generation is written anew with what came after it, once that is half of it
TICK = 100_000_000  # nanoseconds, more than a tick of any file system's clock but FAT's
MEMORY = "1GB"  # of the sort; what is longer goes through temporary files beside the copy
ORDER = {SHIFTS: ("perturbation", "cell"), GENES: ("perturbation", "affected", "cell", "cells")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What was done. shards, rows: that were not compacted before; files: that the run has now, of so many bytes."""

    shards: int
    rows: int
    files: int
    bytes: int


def compact(run: RunFolder) -> Compaction:
    """Copy what is committed and not compacted yet. Doing it again does nothing, and a run that goes on may be compacted.

    Raises InputError where another process is doing it.
    """
    if run.mirror is not None:
        raise InputError(f"{run.mirror.url} is in an object store: compact a copy of it on a disk")
    path = run.path.resolve()
    place = path / COMPACTED
    place.mkdir(exist_ok=True)
    with _alone(place):
        before = generations(path)
        markers = run.committed
        shards = {name: shard for name, shard in stamped(path).items() if markers.get(name) == shard[1]}
        kept = [one for one in before if one.stands(path, markers)]
        new = {name: shard for name, shard in shards.items() if not any(name in one.shards for one in kept)}
        told = list(kept)
        if new:
            gathered, rows = dict(new), _rows(new)
            while told and told[-1].rows < GROWTH * rows:
                merged = told.pop()
                gathered, rows = {**merged.shards, **gathered}, rows + merged.rows
            folders = [SHIFTS] if run.manifest.gene_shifts is None else [SHIFTS, GENES]
            written = {folder: tuple(_sorted(path, folder, list(gathered))) for folder in folders}
            names = [name for names in written.values() for name in names]
            stamps = {name: stamp_of(place / name) for name in names}
            sums = sums_of(place, names)
            trust(place, {name: (stamps[name], sums[name]["sha256"]) for name in names})
            told.append(Generation(shards=gathered, files=written, sums=sums))
        if tuple(told) != before:
            _switch(place, told, _settled(path, told))
        # Queries under way may still read what the index named until now; the next compaction removes it.
        _tidy(place, [*told, *before])
    named = [name for one in told for names in one.files.values() for name in names]
    size = sum((place / name).stat().st_size for name in named)
    return Compaction(shards=len(new), rows=_rows(new), files=len(named), bytes=size)


def clear(run: Path) -> None:
    """Remove what a compaction that was killed has left in the midst of writing; what readers see stays as it is."""
    place = run.resolve() / COMPACTED
    if place.is_dir():
        with suppress(InputError), _alone(place):  # whoever compacts now tidies up as well
            for path in place.glob(".*"):
                if path.name != LOCK:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _rows(shards: dict) -> int:
    return sum(int(marker["rows"]) for _, marker in shards.values())


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Refuse a second compaction of the same run at once; the lock of a process that died is gone with it."""
    with (place / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{place.parent} is being compacted by another process: wait for it") from error
        yield


def _sorted(run: Path, folder: str, shards: Sequence[str]) -> Iterator[str]:
    """Write the rows of these shards in order; yields the names of the files, each of them on the disk."""
    schema = pq.read_schema(run / folder / f"{EMPTY_PART}.parquet")
    keys = ", ".join(quoted(name) for name in ORDER[folder] if name in schema.names)
    names = ", ".join(quoted(name) for name in schema.names)
    parts = ", ".join(literal(str(run / folder / f"{name}.parquet")) for name in shards)
    query = f"SELECT {names} FROM read_parquet([{parts}]) ORDER BY {keys}"
    generation = uuid.uuid4().hex[:8]
    with limited(memory_limit=MEMORY, temp_directory=str(run / COMPACTED / f".{generation}.tmp")) as connection:
        try:
            batches = iter(connection.sql(query).to_arrow_reader(GROUP_ROWS))
            number, first = 0, next(batches, None)
            while first is not None:
                name = f"{folder}-{generation}-{number:04d}.parquet"
                with writing(run, run / COMPACTED / name) as temporary:
                    first = _write(temporary, schema, first, batches)
                yield name
                number += 1
        except (duckdb.Error, pa.ArrowException) as error:
            raise InputError(f"{run} cannot be compacted ({' '.join(str(error).split())[:200]})") from error


def _write(
    path: Path, schema: pa.Schema, first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]
) -> pa.RecordBatch | None:
    """Write one file; returns the batch that no longer went into it, None where none is left."""
    rows, batch = 0, first
    with pq.ParquetWriter(path, schema, **encodings(schema)) as writer:
        while batch is not None and rows < FILE_ROWS:
            rows += batch.num_rows
            writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=GROUP_ROWS)
            batch = next(rest, None)
    return batch


def _settled(run: Path, told: Sequence[Generation]) -> dict[str, tuple[Stamp, str]]:
    """What was read here of the sorted files and of the run's own, so that no query reads all of them again.

    A file that was written just now is left out, because what would be written to it within a tick of the clock of the file
    system might leave its stamp as it is.
    """
    before = time.time_ns() - TICK
    names = [f"{COMPACTED}/{name}" for one in told for name in one.sums] + sorted(p.name for p in run.glob("*.parquet"))
    return {name: found for name, found in read_before(run, names).items() if found[0][1] < before}


def _switch(place: Path, told: Sequence[Generation], read: Mapping[str, tuple[Stamp, str]]) -> None:
    """From here on readers take these generations. read: files that they need not hold against their sums again."""
    entries = [{"files": one.files, "shards": one.shards, "sums": one.sums} for one in told]
    with writing(place.parent, place / INDEX) as temporary:
        temporary.write_text(json.dumps({"version": INDEX_VERSION, "generations": entries, "read": read}))


def _tidy(place: Path, told: Sequence[Generation]) -> None:
    """Remove files that no generation names, also those of compactions that were killed."""
    named = {INDEX, LOCK, *(name for one in told for names in one.files.values() for name in names)}
    for path in sorted(place.rglob("*"), reverse=True):
        if path.relative_to(place).parts[0] not in named:
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
