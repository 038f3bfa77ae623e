"""Genes of impact: those of the lower component of a mixture of two Gaussians over the mean similarities."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa

from rankshift.screen.stats.arithmetic.mixture import Mixture
from rankshift.screen.stats.evidence import OneRun
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def of_run(one: OneRun) -> Columns:
    """Columns of the mixture; none in a table of shifts."""
    if one.quantity != "similarity":
        return {}
    model = Mixture.fit(one.effect)
    one.summary["mixture"] = asdict(model)
    return {
        "impact": model.impact(one.effect),
        "impact_probability": model.impact_probability(one.effect),
        "impact_percent": 100 * one.seen.mean(model.impact(one.values).astype(np.float32)),
    }


MEASURE = Measure(
    name="impact",
    sentence="impact always splits the genes in two kinds, also where there is one: believe it where the two means lie apart.",
    columns=(
        Column(
            name="impact",
            unit="yes or no",
            meaning="the mean belongs to the mixture component of lower similarity",
            type=pa.bool_(),
        ),
        Column(name="impact_probability", unit="probability", meaning="that it does, given the fit"),
        Column(name="impact_percent", unit="percent", meaning="of the single values that belong to that component"),
    ),
    of_run=of_run,
)
