"""Neighbours of a perturbation by effect: those that move the same cells more, and the same cells less, than is usual there."""

from typing import Any

from rankshift.screen.explore.columns import columns_of
from rankshift.screen.explore.opened.names import kept
from rankshift.screen.explore.opened.session import Session
from rankshift.screen.explore.opened.shown_run import ShownRun
from rankshift.screen.runs.views import quoted

SHARED = 10  # cells that two perturbations have at least in common; of fewer a correlation says nothing
SHOWN = 12


def neighbours(session: Session, shown: ShownRun, number: int, quantity: str | None) -> dict[str, Any]:
    """Perturbations by falling correlation with `number`: perturbation, symbols, gene_ids, correlation, shared cells.

    Pearson's, over the cells that have both, of the value minus the mean of all perturbations in that cell: what is of the
    cell alone makes nobody a neighbour. Only where SHARED cells are.
    """
    column, usual = quoted(shown.quantity(quantity).name), kept("cell means", shown.number)
    rows = session.ask(
        f"""WITH own AS MATERIALIZED (
              SELECT r.cell, r.{column} - c.{column} AS value FROM {shown.rows} r
              JOIN {usual} c ON c.cell = r.cell WHERE r.perturbation = $n AND r.{column} IS NOT NULL),
            found AS (
              SELECT r.perturbation, corr(r.{column} - c.{column}, own.value) AS correlation, count(*) AS shared
              FROM {shown.rows} r JOIN own ON own.cell = r.cell JOIN {usual} c ON c.cell = r.cell
              WHERE r.{column} IS NOT NULL GROUP BY 1)
            SELECT f.perturbation, m.symbols, m.gene_ids, f.correlation, f.shared, m.{column} AS mean
            FROM found f JOIN {kept("means", shown.number)} m ON m.perturbation = f.perturbation
            WHERE f.shared >= {SHARED} AND f.perturbation <> $n AND isfinite(f.correlation)
            ORDER BY correlation DESC, f.perturbation LIMIT {SHOWN}""",
        {"n": number},
    )
    return {"rows": columns_of(rows), "shared": SHARED}
