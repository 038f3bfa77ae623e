"""`rankshift query`: one SELECT over a run and others beside it, to a terminal or streamed to a file."""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from rankshift.jobs.show.terminal import show
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.query_memory import limited_process, refused_in_words
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sql import ask, refusal, setup

FORMATS = ("table", "csv", "parquet", "json")
BATCH = 100_000  # rows on their way to a file


def query(
    run: Path,
    sql: str | None,
    *,
    others: Sequence[str] = (),
    tables: Sequence[str] = (),
    views: bool = False,
    format: str | None = None,
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Answer `sql` over the run in one of FORMATS, on the terminal or in the file `out`; rows are streamed.

    others: runs as NAME=FOLDER, or FOLDER alone for its own name; tables: files as NAME=FILE. views: print the statements
    that make the views instead. format: by default that of the ending of `out`, on the terminal a table.
    """
    opened = Run.open(run)
    runs = {name: Run.open(Path(path)) for name, path in named_paths(others, "--with", "RUN").items()}
    files = {name: Path(path) for name, path in named_paths(tables, "--table", "FILE").items()}
    check_asked(sql, views)
    if views:
        print(setup(opened, runs, files))
        return
    format = format_of(format, out)
    for one in (opened, *runs.values()):
        if out is not None and one.holds(out):
            raise InputError(f"{out} lies inside the run, which queries never write to: give another --out")
        if not one.complete and one.partial:
            say(f"{one.path}: the adaptive screen has not ended; it goes on with rankshift resume")
        elif one.partial:
            say(
                f"{one.path} is adaptive: its view shifts has all cells of finished genes and some of estimated ones, column "
                "gene_state says of which; means and intervals of all are in its view answers"
            )
        elif not one.complete:
            there, shards = len(one.done), one.manifest.shards
            say(f"{one.path}: {there} of {shards} shards are there; the rest comes with --resume")
    with refused_in_words(), limited_process(), opened.connect(runs, files) as connection:
        answer(connection, str(sql), opened, runs, format, out, say)


def check_asked(sql: str | None, views: bool) -> None:
    """Refuse a query beside --views, and neither of them."""
    if views == (sql is not None):
        raise InputError("give one SELECT, or --views for the statements that make the views" if not views else
                         "--views prints the views and answers no query: leave one of them out")  # fmt: skip


def answer(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    run: Run | None,
    others: Mapping[str, Run],
    format: str,
    out: Path | None,
    say: Callable[[str], None],
) -> None:
    """Show or write the rows of a query; run, others: as for `ask`."""
    try:
        reader = ask(connection, sql, run, others).to_arrow_reader(BATCH)
        if format == "table":
            show(reader, say)
        elif out is None:
            _write(reader, format, sys.stdout.buffer)
        else:
            with replacing(out) as temporary, temporary.open("wb") as sink:
                rows = _write(reader, format, sink)
            say(f"{out}: {rows:,} rows")
    except duckdb.Error as error:  # this error came up while rows were computed
        raise refusal(error, sql, run, others) from error


def named_paths(given: Sequence[str], option: str, what: str) -> Mapping[str, str]:
    """{name: path} of NAME=PATH; a PATH alone is named like its file or folder."""
    out: dict[str, str] = {}
    for text in given:
        name, _, path = text.partition("=")
        if not path:
            name, path = Path(text).resolve().stem, text
        if name in out:
            raise InputError(f"{option} names {name!r} twice: give each a name of its own, {option} NAME={what}")
        out[name] = path
    return out


def format_of(format: str | None, out: Path | None) -> str:
    """The format asked for, or that of the ending of `out`; raises InputError where they do not go together."""
    if format is None:
        format = "table" if out is None else out.suffix.removeprefix(".").lower()
        if out is not None and format not in FORMATS[1:]:
            raise InputError(f"--out {out} has no known ending: end it in .csv, .parquet or .json, or give --format")
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    if format == "table" and out is not None:
        raise InputError(f"a table is for the terminal: give csv, parquet or json for --out {out}")
    if format == "parquet" and out is None and sys.stdout.isatty():
        raise InputError("parquet is not for reading on a terminal: give --out FILE.parquet")
    return format


def _write(reader: pa.RecordBatchReader, format: str, sink: Any) -> int:
    """Write all rows; returns their number. Batches come and go, so memory holds a few of them."""
    twice = [name for name, n in Counter(reader.schema.names).items() if n > 1]
    if twice:
        raise InputError(f"column {twice[0]!r} comes {reader.schema.names.count(twice[0])} times: rename with AS")
    rows = 0
    if format == "json":
        sink.write(b"[")
        lead = b"\n"
        for batch in reader:
            rows += batch.num_rows
            for row in batch.to_pylist():
                sink.write(lead + json.dumps(_plain(row), default=str).encode())
                lead = b",\n"
        sink.write(b"\n]\n")
    else:
        try:
            with _writer(reader.schema, format, pa.PythonFile(sink, mode="w")) as writer:
                for batch in reader:
                    rows += batch.num_rows
                    writer.write_batch(batch)
        except pa.ArrowInvalid as error:
            raise InputError(f"{format} cannot hold this ({error}): cast the column, or use another format") from error
    sink.flush()
    return rows


def _writer(schema: pa.Schema, format: str, sink: pa.PythonFile) -> Any:
    if format == "parquet":
        return pq.ParquetWriter(sink, schema, compression="zstd")
    return pyarrow.csv.CSVWriter(sink, schema, write_options=pyarrow.csv.WriteOptions(quoting_style="needed"))


def _plain(value: Any) -> Any:
    """What JSON has a word for: no NaN, no infinity, sums of integers as numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
