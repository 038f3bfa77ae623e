"""What an adaptive screen says of every perturbation: finished with its mean, estimated with an interval, or untested."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.adaptive.allocation import Verdict
from rankshift.screen.adaptive.rows_of_run import RowsOfRun
from rankshift.screen.runs.layout import ANSWERS, PERTURBATIONS, VERDICT
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.writing import writing


def write_answers(run: Run, rows: RowsOfRun, verdict: Verdict, top: int) -> None:
    """Write the file behind the view `answers`, a row per perturbation.

    place: 1 for the strongest, of the genes asked for. state: finished (all cells measured, `mean` is the full screen's, the
    interval empty), estimated (`low` to `high` is a 95 % interval of what the full screen's mean would be) or untested (in too
    few cells; nothing is said). cells: with the perturbation; measured: of these. The file keeps the verdict in words.
    """
    of = rows.population
    count = pq.read_metadata(run.path / PERTURBATIONS).num_rows
    at = rows.perturbation
    state = np.full(count, "untested", dtype=object)
    state[at] = np.where(verdict.finished, "finished", "estimated")
    numbers = {name: np.full(count, np.nan) for name in ("mean", "low", "high")}
    numbers["mean"][at] = verdict.estimate
    open_ = np.where(verdict.finished, np.nan, verdict.half)
    numbers["low"][at], numbers["high"][at] = verdict.estimate - open_, verdict.estimate + open_
    cells, measured = np.zeros(count, np.int64), np.zeros(count, np.int64)
    cells[at] = of.count
    measured[at] = of.sums(np.flatnonzero(verdict.seen))
    place = np.full(count, np.nan)
    place[at[verdict.top]] = np.arange(1, len(verdict.top) + 1)
    table = pa.table(
        {
            "perturbation": pa.array(np.arange(count), pa.int32()),
            "place": pa.array(place, pa.int32(), from_pandas=True),
            "state": pa.array(state.tolist()),
            **{name: pa.array(values, pa.float64(), from_pandas=True) for name, values in numbers.items()},
            "cells": pa.array(cells, pa.int64(), mask=state == "untested"),
            "measured": pa.array(measured, pa.int64()),
        }
    ).replace_schema_metadata({VERDICT: said(rows, verdict, top)})
    with writing(run.path, run.path / ANSWERS) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    run.share(ANSWERS)


def said(rows: RowsOfRun, verdict: Verdict, top: int) -> str:
    """The verdict as a person would say it."""
    share = verdict.passes / (rows.lists + rows.population.cells)
    words = [
        f"{int(verdict.finished.sum()):,} genes finished",
        f"expected to miss {verdict.missed:.1f} of the top {top}",
        f"{share:.1%} of the passes of the full screen",
    ]
    if np.isfinite(verdict.explained):
        words.append(f"the prediction explains {verdict.explained:.2f} of what rank and cell leave open")
    return ("" if verdict.complete else "stopped by the budget: ") + "; ".join(words)
