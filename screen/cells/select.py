"""Which cells are screened, and in which order, which matters: states, an SQL condition, genes they must have, a sample."""

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankshift.screen.cells.cells import Cells, CellTable, blocks
from rankshift.screen.cells.labels import label_meant, labels_of, without_nan
from rankshift.screen.cells.sql_names import free_name, sql_names
from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import first_line

SEED = 42  # the published code samples cells with it (PS 2.2)


def select(
    cells: CellTable,
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
        for token, held in zip(contains, _containing(cells, contains), strict=True):
            before = len(rows)
            rows = rows[held[rows]]
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
    """Row numbers, ascending, for which the SQL condition over the table's columns holds; it can reach nothing else.

    Exactly one condition is taken: what DuckDB's own parser reads as one expression, by itself and within its parentheses.
    """
    table = without_nan(table)
    names = sql_names(table.column_names)
    row = free_name("row", names)
    table = table.rename_columns(names).append_column(row, pa.array(np.arange(table.num_rows)))
    alone: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "python_enable_replacements": False,
    }
    with duckdb.connect(":memory:", config=alone) as connection:
        connection.register("cells", table)
        try:
            duckdb.SQLExpression(where)
            duckdb.SQLExpression(f"({where}\n)")
            found = connection.execute(f'SELECT "{row}" FROM cells WHERE ({where}\n) ORDER BY 1').fetchnumpy()
        except duckdb.Error as error:
            columns = ", ".join(names)
            raise InputError(f"--where {where!r}: {first_line(error)}; the columns are {columns}") from error
    return np.asarray(found[row], dtype=np.int64)


def _in_state(cells: CellTable, rows: np.ndarray, key: str, start: str) -> np.ndarray:
    states = labels_of(cells.obs, key, "--state-key").take(pa.array(rows))
    label = label_meant(cells.obs.column(key), start)
    kept = rows[np.asarray(pc.fill_null(pc.equal(states, label), False))]
    if len(kept) == 0:
        found = states.drop_null().value_counts().to_pylist()
        counts = sorted(((c["values"], c["counts"]) for c in found), key=lambda c: -c[1])
        there = ", ".join(f"{state} ({n})" for state, n in counts[:10]) + (", …" if len(counts) > 10 else "")
        raise InputError(f"no cell has {key} = {start!r} (0 of {len(rows)}): the states are {there}")
    return kept


def _containing(cells: CellTable, tokens: Sequence[int]) -> np.ndarray:
    """bool [tokens, cells]: which cells hold a token."""
    found = np.zeros((len(tokens), len(cells)), bool)
    first = 0
    for some in [cells] if isinstance(cells, Cells) else blocks(cells):
        for row, token in zip(found, tokens, strict=True):
            hits = np.flatnonzero(some.ids == token)
            row[first + np.searchsorted(some.offsets, hits, side="right") - 1] = True
        first += len(some)
    return found
