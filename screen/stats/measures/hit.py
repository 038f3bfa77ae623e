"""Which perturbations are hits: enough cells, a low false discovery rate, and an effect of their own above the noise."""

import numpy as np
import pyarrow as pa

from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.false_discovery import SIGNIFICANT, fdr
from rankshift.screen.stats.evidence import OneRun, TwoRuns
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def of_run(one: OneRun) -> Columns:
    """Marks of hits among the perturbations of a run."""
    away, q = one.rank_sum.superiority - one.centre, one.fdr
    if one.donors is not None:
        p, typical = one.donor_test
        away, q = one.donors.difference - typical, fdr(p)
    first, ranked = one.highest_first, one.ranked
    # What moves cells away, only less than the typical gene, is different from it and still no effect towards the goal.
    acts = away * ranked > 0 if first else away < 0
    size = np.abs(ranked) if first else 1 - ranked
    return {"enough_cells": one.tested, **_marks(one.run, q, one.column, size, acts)}


def of_contrast(two: TwoRuns) -> Columns:
    """Marks of what acts more strongly here than in the null run."""
    here, apart, away, q = two.means[2], two.effect, two.rank_sum.superiority - two.centre, two.fdr
    if two.donors is not None:
        test = two.donor_test
        here, apart, away, q = two.donors[0].mean, test.mean, test.difference - test.centre, fdr(test.p)
    return {"enough_cells": two.tested, **_marks(two.run, q, "similarity", 1 - here, (apart < 0) & (away < 0))}


def _marks(run: Run, q: np.ndarray, column: str, size: np.ndarray, acts: np.ndarray) -> Columns:
    """Hits by FDR `q` and by the `size` of the mean effect beside the noise floor of the run's `column`, all [G].

    acts, bool [G]: is the difference in the direction of an effect (further towards the goal than the typical gene, say, not
    merely less far away)?
    """
    measured = (run.manifest.noise_floor or {}).get(column)
    floor = None if measured is None else measured.p99
    below = np.zeros(len(q), bool) if floor is None else size < floor
    return {
        "below_noise_floor": pa.nulls(len(q), pa.bool_()) if floor is None else below,
        "hit": (q < SIGNIFICANT) & ~below & acts & (size > 0),
    }


MEASURE = Measure(
    name="hit",
    sentence="A hit stands out from the others, lies above the noise of the arithmetic and has an effect of its own.",
    columns=(
        Column(
            name="enough_cells",
            unit="yes or no",
            meaning="at least --min-cells; without, nothing is tested and there is no rank",
            type=pa.bool_(),
        ),
        Column(
            name="hit",
            unit="yes or no",
            meaning="enough cells, FDR below 0.05 (balanced_fdr with --by), above the noise floor, an effect of its own",
            type=pa.bool_(),
        ),
        Column(
            name="below_noise_floor",
            unit="yes or no",
            meaning="the mean effect is smaller than the p99 of the run's noise floor",
            type=pa.bool_(),
        ),
    ),
    of_run=of_run,
    of_contrast=of_contrast,
)
