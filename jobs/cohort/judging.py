"""From the values of donors to the table of verdicts: what the rules need to know of the cells, and the files."""

import json

import numpy as np
import pyarrow.parquet as pq

from rankshift.jobs.cohort.folder import Folder
from rankshift.jobs.cohort.plan import Plan
from rankshift.jobs.cohort.screens import Values, values
from rankshift.jobs.cohort.source import write_table
from rankshift.screen.cells.cells import blocks
from rankshift.screen.files.atomic import replacing
from rankshift.screen.perturb.background import seen
from rankshift.screen.study.judge import Judging
from rankshift.screen.study.technical import leaks
from rankshift.screen.study.verdicts import Verdicts, verdicts


def judged(plan: Plan) -> Verdicts:
    """The verdicts of a study whose screens are done."""
    folder, study = plan.folder, plan.folder.study
    found = values(folder, plan.states)
    token = np.array([plan.bundle.vocabulary.by_id[gene] for gene in found.gene_ids])
    detected, place = seen(plan.cohort.table.take(plan.start_rows), plan.bundle.vocabulary.size)
    control, not_run = None, []
    if plan.genes is not None:
        listed = plan.genes.to_pylist()
        controls = {row["gene_id"] for row in listed if row["control"]}
        control = np.array([gene in controls for gene in found.gene_ids])
        there = set(found.gene_ids) | controls
        not_run = [(row["gene_id"], row["symbol"]) for row in listed if row["gene_id"] not in there]
    return verdicts(
        found.gene_ids,
        found.symbols,
        found.shift,
        found.cells,
        found.fold,
        detection=detected[token].astype(np.float64),
        rank=place[token],
        control=control,
        leaks_from=_leaks(plan, token),
        not_run=not_run,
        confounded=bool(plan.cohort.audit.confounded),
        judging=Judging(min_cells=study.min_cells, family="fdr" if control is None else "holm"),
    )


def _leaks(plan: Plan, token: np.ndarray) -> list[str | None] | None:
    """The cell type from which a gene may have leaked, by the cells of the whole cohort; None without such a column."""
    cohort, name = plan.cohort, plan.folder.study.cell_type
    if name is None:
        return None
    kind = np.array([value if value is not None else "" for value in cohort.columns[name]], str)
    types, number = np.unique(kind, return_inverse=True)
    detected = np.zeros((plan.bundle.vocabulary.size, len(types)), np.int64)
    for i in range(len(types)):
        for block in blocks(cohort.table, cohort.rows[number == i]):
            detected[:, i] += np.bincount(block.ids, minlength=len(detected))
    screened = np.bincount(number[np.isin(cohort.rows, plan.start_rows)], minlength=len(types))
    return leaks(detected[token], np.bincount(number, minlength=len(types)), screened, types.tolist())


def write_values(plan: Plan) -> None:
    """Write donors.parquet."""
    found: Values = values(plan.folder, plan.states)
    write_table(found.table(), plan.folder.donors)


def write_verdicts(plan: Plan) -> None:
    """Write null.parquet, summary.json, and then verdicts.parquet, which stands for all of them."""
    folder, found = plan.folder, judged(plan)
    write_table(found.controls, folder.null)
    with replacing(folder.summary) as temporary:
        temporary.write_text(json.dumps(found.summary, indent=2) + "\n")
    write_table(found.table, folder.verdicts)


def counted(folder: Folder) -> list[str]:
    """A line for every verdict that some gene has."""
    said = pq.read_table(folder.verdicts, columns=["verdict"])["verdict"].value_counts().to_pylist()
    return [f"{row['counts']:>8,}  {row['values']}" for row in sorted(said, key=lambda row: -row["counts"])]
