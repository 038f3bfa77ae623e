"""What a pair does beyond its genes alone: the mean interaction over cells, its interval, and a test that it is none."""

import numpy as np
from scipy.special import stdtr, stdtrit

from rankshift.screen.runs.layout import pair_columns
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.donors import Donors
from rankshift.screen.stats.evidence import OneRun
from rankshift.screen.stats.measure import Column, Heading, Measure
from rankshift.screen.stats.observations import Observations, match
from rankshift.screen.stats.options import Columns


def of_run(one: OneRun) -> Columns:
    """Columns of a screen of pairs; none of another. With --by every group counts once, else every cell."""
    if one.run.manifest.perturb.how != "pairs":
        return {}
    name = pair_columns(one.column)[2]
    beyond = Observations.read(one.run, [name])
    gene = match(one.seen, beyond)[beyond.gene]
    of_unit = beyond.cell if one.options.by is None else Donors.read(one.run, one.options.by).of_cell[beyond.cell]
    kept = (gene >= 0) & (of_unit >= 0)
    gene, unit, value = gene[kept], of_unit[kept].astype(np.int64), beyond.values[name][kept].astype(np.float64)
    pairs, units = len(one.seen.count), int(unit.max(initial=0)) + 1
    key, at = np.unique(gene * units + unit, return_inverse=True)
    means = np.bincount(at, weights=value) / np.maximum(np.bincount(at), 1)  # one number of every unit
    owner = key // units
    n = np.bincount(owner, minlength=pairs)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(owner, weights=means, minlength=pairs) / n
        squares = np.bincount(owner, weights=(means - mean[owner]) ** 2, minlength=pairs)
        error = np.sqrt(squares / (n - 1) / n)
        tested = one.tested & (n > 1) & (error > 0)
        p = np.where(tested, 2 * stdtr(np.maximum(n - 1, 1), -np.abs(mean / error)), np.nan)
        reach = np.where(tested, stdtrit(np.maximum(n - 1, 1), 0.975) * error, np.nan)
    return {
        "interaction_mean": mean,
        "interaction_low": mean - reach,
        "interaction_high": mean + reach,
        "interaction_p_value": p,
        "interaction_fdr": fdr(p),
    }


MEASURE = Measure(
    name="interaction",
    sentence=(
        "The interaction is what a pair does beyond the sum of its genes alone. interaction_fdr tests that it is none: of a "
        "shift, a positive one carries cells further towards the goal than the sum; of a similarity, a negative one changes "
        "them more. Embeddings are not additive to begin with, so a small interaction of two strong genes says little."
    ),
    columns=(
        Column(
            name="interaction_mean",
            unit="cosine",
            meaning="mean over cells (with --by, over groups) of the pair's effect minus those of its genes alone",
            heading=Heading(title="Interaction", help="effect of the pair beyond its genes alone", falling=True),
        ),
        Column(name="interaction_low", unit="cosine", meaning="lower end of its 95 % interval, by Student's t"),
        Column(name="interaction_high", unit="cosine", meaning="upper end of it"),
        Column(
            name="interaction_p_value",
            unit="probability",
            meaning="t test over cells (with --by, over groups) that the interaction is zero",
        ),
        Column(
            name="interaction_fdr",
            unit="probability",
            meaning="Benjamini-Hochberg of interaction_p_value",
            heading=Heading(title="FDR interaction", help="false discovery rate of the interaction"),
        ),
    ),
    of_run=of_run,
)
