"""Rows on their way to the page: lists by column, of what JSON has words for. No NaN, no infinity."""

import math
from decimal import Decimal
from typing import Any

import pyarrow as pa


def columns_of(table: pa.Table) -> dict[str, list]:
    """{column: values}; of columns that share a name the later ones get their place behind it.

    >>> columns_of(pa.table({"a": [1.5, float("nan")], "b": ["x", None]}))
    {'a': [1.5, None], 'b': ['x', None]}
    """
    out: dict[str, list] = {}
    for place, name in enumerate(table.column_names, 1):
        key = name
        while key in out:
            key = f"{key} ({place})"
        out[key] = [plain(value) for value in table.column(place - 1).to_pylist()]
    return out


def first_row(table: pa.Table) -> dict[str, Any] | None:
    """The first row by column, None of a table without rows."""
    return {name: values[0] for name, values in columns_of(table.slice(0, 1)).items()} if table.num_rows else None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: numbers that are none become None, what JSON has no type for becomes text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else str(value)
