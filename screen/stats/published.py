"""The statistics as published: the same numbers, column names, order and row index (PS 4).

One deviation: the component of impact of the mixture is the one of lower mean (PS B3). Per-cell rows of joint
perturbations carry the genes joined by `+`, where the published code puts one gene name into each row or fails.
"""

import random

import numpy as np
import pyarrow as pa

from rankshift.screen.runs.layout import SIMILARITY, shift_column
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.aggregate_tables import INDEX, known_symbols
from rankshift.screen.stats.arithmetic.false_discovery import SIGNIFICANT, fdr
from rankshift.screen.stats.arithmetic.mixture import Mixture
from rankshift.screen.stats.arithmetic.rank_sum import against_sample, between
from rankshift.screen.stats.observations import Observations, match, null_means, route

SAMPLE = 100_000  # values of the random distribution at most
SEED = 42


def random_values(values: np.ndarray) -> np.ndarray:
    """The distribution genes are held against: all values in the order of `Observations`, or 100,000 of them.

    Sampled as Python's random.seed(42) and random.sample would, anew for every state, so that all states of a run use the
    same rows. The published order is that of a directory listing (PS B15).
    """
    if len(values) <= SAMPLE:
        return values
    return values[random.Random(SEED).sample(range(len(values)), SAMPLE)]


def goal(run: Run) -> pa.Table:
    """goal_state_shift: the mean shift of every gene towards the goal, against random values (PS 4.2, PS 4.3)."""
    towards, others = route(run)
    seen = Observations.read(run, [shift_column(s) for s in (towards, *others)])
    shift = {s: seen.mean(seen.values[shift_column(s)]) for s in (towards, *others)}
    if run.manifest.perturb.how == "together":  # the published code reports one row and no test (PS B32)
        row = {"Shift_to_goal_end": shift[towards]} | {f"Shift_to_alt_end_{s}": shift[s] for s in others}
        return pa.table({INDEX: [0], **{name: value[:1] for name, value in row.items()}})
    p = {}
    for s in (towards, *others):
        values = seen.values[shift_column(s)]
        p[s] = against_sample(seen.offsets, values, random_values(values)).p
    q = {s: fdr(p[s]) for s in p}
    significant = (q[towards] < SIGNIFICANT).astype(np.int64)
    columns = {
        **_gene_columns(seen),
        "Shift_to_goal_end": shift[towards],
        **{f"Shift_to_alt_end_{s}": shift[s] for s in others},
        "Goal_end_vs_random_pval": p[towards],
        **{f"Alt_end_vs_random_pval_{s}": p[s] for s in others},
        "Goal_end_FDR": q[towards],
        **{f"Alt_end_FDR_{s}": q[s] for s in others},
        "N_Detections": seen.count,
        "Sig": significant,
    }
    return _sorted(columns, -significant, -shift[towards], q[towards])


def against_null(run: Run, null: Run) -> pa.Table:
    """vs_null: every gene's values in one run against its values in another (PS 4.4).

    What is called shift are mean similarities: the less similar, the stronger the effect, and such rows come last (PS B28).
    """
    test, other = Observations.read(run, [SIMILARITY]), Observations.read(null, [SIMILARITY])
    same = match(test, other)
    count, null_count, mean, null_mean = null_means(test, other, same)
    kept = same >= 0
    p = between(
        test.gene,
        test.values[SIMILARITY],
        same[other.gene][kept[other.gene]],
        other.values[SIMILARITY][kept[other.gene]],
        len(count),
        ties=False,
    ).p
    p = np.where(np.isnan(p), 1.0, p)
    q = fdr(p)
    significant = (q < SIGNIFICANT).astype(np.int64)
    columns = {
        **_gene_columns(test),
        "Test_avg_shift": mean,
        "Null_avg_shift": null_mean,
        "Test_vs_null_avg_shift": mean - null_mean,
        "Test_vs_null_pval": p,
        "Test_vs_null_FDR": q,
        "N_Detections_test": count,
        "N_Detections_null": null_count,
        "Sig": significant,
    }
    return _sorted(columns, -significant, -(mean - null_mean), q)


def mixture(run: Run) -> pa.Table:
    """mixture_model: genes of impact by a mixture of two Gaussians over their mean similarities (PS 4.5, PS B3)."""
    seen = Observations.read(run, [SIMILARITY])
    mean = seen.mean(seen.values[SIMILARITY])
    model = Mixture.fit(mean)
    impact = model.impact(mean).astype(np.int64)
    columns = {
        **_gene_columns(seen),
        "Test_avg_shift": mean,
        "Impact_component": impact,
        "Impact_component_percent": 100 * seen.mean(model.impact(seen.values[SIMILARITY]).astype(np.float32)),
        "N_Detections": seen.count,
    }
    return _sorted(columns, -impact, mean)


def _gene_columns(seen: Observations) -> dict[str, pa.Array]:
    names = seen.names
    return {
        "Gene": pa.array(seen.tokens),
        "Gene_name": known_symbols(names["symbols"], names["gene_ids"]),
        "Ensembl_ID": names["gene_ids"],
    }


def _sorted(columns: dict, *keys: np.ndarray) -> pa.Table:
    """Rows by rising keys, the first counts most, NaN last; equal rows keep their order."""
    order = np.lexsort(keys[::-1])
    table = pa.table({name: pa.array(c, from_pandas=True) for name, c in columns.items()})
    return table.take(pa.array(order)).add_column(0, INDEX, pa.array(order))
