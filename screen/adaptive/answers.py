"""What an adaptive screen says of every perturbation: finished with its mean, estimated with an interval, or untested."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.adaptive.allocation import Verdict
from rankshift.screen.adaptive.rows_of_run import RowsOfRun, asked_of
from rankshift.screen.runs.layout import ANSWERS, PERTURBATIONS, VERDICT
from rankshift.screen.runs.manifest import AdaptiveAsked
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.writing import writing


def write_answers(run: Run, rows: RowsOfRun, verdict: Verdict, top: int) -> None:
    """Write the file behind the view `answers`, a row per perturbation.

    place: 1 for the strongest, of the genes asked for. state: finished (all cells measured, `mean` is the full screen's, the
    interval empty), estimated (`low` to `high` is a 95 % interval of what the full screen's mean would be) or untested (in too
    few cells; nothing is said). p_value, fdr: of any effect of a finished gene (module `any_effect`). tied: can the gene not be
    told from the last of the list (`ties`)? cells: with the perturbation; measured: of these. The file keeps the verdict in
    words.
    """
    of = rows.population
    count = pq.read_metadata(run.path / PERTURBATIONS).num_rows
    at = rows.perturbation
    state = np.full(count, "untested", dtype=object)
    state[at] = np.where(verdict.finished, "finished", "estimated")
    numbers = {name: np.full(count, np.nan) for name in ("mean", "low", "high", "p_value", "fdr")}
    numbers["mean"][at] = verdict.estimate
    open_ = np.where(verdict.finished, np.nan, verdict.half)
    numbers["low"][at], numbers["high"][at] = verdict.estimate - open_, verdict.estimate + open_
    numbers["p_value"][at], numbers["fdr"][at] = verdict.p_value, verdict.fdr
    cells, measured = np.zeros(count, np.int64), np.zeros(count, np.int64)
    cells[at] = of.count
    measured[at] = of.sums(np.flatnonzero(verdict.seen))
    tied = np.zeros(count, bool)
    tied[at] = ties(verdict, asked_of(run).absolute)
    place = np.full(count, np.nan)
    place[at[verdict.top]] = np.arange(1, len(verdict.top) + 1)
    table = pa.table(
        {
            "perturbation": pa.array(np.arange(count), pa.int32()),
            "place": pa.array(place, pa.int32(), from_pandas=True),
            "state": pa.array(state.tolist()),
            **{name: pa.array(values, pa.float64(), from_pandas=True) for name, values in numbers.items()},
            "tied": pa.array(tied, pa.bool_(), mask=state == "untested"),
            "cells": pa.array(cells, pa.int64(), mask=state == "untested"),
            "measured": pa.array(measured, pa.int64()),
        }
    ).replace_schema_metadata({VERDICT: said(rows, verdict, asked_of(run))})
    with writing(run.path, run.path / ANSWERS) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    run.share(ANSWERS)


def ties(verdict: Verdict, absolute: bool) -> np.ndarray:
    """bool [G]: genes that cannot be told from the last of the list, itself among them.

    A finished gene whose mean lies within a standard error of its own from the last one's; an estimated one whose interval
    reaches it. The noise floor is not measured in adaptive screens; in float32 it is far below any such error.
    """
    if not len(verdict.top):
        return np.zeros(len(verdict.finished), bool)
    signs = np.array([[1.0], [-1.0]]) if absolute else np.ones((1, 1))
    values = signs * verdict.estimate
    last = np.abs(verdict.estimate[verdict.top[-1]]) if absolute else verdict.estimate[verdict.top[-1]]
    reach = np.where(verdict.finished, np.nan_to_num(verdict.error), verdict.half)
    return (np.abs(values - last) <= reach).any(0)


def said(rows: RowsOfRun, verdict: Verdict, asked: AdaptiveAsked) -> str:
    """The verdict as a person would say it."""
    share = verdict.passes / (rows.lists + rows.population.cells)
    words = [
        f"{int(verdict.finished.sum()):,} genes finished",
        f"expected to miss {verdict.missed:.1f} of the top {asked.top}",
        f"{share:.1%} of the passes of the full screen",
    ]
    if (tied := int(ties(verdict, asked.absolute).sum()) - 1) > 0:
        words.insert(2, f"{tied:,} more cannot be told from the last of the list")
    if asked.fdr is not None:
        called = int((np.nan_to_num(verdict.fdr, nan=1.0) < asked.fdr).sum())
        words.append(
            f"{called:,} have an effect at a false discovery rate of {asked.fdr:.0%}, "
            f"expected to miss {verdict.uncalled:.1f} that the full screen would call"
        )
    if np.isfinite(verdict.explained):
        words.append(f"the prediction explains {verdict.explained:.2f} of what rank and cell leave open")
    return ("" if verdict.complete else "stopped by the budget: ") + "; ".join(words)
