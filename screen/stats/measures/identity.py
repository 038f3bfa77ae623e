"""Who was perturbed, in how many cells."""

import pyarrow as pa

from rankshift.screen.stats.evidence import Evidence
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def columns(evidence: Evidence) -> Columns:
    """Names of the perturbations, and their cells."""
    return {**evidence.seen.names, "cells": evidence.seen.count}


MEASURE = Measure(
    name="identity",
    sentence="Who was perturbed; cells is the number of values behind every other number of the row.",
    columns=(
        Column(name="kind", unit="", meaning="kind of the perturbation", type=pa.string()),
        Column(
            name="gene_ids",
            unit="",
            meaning="perturbed genes, Ensembl ids joined by + in the user's order",
            type=pa.string(),
        ),
        Column(name="symbols", unit="", meaning="their names", type=pa.string()),
        Column(
            name="cells",
            unit="cells",
            meaning="cells in which the perturbation was made, one value each",
            type=pa.int64(),
        ),
    ),
    of_run=columns,
    of_contrast=columns,
)
