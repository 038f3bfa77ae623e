"""Effects beside what needs no model: the rank of the gene, its detection, the token table of the states, and chance."""

import numpy as np
from scipy.stats import spearmanr

from rankshift.screen.stats.coexpression import state_baselines
from rankshift.screen.stats.evidence import Evidence, TwoRuns
from rankshift.screen.stats.measure import Column, Heading, Measure
from rankshift.screen.stats.options import Columns


def columns(evidence: Evidence) -> Columns:
    """Baselines per gene; how the effects go with them is in the summary. None for joint perturbations."""
    if (places := evidence.places) is None or (isinstance(evidence, TwoRuns) and evidence.null_places is None):
        return {}
    effect, tested, summary = evidence.effect, evidence.tested, evidence.summary
    rank, detection = evidence.mean_rank, places.detected / evidence.seen.cells
    random = np.random.default_rng(evidence.options.seed).random(len(effect))
    strength = np.abs(effect - np.median(effect[tested])) if tested.any() else effect
    summary["baseline_correlation"] = {
        name: _spearman(strength[tested], baseline[tested])
        for name, baseline in (("rank", rank), ("detection", detection), ("random", random))
    }
    states = state_baselines(evidence.run, evidence.seen) or {}
    if states:
        summary["baseline_correlation_signed"] = {
            name: _spearman(effect[tested], baseline[tested]) for name, baseline in states.items()
        }
    known = {"rank": rank, "detection": detection, "random": random, **states}
    return {f"baseline_{name}": baseline for name, baseline in known.items()}


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    known = ~np.isnan(a) & ~np.isnan(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return None
    return float(spearmanr(a[known], b[known]).statistic)


MEASURE = Measure(
    name="baselines",
    sentence=(
        "A model whose effects follow a baseline_ column has found no more than the rank lists say without it: mean rank, "
        "detection, or the difference between the states."
    ),
    columns=(
        Column(
            name="baseline_rank",
            unit="rank",
            meaning="mean place of the gene in the cells where it was perturbed, 1 the top",
            heading=Heading(title="Mean rank", help="mean place of the gene in its cells, 1 the top"),
        ),
        Column(name="baseline_detection", unit="fraction", meaning="of the run's cells whose list has the gene"),
        Column(
            name="baseline_state_correlation",
            unit="correlation",
            meaning="of the gene's rank score with being a goal cell, over the token table",
        ),
        Column(
            name="baseline_coexpression",
            unit="correlation",
            meaning="of its rank score with that of the genes that differ between the states",
        ),
        Column(
            name="baseline_random",
            unit="fraction",
            meaning="uniform random number: what a ranking without knowledge gives",
        ),
    ),
    of_run=columns,
    of_contrast=columns,
)
