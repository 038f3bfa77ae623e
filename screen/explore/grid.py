"""The table of perturbations, a page at a time: sorted and filtered by DuckDB, so that its size does not matter."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.explore.columns import columns_of
from rankshift.screen.explore.opened.quantities import FEWEST
from rankshift.screen.explore.opened.session import Session
from rankshift.screen.explore.opened.shown_run import Column, ShownRun
from rankshift.screen.runs.views import quoted

PAGE = 25
LARGEST_PAGE = 500
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COMPARED = re.compile(rf"\s*(<=|>=|<|>|=|\|>\|)?\s*({NUMBER})\s*$")
BETWEEN = re.compile(rf"\s*({NUMBER})\s*\.\.\s*({NUMBER})\s*$")
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")
HOW = "use 5, >5, <=5, |>|5 for the size, or 1..5"


def page(
    session: Session,
    shown: ShownRun,
    *,
    filters: Mapping[str, str],
    sort: str | None,
    falling: bool,
    number: int,
    size: int,
) -> dict[str, Any]:
    """Rows of page `number`, from 1, by column with `perturbation`, and how many rows the filters leave of how many.

    fewest: cells of the rows that come first where no column sorts.
    """
    size = max(1, min(size, LARGEST_PAGE))
    where, values = _condition(shown, filters)
    counts = session.ask(f"SELECT count(*) FILTER ({where}) AS n, count(*) AS total FROM {shown.table}", values)
    rows = rows_of(
        session, shown, filters=filters, sort=sort, falling=falling, limit=size, offset=size * (max(number, 1) - 1)
    )
    return {
        "rows": columns_of(rows),
        "n": counts["n"][0].as_py(),
        "total": counts["total"][0].as_py(),
        "size": size,
        "fewest": FEWEST,
    }


def rows_of(
    session: Session,
    shown: ShownRun,
    *,
    filters: Mapping[str, str],
    sort: str | None,
    falling: bool,
    limit: int | None = None,
    offset: int = 0,
) -> pa.Table:
    """Perturbations that the filters leave, sorted: by a column, what is empty last, or by the size of the first quantity,
    those of `FEWEST` cells or more first, because the largest means of all are those of one cell.

    filters: by column, in a text anything that it holds, of numbers a comparison. Raises InputError for what is no filter.
    """
    where, values = _condition(shown, filters)
    columns = ", ".join(["perturbation", *(quoted(column.key) for column in shown.columns)])
    if sort is None:
        order = f"cells >= {FEWEST} DESC, abs({quoted(shown.quantities[0].name)}) DESC NULLS LAST"
    else:
        order = f"{quoted(_column(shown, sort).key)} {'DESC' if falling else 'ASC'} NULLS LAST"
    cut = "" if limit is None else f" LIMIT {int(limit)} OFFSET {int(offset)}"
    return session.ask(f"SELECT {columns} FROM {shown.table} WHERE {where} ORDER BY {order}, perturbation{cut}", values)


def filters_of(text: str | None) -> dict[str, str]:
    """Filters as they stand in a URL, JSON of {column: text}; raises InputError where it is something else."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"filters are no JSON ({error}): give an object of texts by column") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InputError("filters are no object of texts by column")
    return {name: value for name, value in found.items() if value.strip()}


def _condition(shown: ShownRun, filters: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """A WHERE of all filters, and its parameters."""
    parts: list[str] = ["true"]
    values: dict[str, Any] = {}
    for place, (name, text) in enumerate(filters.items()):
        column, key = _column(shown, name), f"f{place}"
        place_sql = quoted(column.key)
        if column.kind == "text":
            parts.append(f"contains(lower({place_sql}), lower(${key}))")
            values[key] = text.strip()
        elif column.kind == "mark":
            if text.strip().lower() not in TRUE + FALSE:
                raise InputError(f"{column.title} is yes or no, not {text!r}: use true or false")
            parts.append(f"coalesce({place_sql}, false) = {str(text.strip().lower() in TRUE).lower()}")
        elif (found := BETWEEN.match(text)) is not None:
            parts.append(f"{place_sql} BETWEEN ${key} AND ${key}b")
            values |= {key: float(found[1]), f"{key}b": float(found[2])}
        elif (found := COMPARED.match(text)) is not None:
            sign = found[1] or "="
            parts.append(f"abs({place_sql}) > ${key}" if sign == "|>|" else f"{place_sql} {sign} ${key}")
            values[key] = float(found[2])
        else:
            raise InputError(f"{column.title} holds numbers, {text!r} compares with none: {HOW}")
    return " AND ".join(parts), values


def _column(shown: ShownRun, key: str) -> Column:
    for column in shown.columns:
        if column.key == key:
            return column
    raise InputError(f"run {shown.name} has no column {key!r}: use one of {', '.join(c.key for c in shown.columns)}")
