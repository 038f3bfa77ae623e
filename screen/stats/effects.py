"""One row per perturbation in our own columns, made of the statistics in the list of `measures`.

A perturbation is tested against the other genes of its run, or against itself in another run; cells and donors of two runs
count as different ones. What is not tested, for too few cells or donors, is empty and never 0 or 1.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.runs.layout import SIMILARITY, shift_column
from rankshift.screen.runs.run import Run
from rankshift.screen.stats import measures
from rankshift.screen.stats.evidence import Evidence, OneRun, TwoRuns
from rankshift.screen.stats.observations import Observations, route
from rankshift.screen.stats.options import Columns, StatOptions

# Entries of a summary in the order in which files hold them; what a new statistic adds follows.
SUMMARY = (
    "typical_superiority", "typical_difference", "typical_adjusted_superiority", "variance_removed",
    "baseline_correlation", "baseline_correlation_signed", "stability", "mixture",
)  # fmt: skip


def goal_effects(run: Run, options: StatOptions) -> tuple[pa.Table, dict[str, Any]]:
    """Shifts towards the goal state: hits first, then what was tested, by falling mean."""
    towards, others = route(run)
    seen = Observations.read(run, [shift_column(s) for s in (towards, *others)] + [SIMILARITY])
    one = OneRun(run=run, options=options, seen=seen, quantity="shift", column=shift_column(towards), others=others)
    columns = _of_run(one)
    table = described(_in_order(columns, -columns["shift_mean"]), others)
    return table, {"goal": towards, "alternatives": others, **_summary(one, columns)}


def similarity_effects(run: Run, options: StatOptions) -> tuple[pa.Table, dict[str, Any]]:
    """Similarities, with the mixture of genes of impact and others: hits first, then what was tested, by rising mean."""
    seen = Observations.read(run, [SIMILARITY])
    one = OneRun(run=run, options=options, seen=seen, quantity="similarity", column=SIMILARITY)
    columns = _of_run(one)
    table = described(_in_order(columns, columns["similarity_mean"]))
    return table, _summary(one, columns)


def null_effects(run: Run, null: Run, options: StatOptions) -> tuple[pa.Table, dict[str, Any]]:
    """Similarities against those of another run, gene by gene: hits first, then the strongest effect (lowest difference)."""
    seen, other = Observations.read(run, [SIMILARITY]), Observations.read(null, [SIMILARITY])
    two = TwoRuns(run=run, options=options, seen=seen, null=null, other=other)
    columns: Columns = {}
    for measure in measures.MEASURES:
        if measure.of_contrast is not None:
            columns |= measure.of_contrast(two)
    table = described(_in_order(columns, columns["difference_mean"]))
    return table, _summary(two, columns, {"null": str(null.path), "null_cells": other.cells})


def described(table: pa.Table, others: Sequence[str] = ()) -> pa.Table:
    """The table in the order of the list of statistics, with `unit` and `meaning` in the metadata of every column.

    Raises ValueError on a column that no statistic declares, and on values of another type than the declared one.
    """
    fields: dict[str, pa.Field] = {}
    for measure in measures.MEASURES:
        for column in measure.columns:
            for name in column.named(others):
                if name in table.column_names and name not in fields:
                    about = {"unit": column.unit, "meaning": column.meaning}
                    fields[name] = pa.field(name, column.type, metadata=about)
    unknown = set(table.column_names) - set(fields)
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are declared by no statistic")
    wrong = [name for name, field in fields.items() if table.schema.field(name).type != field.type]
    if wrong:
        raise ValueError(f"columns {wrong} are not of the types that their statistics declare")
    return table.select(list(fields)).cast(pa.schema(list(fields.values())))


def _of_run(one: OneRun) -> Columns:
    columns: Columns = {}
    for measure in measures.MEASURES:
        if measure.of_run is not None:
            columns |= measure.of_run(one)
    return columns


def _summary(evidence: Evidence, columns: Columns, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """What holds for a whole table."""
    seen, found = evidence.seen, dict(evidence.summary)
    halves = evidence.resampled[1]
    found["stability"] = None if halves is None else asdict(halves)
    return {
        **asdict(evidence.options),
        "perturbations": len(seen.count),
        "rows": len(seen),
        "cells": seen.cells,
        "dropped_rows": seen.dropped,
        "tested": int(columns["enough_cells"].sum()),
        "hits": int(columns["hit"].sum()),
        **(more or {}),
        **{name: found[name] for name in SUMMARY if name in found},
        **{name: value for name, value in found.items() if name not in SUMMARY},
    }


def _in_order(columns: Columns, *keys: np.ndarray) -> pa.Table:
    """Rows with hits first and what was not tested last, within them by rising keys; NaN becomes null."""
    keys = (-columns["hit"].astype(int), -columns["enough_cells"].astype(int), *keys)
    order = pa.array(np.lexsort(keys[::-1]))
    table = pa.table({name: pa.array(c, from_pandas=True) for name, c in columns.items()})
    return table.take(order)
