"""What a run found, written back beside its cells in an AnnData. It changes obs and uns alone, and refuses unknown names."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import measures as measured
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import quoted

if TYPE_CHECKING:
    from anndata import AnnData


def annotate(
    run: Run,
    adata: "AnnData",
    perturbations: Sequence[str] = (),
    measures: Sequence[str] | None = None,
    key: str = "rankshift",
) -> None:
    """Write a run's results into the AnnData its cells came from, matched by cell_id (obs column, else the names of obs).

    obs[`{measure}:{perturbation}`] for every perturbation named (as for `Run.perturbation`): NaN for cells in which
    it was not screened. uns[key]: `perturbations`, one row per perturbation with its number of cells and the means of all
    measures (of an adaptive run its view `answers`), and `manifest`, run.json as text. measures: columns of `shifts`, by
    default similarity and all shifts. Raises InputError for a perturbation that an adaptive run has not finished.
    """
    measures = measured(run.states) if measures is None else list(measures)
    known = run.sql("SELECT * FROM shifts LIMIT 0").column_names
    if lacking := [name for name in measures if name not in known]:
        raise InputError(f"{lacking[0]!r} is not a column of the shifts: the columns are {', '.join(known)}")
    labels = adata.obs["cell_id"] if "cell_id" in adata.obs.columns else adata.obs_names
    place = pd.Series(np.arange(adata.n_obs), index=[str(label) for label in labels])
    screened = [str(label) for label in run.sql("SELECT cell_id FROM cells")["cell_id"].to_pylist()]
    if not place.index.isin(screened).any():
        raise InputError(
            f"no cell of {run.path} is in the AnnData ({screened[0]} is not): give the one that was tokenized"
        )
    columns = {
        f"{measure}:{name}": values
        for name in perturbations
        for measure, values in _of_cells(run, name, measures, place).items()
    }
    means = ", ".join(f"avg({quoted(name)}) AS {quoted(name)}" for name in measures)
    table = run.frame(
        "SELECT * FROM answers ORDER BY perturbation"
        if run.partial
        else f"SELECT perturbation, kind, gene_ids, symbols, count(*) AS cells, {means} FROM shifts GROUP BY ALL ORDER BY 1"
    )
    table.index = table.index.astype(str)  # what h5ad can hold
    for name, values in columns.items():
        adata.obs[name] = values
    adata.uns[key] = {"perturbations": table, "manifest": json.dumps(dict(run.manifest))}


def _of_cells(run: Run, name: str, measures: Sequence[str], place: pd.Series) -> dict[str, np.ndarray]:
    """The measures of one perturbation for all cells of an AnnData, NaN where there are none; place: row by cell_id."""
    number = run.finished(name)
    rows = run.frame(
        f"SELECT CAST(cell_id AS VARCHAR) AS cell, {', '.join(map(quoted, measures))} FROM shifts "
        f"WHERE perturbation = {number}"
    )
    if rows.empty:
        raise InputError(f"{name!r} was screened in no cell of {run.path}: see its view perturbations")
    rows = rows[rows["cell"].isin(place.index)]
    out = {}
    for measure in measures:
        out[measure] = np.full(len(place), np.nan, np.float32)
        out[measure][place[rows["cell"]].to_numpy()] = rows[measure]
    return out
