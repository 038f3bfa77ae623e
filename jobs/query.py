"""`rankshift query`: one SELECT over a run, to a terminal or streamed to a file."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from rankshift.screen.atomic import replacing
from rankshift.screen.errors import InputError
from rankshift.screen.results import Run

FORMATS = ("table", "csv", "parquet", "json")
SHOWN = 200  # rows of a table in a terminal


def query(
    run: Path, sql: str, *, format: str = "table", out: Path | None = None, say: Callable[[str], None] = print
) -> None:
    """Answer `sql` over the run in one of FORMATS, on the terminal or in the file `out`; rows are streamed."""
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    opened = Run.open(run)
    if out is not None and opened.path.resolve() in out.resolve().parents:
        raise InputError(f"{out} lies inside the run, which queries never write to: give another --out")
    if not opened.complete:
        say(f"{len(opened.committed)} of {opened.manifest['shards']} shards are there; the rest comes with --resume")
    with opened.connect() as connection:
        reader = opened.query(connection, sql).to_arrow_reader(100_000)
        if format == "table":
            _show(reader, say)
        elif out is None:
            _write(reader, format, sys.stdout.buffer)
        else:
            with replacing(out) as temporary, temporary.open("wb") as sink:
                _write(reader, format, sink)


def _write(reader: pa.RecordBatchReader, format: str, sink: Any) -> None:
    if format == "parquet":
        with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
    elif format == "csv":
        with pyarrow.csv.CSVWriter(pa.PythonFile(sink, mode="w"), reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    else:
        sink.write(b"[")
        lead = b"\n"
        for batch in reader:
            for row in batch.to_pylist():
                sink.write(lead + json.dumps({k: _plain(v) for k, v in row.items()}, default=str).encode())
                lead = b",\n"
        sink.write(b"\n]\n")
    sink.flush()


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value


def _show(reader: pa.RecordBatchReader, say: Callable[[str], None]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for field in reader.schema:
        number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_decimal(field.type)
        table.add_column(field.name, justify="right" if number else "left")
    rows = 0
    for batch in reader:
        for row in batch.to_pylist():
            rows += 1
            if rows <= SHOWN:
                table.add_row(*(_cell(v) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if rows > SHOWN:
        say(f"{SHOWN} of {rows:,} rows shown: add LIMIT, or write them all with --format parquet --out FILE")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
