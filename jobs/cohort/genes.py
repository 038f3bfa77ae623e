"""Genes of a study: all, or a list with control genes beside it that are matched to it on detection and rank.

The controls are shared by all listed genes and all folds, so that a list costs a few hundred passes a cell and not ten times
as many; they are drawn from the start cells that are screened.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.jobs.cohort.options import CONTROLS
from rankshift.jobs.cohort.source import Cohort, Drawn, write_table
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.bundle.gene_lists import resolve_genes, said_of
from rankshift.screen.perturb.background import background
from rankshift.screen.study.draw import ANALYSIS


def genes_of(cohort: Cohort, drawn: Drawn, bundle: Bundle) -> tuple[pa.Table | None, list[str]]:
    """Table gene_id, symbol, token, control of what is screened, None for all genes; and what is to be said about it.

    Raises InputError where no gene of the list is known, or the cells have too few others.
    """
    study = cohort.study
    listed, unknown = resolve_genes(study.genes, bundle)
    notes = [said_of(unknown, bundle)] if unknown else []
    if listed is None:
        return None, notes
    cells = cohort.table.take(drawn.row[(drawn.role == ANALYSIS) & (drawn.label == cohort.start)])
    count = study.controls or CONTROLS
    controls = background(cells, listed, bundle.vocabulary.is_gene, count, study.seed)
    tokens = [*listed, *controls]
    vocabulary = bundle.vocabulary
    table = pa.table(
        {
            "gene_id": pa.array([vocabulary.ensembl_id[token] for token in tokens], pa.string()),
            "symbol": pa.array([vocabulary.symbol[token] for token in tokens], pa.string()),
            "token": pa.array(tokens, pa.int32()),
            "control": pa.array([False] * len(listed) + [True] * len(controls)),
        }
    )
    return table, notes


def write_genes(table: pa.Table, path: Path) -> None:
    """Write genes.parquet."""
    write_table(table, path)


def controls_of(path: Path) -> set[str]:
    """Gene ids of the controls; none where all genes are screened."""
    if not path.exists():
        return set()
    found = pq.read_table(path)
    return {
        gene
        for gene, control in zip(found["gene_id"].to_pylist(), found["control"].to_pylist(), strict=True)
        if control
    }
