"""The mean effect over cells, its spread and its interval."""

import numpy as np

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
    """The mean of the run itself; `difference` has the rest."""
    return {"similarity_mean": two.means[2]}


def _sd(one: OneRun) -> np.ndarray:
    gene, count = one.seen.gene, one.seen.count
    squares = np.bincount(gene, weights=(one.values - one.effect[gene]) ** 2, minlength=len(count))
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
