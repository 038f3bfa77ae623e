"""What an adaptive screen says of every perturbation: the table that stands in place of statistics. It tests nothing.

Genes were measured for their values, so none can be held against the others as `rankshift stats` does for a full screen.
"""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import ANSWERS, VERDICT
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import absent

DOWN = "DESC"
MEANINGS = {
    "place": ("", "1 for the strongest of the genes that were asked for, all of them finished"),
    "symbols": ("", "perturbed genes"),
    "gene_ids": ("", "their ids"),
    "kind": ("", "what was done to them"),
    "state": (
        "",
        "finished: measured in all its cells; estimated: in some, the mean is expected of all; untested: in too few cells",
    ),
    "mean": ("cosine", "of the wanted quantity over cells; where estimated, what the full screen is expected to find"),
    "low": ("cosine", "lower end of the 95 % interval of an estimated mean"),
    "high": ("cosine", "upper end of it"),
    "p_value": ("probability", "t test that a finished gene does no more than its cells and ranks do to any gene"),
    "fdr": (
        "probability",
        "Benjamini-Hochberg of it over all genes in enough cells, those that are not finished as p = 1",
    ),
    "tied": (
        "yes or no",
        "cannot be told from the last of the list: within its standard error, or its interval reaches it",
    ),
    "cells": ("cells", "that have the perturbation"),
    "measured": ("cells", "of these that were measured"),
}


def answered(run: Run) -> pa.Table:
    """The view `answers`, the strongest first, untested genes last, with unit and meaning of every column in its metadata.

    Raises InputError of a run that has none.
    """
    if (why := absent(run, "answers")) is not None:
        raise InputError(why)
    adaptive = run.manifest.adaptive
    assert adaptive is not None
    strength = f"abs(mean) {DOWN}" if adaptive.absolute else f"mean {DOWN if adaptive.highest else 'ASC'}"
    there = run.sql("SELECT * FROM answers LIMIT 0").column_names
    names = [name for name in MEANINGS if name in there]  # runs of before ties were said have no column of them
    table = run.sql(
        f"SELECT {', '.join(names)} FROM answers "
        f"ORDER BY place NULLS LAST, state = 'untested', {strength} NULLS LAST, perturbation"
    )
    schema = [
        field.with_metadata(dict(zip(("unit", "meaning"), MEANINGS[field.name], strict=True))) for field in table.schema
    ]
    return table.cast(pa.schema(schema))


def sentences(run: Run, table: pa.Table) -> list[str]:
    """What holds for the whole table, the main answer first."""
    asked = run.manifest.adaptive
    count = Counter(table["state"].to_pylist())
    listed = table.num_rows - table["place"].null_count
    assert asked is not None
    verdict = (pq.read_schema(run.path / ANSWERS).metadata or {}).get(VERDICT.encode(), b"").decode()
    return [
        f"{listed:,} genes of {'largest' if asked.absolute else 'highest' if asked.highest else 'lowest'} mean {asked.column} "
        f"{'in size ' * asked.absolute}are listed of {asked.top:,} "
        f"asked for; {verdict or 'the run does not say how it ended'}",
        f"{count['finished']:,} genes are finished: their means are those of the full screen",
        f"{count['estimated']:,} are estimated: the 95 % interval is of the mean that the full screen would find",
        f"{count['untested']:,} are in fewer than {asked.min_cells} cells and untested: nothing is said of them",
        "no gene is tested against the others, because these were chosen for their values: rankshift resume RUN "
        "--continue-full measures the rest",
    ]


def facts(run: Run) -> dict[str, Any]:
    """How the run was made, in a few words each."""
    manifest, asked = run.manifest, run.manifest.adaptive
    assert asked is not None
    screened = run.screened
    return {
        "Run": str(run.path),
        "Cells": f"{screened.cells.count:,}",
        "Quantity": asked.column,
        "Asked": f"top {asked.top} in {asked.min_cells} cells or more, confidence {asked.confidence}, seed {asked.seed}"
        + ("" if asked.fdr is None else f", and effects at a false discovery rate of {asked.fdr:g}"),
        "Rows measured": f"{sum(marker['rows'] for marker in run.committed.values()):,} of {manifest.lists or 0:,}",
        "Weights": screened.bundle.weights_sha256[:12],
        "Numbers": screened.dtype,
        "Date": screened.date,
    }
