"""The statistics as published: the same numbers, column names, order and row index (PS 4).

One deviation: the component of impact of the mixture is the one of lower mean (PS B3). Of joint perturbations, per-cell
rows carry the genes joined by `+`, where the published code puts one gene name into each row or fails.
"""

import random

import numpy as np
import pyarrow as pa
from scipy.stats import false_discovery_control

from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.aggregate_tables import INDEX, known_symbols
from rankshift.screen.stats.mixture import Mixture
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.rank_sum import against_sample, between

SAMPLE = 100_000  # values of the random distribution at most
SEED = 42
SIGNIFICANT = 0.05  # false discovery rate below which Sig is 1


def fdr(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over the p-values that are there; NaN stays NaN.

    >>> fdr(np.array([0.01, np.nan, 0.04])).tolist()
    [0.02, nan, 0.04]
    """
    out = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        out[known] = false_discovery_control(p[known], method="bh")
    return out


def random_values(values: np.ndarray) -> np.ndarray:
    """The distribution genes are held against: all values in the order of `Observations`, or 100,000 of them.

    Sampled as Python's random.seed(42) and random.sample would, anew for every state, so that all states of a run use the
    same rows. The published order is that of a directory listing (PS B15).
    """
    if len(values) <= SAMPLE:
        return values
    return values[random.Random(SEED).sample(range(len(values)), SAMPLE)]


def route(run: Run) -> tuple[str, list[str]]:
    """Goal state and alternative states of a run; raises InputError when it was screened without."""
    states = run.manifest.get("route")
    if not states:
        raise InputError(
            f"mode goal needs states, {run.path} has none: screen with --states, --state-key, --start and --goal"
        )
    return states[2], list(states[3:])


def goal(run: Run) -> pa.Table:
    """goal_state_shift: the mean shift of every gene towards the goal, against random values (PS 4.2, PS 4.3)."""
    towards, others = route(run)
    seen = Observations.read(run, [f"shift_{s}" for s in (towards, *others)])
    shift = {s: seen.mean(seen.values[f"shift_{s}"]) for s in (towards, *others)}
    if run.manifest["perturb"]["how"] == "together":  # the published code reports one row and no test (PS B32)
        row = {"Shift_to_goal_end": shift[towards]} | {f"Shift_to_alt_end_{s}": shift[s] for s in others}
        return pa.table({INDEX: [0], **{name: value[:1] for name, value in row.items()}})
    p = {}
    for s in (towards, *others):
        values = seen.values[f"shift_{s}"]
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
    test, other = Observations.read(run, ["similarity"]), Observations.read(null, ["similarity"])
    same = match(test, other)
    count, null_count, mean, null_mean = null_means(test, other, same)
    kept = same >= 0
    p = between(
        test.gene,
        test.values["similarity"],
        same[other.gene][kept[other.gene]],
        other.values["similarity"][kept[other.gene]],
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


def match(test: Observations, other: Observations) -> np.ndarray:
    """int64 [G of other]: the number in `test` of each perturbation of `other`, -1 where it is not there."""
    at = {ids: i for i, ids in enumerate(test.perturbations["gene_ids"].to_pylist())}
    return np.array([at.get(ids, -1) for ids in other.perturbations["gene_ids"].to_pylist()], np.int64)


def null_means(
    test: Observations, other: Observations, same: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per perturbation of `test`: values here, values there, mean similarity here and there (NaN where there is none)."""
    kept = same >= 0
    null_count, null_mean = np.zeros(len(test.count), np.int64), np.full(len(test.count), np.nan)
    null_count[same[kept]] = other.count[kept]
    null_mean[same[kept]] = other.mean(other.values["similarity"])[kept]
    return test.count, null_count, test.mean(test.values["similarity"]), null_mean


def mixture(run: Run) -> pa.Table:
    """mixture_model: genes of impact by a mixture of two Gaussians over their mean similarities (PS 4.5, PS B3)."""
    seen = Observations.read(run, ["similarity"])
    mean = seen.mean(seen.values["similarity"])
    model = Mixture.fit(mean)
    impact = model.impact(mean).astype(np.int64)
    columns = {
        **_gene_columns(seen),
        "Test_avg_shift": mean,
        "Impact_component": impact,
        "Impact_component_percent": 100 * seen.mean(model.impact(seen.values["similarity"]).astype(np.float32)),
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
