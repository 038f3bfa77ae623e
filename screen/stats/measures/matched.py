"""The effect among those of the genes most like it in rank and detection."""

import numpy as np

from rankshift.screen.stats.arithmetic.matched_null import matched_null
from rankshift.screen.stats.evidence import Evidence, TwoRuns
from rankshift.screen.stats.measure import Column, Heading, Measure
from rankshift.screen.stats.options import Columns


def columns(evidence: Evidence) -> Columns:
    """Columns of the matched null; none for joint perturbations, which have no rank."""
    if evidence.places is None or (isinstance(evidence, TwoRuns) and evidence.null_places is None):
        return {}
    found = matched_null(evidence.effect, evidence.mean_rank, evidence.places.detected, evidence.tested)
    return {
        "matched_median": found.median,
        "matched_z": found.z,
        "matched_p_value": found.p,
        "matched_p_floor": np.where(np.isnan(found.p), np.nan, found.floor),
    }


MEASURE = Measure(
    name="matched",
    sentence=(
        "matched_z holds the effect against genes of like rank and detection, and holds under donor effects too; "
        "matched_p_value has a floor, so it confirms a gene and does not rank the genes."
    ),
    columns=(
        Column(
            name="matched_median",
            unit="cosine",
            meaning="median of the means of the genes nearest in rank and detection",
        ),
        Column(
            name="matched_z",
            unit="robust sd",
            meaning="mean minus matched_median, in 1.4826 median absolute deviations of the matched",
            heading=Heading(title="Matched z", help="against genes of like rank and detection", falling=True),
        ),
        Column(name="matched_p_value", unit="probability", meaning="empirical, two-sided, against the matched genes"),
        Column(name="matched_p_floor", unit="probability", meaning="the smallest matched_p_value there can be"),
    ),
    of_run=columns,
    of_contrast=columns,
)
