"""The mean effect over cells, its spread and its interval; beside another run, the difference of the two means."""

import numpy as np
import pyarrow as pa

from rankshift.screen.stats.evidence import OneRun, TwoRuns
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def of_run(one: OneRun) -> Columns:
    """Mean, standard deviation, and the bootstrap interval of the mean."""
    out = {f"{one.quantity}_mean": one.effect, f"{one.quantity}_sd": _sd(one)}
    if (interval := one.resampled[0]) is not None:
        out |= {f"{one.quantity}_{end}": one.where_tested(getattr(interval, end)) for end in ("low", "high")}
    return out


def of_contrast(two: TwoRuns) -> Columns:
    """The mean of the run itself; `DIFFERENCE` has the rest."""
    return {"similarity_mean": two.means[2]}


def _sd(one: OneRun) -> np.ndarray:
    count, squares = one.seen.count, one.seen.squares(one.values, one.effect)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)


MEASURE = Measure(
    name="mean",
    sentence=(
        "The mean is the size of the effect; its interval says how far another sample of cells (with --by, of donors) might "
        "have moved it, and nothing of other causes than sampling."
    ),
    columns=(
        Column(name="<m>_mean", unit="cosine", meaning="mean over cells"),
        Column(name="<m>_sd", unit="cosine", meaning="standard deviation over cells, of the sample"),
        Column(name="<m>_low", unit="cosine", meaning="lower end of the 95 % bootstrap interval of the mean"),
        Column(name="<m>_high", unit="cosine", meaning="upper end of it"),
    ),
    of_run=of_run,
    of_contrast=of_contrast,
)


def difference_of(two: TwoRuns) -> Columns:
    """The null run's values beside the difference to them."""
    _, null_count, _, null_mean = two.means
    out = {"null_cells": null_count, "null_similarity_mean": null_mean, "difference_mean": two.effect}
    if (interval := two.resampled[0]) is not None:
        out |= {f"difference_{end}": two.where_tested(getattr(interval, end)) for end in ("low", "high")}
    return out


DIFFERENCE = Measure(
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
    of_contrast=difference_of,
)
