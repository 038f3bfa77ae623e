"""Two runs side by side, or two quantities of one: every gene that both have, the line through them, and who leaves it."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.explore.columns import columns_of, first_row
from rankshift.screen.explore.opened.names import kept
from rankshift.screen.explore.opened.quantities import FEWEST
from rankshift.screen.explore.opened.session import Session
from rankshift.screen.explore.opened.shown_run import ShownRun
from rankshift.screen.runs.views import quoted

POINTS = 20_000  # that are drawn at most, those that leave the line farthest


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One axis: a run and its quantity, by default the one that judges it."""

    run: ShownRun
    quantity: str | None = None

    @property
    def column(self) -> str:
        """Of the kept means, as SQL."""
        return quoted(self.run.quantity(self.quantity).name)


def compared(session: Session, x: Side, y: Side, *, fewest: int = FEWEST, limit: int | None = POINTS) -> pa.Table:
    """Perturbations of the same genes in both runs, those farthest from the line first.

    Columns: gene_ids, symbols, x, y, cells_x, cells_y, residual (y minus the least-squares line over x), perturbation_x,
    perturbation_y. fewest: cells that a perturbation has in either run.
    """
    return session.ask(
        f"""WITH joint AS ({_joined(x, y)}), line AS (SELECT regr_slope(y, x) AS slope, regr_intercept(y, x) AS base FROM joint)
            SELECT joint.*, y - (slope * x + base) AS residual FROM joint, line
            ORDER BY abs(residual) DESC NULLS LAST, gene_ids {"" if limit is None else f"LIMIT {int(limit)}"}""",
        {"fewest": fewest},
    )


def comparison(session: Session, x: Side, y: Side, *, fewest: int = FEWEST) -> dict[str, Any]:
    """The points of `compared`, and of all of them: n, slope, base, Pearson's and Spearman's correlation.

    Raises InputError where the runs share no gene.
    """
    summary = first_row(
        session.ask(
            f"""WITH joint AS ({_joined(x, y)}),
                ranks AS (SELECT rank() OVER (ORDER BY x) + (count(*) OVER (PARTITION BY x) - 1) / 2 AS rx,
                                 rank() OVER (ORDER BY y) + (count(*) OVER (PARTITION BY y) - 1) / 2 AS ry FROM joint)
                SELECT (SELECT count(*) FROM joint) AS n, (SELECT regr_slope(y, x) FROM joint) AS slope,
                       (SELECT regr_intercept(y, x) FROM joint) AS base, (SELECT corr(x, y) FROM joint) AS pearson,
                       (SELECT corr(rx, ry) FROM ranks) AS spearman""",
            {"fewest": fewest},
        )
    )
    assert summary is not None
    if not summary["n"]:
        raise InputError(
            f"{x.run.name} and {y.run.name} share no gene with {fewest} cells in both: choose fewer cells, or other runs"
        )
    points = compared(session, x, y, fewest=fewest)
    return {"summary": summary, "points": columns_of(points), "fewest": fewest}


def _joined(x: Side, y: Side) -> str:
    return f"""SELECT a.gene_ids, a.symbols, a.{x.column} AS x, b.{y.column} AS y, a.cells AS cells_x, b.cells AS cells_y,
        a.perturbation AS perturbation_x, b.perturbation AS perturbation_y
        FROM {kept("means", x.run.number)} a JOIN {kept("means", y.run.number)} b ON b.gene_ids = a.gene_ids
        WHERE a.cells >= $fewest AND b.cells >= $fewest AND a.{x.column} IS NOT NULL AND b.{y.column} IS NOT NULL"""
