"""Means and tests in which every donor counts once, with --by."""

import pyarrow as pa

from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.evidence import OneRun, TwoRuns
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def of_run(one: OneRun) -> Columns:
    """Columns over donors; none without --by."""
    if one.donors is None:
        return {}
    p, one.summary["typical_difference"] = one.donor_test
    return {
        "groups": one.donors.groups,
        "balanced_mean": one.donors.mean,
        "balanced_difference": one.donors.difference,
        "balanced_p_value": p,
        "balanced_fdr": fdr(p),
    }


def of_contrast(two: TwoRuns) -> Columns:
    """Columns of Welch's test over donors; none without --by."""
    if two.donors is None:
        return {}
    test = two.donor_test
    two.summary["typical_difference"] = test.centre
    return {
        "groups": two.donors[0].groups,
        "null_groups": test.null_groups,
        "balanced_mean": test.mean,
        "balanced_difference": test.difference,
        "balanced_p_value": test.p,
        "balanced_fdr": fdr(test.p),
    }


MEASURE = Measure(
    name="balanced",
    sentence=(
        "balanced_fdr lets every donor count once, whatever its number of cells: it is the test to trust with several donors, "
        "and has little power with fewer than five."
    ),
    columns=(
        Column(
            name="groups",
            unit="groups",
            meaning="values of --by in which the perturbation was made",
            type=pa.int64(),
        ),
        Column(name="null_groups", unit="groups", meaning="the same in the null run", type=pa.int64()),
        Column(
            name="balanced_mean",
            unit="cosine",
            meaning="mean over groups of their means over cells (mode null: minus the null run's)",
        ),
        Column(
            name="balanced_difference",
            unit="cosine",
            meaning="mean over groups of the difference to the same cells' other genes (null: too)",
        ),
        Column(
            name="balanced_p_value",
            unit="probability",
            meaning="t test over groups of that difference against the typical gene's",
        ),
        Column(name="balanced_fdr", unit="probability", meaning="Benjamini-Hochberg of balanced_p_value"),
    ),
    of_run=of_run,
    of_contrast=of_contrast,
)
