"""The mean similarity here minus that of the null run, with its interval."""

import pyarrow as pa

from rankshift.screen.stats.evidence import TwoRuns
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def of_contrast(two: TwoRuns) -> Columns:
    """The null run's values beside the difference to them."""
    _, null_count, _, null_mean = two.means
    out = {"null_cells": null_count, "null_similarity_mean": null_mean, "difference_mean": two.effect}
    if (interval := two.resampled[0]) is not None:
        out |= {f"difference_{end}": two.where_tested(getattr(interval, end)) for end in ("low", "high")}
    return out


MEASURE = Measure(
    name="difference",
    sentence="A negative difference is the stronger effect here; it says nothing about why the two runs differ.",
    columns=(
        Column(name="null_cells", unit="cells", meaning="values of the gene in the null run", type=pa.int64()),
        Column(name="null_similarity_mean", unit="cosine", meaning="mean similarity in the null run"),
        Column(
            name="difference_mean",
            unit="cosine",
            meaning="similarity_mean minus null_similarity_mean: negative is the stronger effect here",
        ),
        Column(
            name="difference_low",
            unit="cosine",
            meaning="lower end of the 95 % bootstrap interval of the difference, cells of both runs resampled",
        ),
        Column(name="difference_high", unit="cosine", meaning="upper end of it"),
    ),
    of_contrast=of_contrast,
)
