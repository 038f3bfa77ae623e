"""The map of cells: its points, their colours, and perturbations ranked again for the cells that a lasso or a group holds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.explore.columns import columns_of
from rankshift.screen.explore.opened.cell_map import CellMap
from rankshift.screen.explore.opened.names import kept
from rankshift.screen.explore.opened.session import Session
from rankshift.screen.explore.opened.shown_run import ShownRun
from rankshift.screen.runs.views import quoted

FEWEST = 3  # chosen cells that a perturbation has at least
SHOWN = 200
ORDERS = {"mean": "mean_in", "difference": "difference"}


def ranked(
    session: Session,
    shown: ShownRun,
    cells: Sequence[int],
    quantity: str | None,
    *,
    order: str = "mean",
    limit: int | None = SHOWN,
) -> pa.Table:
    """A row per perturbation in FEWEST or more of the `cells`, the strongest first by `order`, one of ORDERS.

    Columns: perturbation, symbols, gene_ids, cells_in, mean_in, cells_out, mean_out, difference (mean_in - mean_out).
    Descriptive: the cells were chosen by eye, so nothing is tested. Raises InputError for no cells, or no such order.
    """
    if not cells:
        raise InputError("no cell is chosen: draw a lasso around some")
    if order not in ORDERS:
        raise InputError(f"order {order!r} is unknown: use one of {', '.join(ORDERS)}")
    column = shown.quantity(quantity).name
    mean, count = quoted(column), quoted(f"{column}_n")
    return session.ask(
        f"""SELECT m.perturbation, m.symbols, m.gene_ids, i.n AS cells_in, i.mean AS mean_in, m.{count} - i.n AS cells_out,
            (m.{mean} * m.{count} - i.mean * i.n) / nullif(m.{count} - i.n, 0) AS mean_out, mean_in - mean_out AS difference
            FROM (SELECT perturbation, count({mean}) AS n, avg({mean}) AS mean FROM {shown.rows}
                  WHERE cell IN (SELECT unnest($cells)) GROUP BY 1) i
            JOIN {kept("means", shown.number)} m ON m.perturbation = i.perturbation WHERE i.n >= {FEWEST}
            ORDER BY abs({ORDERS[order]}) DESC NULLS LAST, m.perturbation {"" if limit is None else f"LIMIT {int(limit)}"}""",
        {"cells": [int(cell) for cell in cells]},
    )


def ranked_again(session: Session, shown: ShownRun, asked: Mapping[str, Any]) -> dict[str, Any]:
    """`ranked` for what a page asks: `cells` (numbers), or those of `value` in the obs column `group`; quantity, order.

    Raises InputError where what is asked is something else.
    """
    group, cells = asked.get("group"), asked.get("cells", [])
    if group is not None:
        rows = session.ask(
            f"SELECT cell FROM {shown.cells} WHERE {quoted(shown.group(str(group)) or '')} = $value",
            {"value": asked.get("value")},
        )
        cells = rows["cell"].to_pylist()
    if not isinstance(cells, list) or not all(isinstance(cell, int) for cell in cells):
        raise InputError("cells are no list of numbers")
    quantity = asked.get("quantity")
    table = ranked(
        session, shown, cells, None if quantity is None else str(quantity), order=str(asked.get("order", "mean"))
    )
    return {"rows": columns_of(table), "cells": len(cells), "fewest": FEWEST}


def drawn(session: Session, shown: ShownRun) -> dict[str, Any]:
    """The map of a run: cell, x, y, cell_id, and the groups of the cells, coded; where it is from, of how many cells."""
    found: CellMap = session.maps[shown.name]
    names = ", ".join(["cell_id", *map(quoted, shown.groups)])
    rows = session.ask(
        f"SELECT {names} FROM {shown.cells} WHERE cell IN (SELECT unnest($cells)) ORDER BY cell",
        {"cells": found.cell.tolist()},
    )
    groups = {}
    for name, values in shown.groups.items():
        code = {value: i for i, value in enumerate(values)}
        groups[name] = {"names": list(values), "of": [code[value] for value in rows[name].to_pylist()]}
    return {
        "cell": found.cell.tolist(),
        "x": _rounded(found.place[:, 0]),
        "y": _rounded(found.place[:, 1]),
        "cell_id": rows["cell_id"].to_pylist(),
        "groups": groups,
        "axes": found.axes,
        "source": found.source,
        "total": found.total,
    }


def coloured(session: Session, shown: ShownRun, number: int | None, quantity: str | None) -> dict[str, Any]:
    """`value` of every drawn cell, None where it has none: of one perturbation (`symbols`), or the mean of all in the cell."""
    column = quoted(shown.quantity(quantity).name)
    cells = session.maps[shown.name].cell
    if number is None:
        found = session.ask(f"SELECT cell, {column} AS value FROM {kept('cell means', shown.number)}")
    else:
        found = session.ask(f"SELECT cell, {column} AS value FROM {shown.rows} WHERE perturbation = $n", {"n": number})
    values = np.full(len(cells), np.nan)
    there = found.filter(pa.compute.is_in(found["cell"], value_set=pa.array(cells)))
    values[np.searchsorted(cells, there["cell"].to_numpy())] = there["value"].to_numpy(zero_copy_only=False)
    named = session.ask(f"SELECT symbols FROM {kept('means', shown.number)} WHERE perturbation = $n", {"n": number})
    return {"value": _rounded(values), "symbols": named["symbols"][0].as_py() if named.num_rows else None}


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in values.tolist()]
