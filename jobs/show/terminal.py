"""Rows of a query on a terminal: a table where it fits, one record below the other where it does not. Numbers stay whole."""

import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankshift.jobs.show.escapes import printable

SHOWN = 200  # rows of a table
RECORDS = 20  # rows shown as records
NARROWEST = 12  # columns that a text is cut to at least
GAP = 2


def show(reader: pa.RecordBatchReader, say: Callable[[str], None]) -> None:
    """Print the first rows of a query; `say` tells what is not shown. Nothing is cut where the output is no terminal."""
    rows: list[list[str]] = []
    total = 0
    for batch in reader:
        if total < SHOWN:
            columns = [[_text(v) for v in column.to_pylist()] for column in batch.slice(0, SHOWN - total).columns]
            rows += map(list, zip(*columns, strict=True))
        total += batch.num_rows
    names = [printable(name) for name in reader.schema.names]
    numbers = [_number(field.type) for field in reader.schema]
    wide = [_width([name, *(row[i] for row in rows)]) for i, name in enumerate(names)]
    console = Console(highlight=False)
    room = console.width - GAP * (len(names) - 1)
    if not sys.stdout.isatty():
        console, room = Console(highlight=False, width=sum(wide) + GAP * len(wide)), sum(wide)
    if widths := _fitting(wide, [w if n else min(w, NARROWEST) for w, n in zip(wide, numbers, strict=True)], room):
        console.print(_table(names, rows, numbers, widths))
    else:
        rows = rows[:RECORDS]
        _records(console, names, rows)
    if total > len(rows):
        say(f"{len(rows)} of {total:,} rows shown: add LIMIT, or write them all with --out FILE.parquet")
    elif total == 0:
        say("no rows")


def _fitting(wide: list[int], least: list[int], room: int) -> list[int] | None:
    """Widths of the columns within `room`, the widest cut first; None where even the `least` do not fit."""
    widths = list(wide)
    while sum(widths) > room:
        spare = [w - small for w, small in zip(widths, least, strict=True)]
        if not any(spare):
            return None
        widest = max((i for i, s in enumerate(spare) if s), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _table(names: list[str], rows: list[list[str]], numbers: list[bool], widths: list[int]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP // 2))
    for name, number, width in zip(names, numbers, widths, strict=True):
        table.add_column(
            Text(name), justify="right" if number else "left", no_wrap=True, overflow="ellipsis", width=width
        )
    for row in rows:
        table.add_row(*map(Text, row))  # as text: what looks like markup in a cell id stays
    return table


def _records(console: Console, names: list[str], rows: list[list[str]]) -> None:
    wide = _width(names)
    for number, row in enumerate(rows, 1):
        console.print(Text(f"row {number}", style="bold"))
        for name, value in zip(names, row, strict=True):
            line = Text(f"  {name}{' ' * (wide - cell_len(name))}  {value}")
            console.print(line, soft_wrap=True)


def _width(texts: list[str]) -> int:
    return max(map(cell_len, texts))


def _number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def _text(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    return printable(f"{value:.6g}" if isinstance(value, float) else str(value))
