"""The page of one perturbation: its place among all, its cells and groups, the same gene in the other runs, what it moves."""

from typing import Any

import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.explore.columns import columns_of, first_row
from rankshift.screen.explore.opened.names import kept
from rankshift.screen.explore.opened.own_tables import GENES
from rankshift.screen.explore.opened.session import Session
from rankshift.screen.explore.opened.shown_run import ShownRun
from rankshift.screen.runs.views import absent, quoted

CELLS = 600  # single cells that are drawn of a perturbation
FOUND = 30  # names that a search offers
EFFECTS = 25  # genes of the most moved ones that are shown


def find(session: Session, shown: ShownRun, words: str) -> dict[str, list]:
    """Perturbations by what their ids and symbols begin with, else hold: perturbation, symbols, gene_ids, cells.

    What is written in full comes first, then what begins so, then by the size of the effect.
    """
    first = quoted(shown.quantity(None).name)
    rows = session.ask(
        f"""SELECT m.perturbation, m.symbols, m.gene_ids, m.cells FROM {shown.table} m JOIN (
            SELECT perturbation, min(CASE WHEN name = $words THEN 0 WHEN starts_with(name, $words) THEN 1 ELSE 2 END) AS near
            FROM {GENES} WHERE run = {shown.number} AND contains(name, $words) GROUP BY 1) g
            ON g.perturbation = m.perturbation ORDER BY g.near, abs(m.{first}) DESC NULLS LAST, m.perturbation LIMIT {FOUND}""",
        {"words": words.strip().upper()},
    )
    return columns_of(rows)


def number_of(session: Session, shown: ShownRun, name: str) -> int:
    """The number of the perturbation with these gene ids or symbols; raises InputError where the run's table has none."""
    found = first_row(
        session.ask(
            f"""SELECT perturbation FROM {shown.table}
                WHERE upper($name) IN (upper(gene_ids), upper(symbols)) ORDER BY 1 LIMIT 1""",
            {"name": name},
        )
    )
    if found is None:
        raise InputError(f"run {shown.name} has no perturbation {name!r}: search for one of its genes")
    return int(found["perturbation"])


def gene(session: Session, shown: ShownRun, number: int, quantity: str | None, by: str | None) -> dict[str, Any] | None:
    """All that the page of the perturbation `number` shows at once; None where the run has no rows of it.

    row: its row of the table. place: 1 for the largest mean of `quantity`, of `of` perturbations. sample: single cells, by
    values of the obs column `by`. groups: n, mean, sd, median and quartiles by its values. arms: the same genes in all runs.
    own: rows of the user's tables. Of a gene that an adaptive run has not finished there is no place and no cell.
    """
    one, by = shown.quantity(quantity), shown.group(by)
    column = quoted(one.name)
    row = first_row(session.ask(f"SELECT * FROM {shown.table} WHERE perturbation = $n", {"n": number}))
    if row is None:
        return None
    place = first_row(
        session.ask(
            f"SELECT CASE WHEN any_value(own) IS NOT NULL THEN count_if({column} > own) + 1 END AS place, "
            f'count({column}) AS "of" FROM {shown.table}, '
            f"(SELECT {column} AS own FROM {shown.table} WHERE perturbation = $n)",
            {"n": number},
        )
    )
    label = "''" if by is None else f"c.{quoted(by)}"
    joined = (
        f"{shown.rows} r JOIN {shown.cells} c ON c.cell = r.cell WHERE r.perturbation = $n AND {column} IS NOT NULL"
    )
    sample = session.ask(
        f"""SELECT r.cell, c.cell_id, {label} AS label, r.{column} AS value, count(*) OVER () AS total
            FROM {joined} ORDER BY hash(r.cell), r.cell LIMIT {CELLS}""",
        {"n": number},
    )
    groups = session.ask(
        f"""SELECT {label} AS label, count(*) AS cells, avg(r.{column}) AS mean, stddev_samp(r.{column}) AS sd,
            quantile_cont(r.{column}, 0.25) AS low, median(r.{column}) AS median, quantile_cont(r.{column}, 0.75) AS high
            FROM {joined} GROUP BY 1 ORDER BY 1""",
        {"n": number},
    )
    return {
        "row": row,
        **(place or {}),
        "total": sample["total"][0].as_py() if sample.num_rows else 0,
        "sample": columns_of(sample.drop_columns("total")),
        "groups": columns_of(groups),
        "arms": arms(session, row["gene_ids"]),
        "own": _own(session, shown, number),
    }


def arms(session: Session, gene_ids: str) -> list[dict[str, Any]]:
    """The perturbation of these genes in every run, a row for each of the run's quantities: both arms of a screen side by side.

    place: 1 for the largest mean, of `of` perturbations.
    """
    out = []
    for shown in session.runs.values():
        for one in shown.quantities:
            column = quoted(one.name)
            found = session.ask(
                f"""SELECT perturbation, kind, cells, {column} AS mean, {quoted(one.name + "_sd")} AS sd, place, "of" FROM (
                    SELECT *, rank() OVER (ORDER BY {column} DESC NULLS LAST) AS place, count(*) OVER () AS "of"
                    FROM {kept("means", shown.number)}) WHERE gene_ids = $ids""",
                {"ids": gene_ids},
            )
            out += [{"run": shown.name, "quantity": one.title, **row} for row in _rows(columns_of(found))]
    return out


def effects(session: Session, shown: ShownRun, number: int) -> dict[str, Any]:
    """The genes whose embeddings the perturbation turned most: gene, symbol, n, turn (1 - mean cosine), its standard deviation.

    lacking: why there are none, where the run kept no gene shifts.
    """
    if (why := absent(shown.run, "effects")) is not None:
        return {"lacking": why.removeprefix(f"{shown.run.path} "), "rows": None}
    rows = session.ask(
        f"""SELECT affected_gene AS gene, affected_symbol AS symbol, sum(n) AS n, 1 - sum(sum) / sum(n) AS turn,
            sqrt(greatest(sum(square) / sum(n) - (sum(sum) / sum(n)) * (sum(sum) / sum(n)), 0)) AS sd
            FROM {shown.schema}genes WHERE perturbation = $n GROUP BY ALL ORDER BY turn DESC, gene LIMIT {EFFECTS}""",
        {"n": number},
    )
    return {"lacking": None, "rows": columns_of(rows)}


def rows_of(session: Session, shown: ShownRun, number: int) -> pa.Table:
    """Every cell of a perturbation with all that was measured, and the groups: what a download holds."""
    values = ", ".join(f"r.{quoted(one.name)}" for one in shown.quantities)
    groups = "".join(f", c.{quoted(name)}" for name in shown.groups)
    return session.ask(
        f"""SELECT c.cell_id, m.gene_ids, m.symbols, {values}{groups} FROM {shown.rows} r
            JOIN {shown.cells} c ON c.cell = r.cell JOIN {kept("means", shown.number)} m ON m.perturbation = r.perturbation
            WHERE r.perturbation = $n ORDER BY r.cell""",
        {"n": number},
    )


def _own(session: Session, shown: ShownRun, number: int) -> dict[str, dict[str, list]]:
    """Rows of the user's tables that name a gene of the perturbation, at most 50 of each."""
    out = {}
    for table in session.tables.values():
        if table.key is not None:
            rows = session.ask(
                f"SELECT t.* FROM {quoted(table.name)} t WHERE upper(CAST(t.{quoted(table.key)} AS VARCHAR)) IN "
                f"(SELECT name FROM {GENES} WHERE run = {shown.number} AND perturbation = $n) LIMIT 50",
                {"n": number},
            )
            out[table.name] = columns_of(rows)
    return out


def _rows(columns: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
