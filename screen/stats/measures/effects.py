"""One row per perturbation in our own columns: effect, tests, intervals, nulls, baselines, and what the whole run allows.

Every number has its column in `columns`. A perturbation is judged against the other genes of the same run; what is not
tested, for too few cells or groups, is empty and never 0 or 1.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.arithmetic.mixture import Mixture
from rankshift.screen.stats.arithmetic.rank_sum import against_rest, two_sided, within_strata
from rankshift.screen.stats.arithmetic.resampling import bootstrap, ranks, stability
from rankshift.screen.stats.donors import Groups, balanced, units_of
from rankshift.screen.stats.measures.baselines import against_likes
from rankshift.screen.stats.measures.columns import described
from rankshift.screen.stats.observations import Observations, route
from rankshift.screen.stats.options import Columns, Judging, centre_of, hits_of, identity, in_order, summary_of
from rankshift.screen.stats.ranks_in_cells import InCells, by_cell, in_cells, single_genes


def goal_effects(run: Run, judging: Judging) -> tuple[pa.Table, dict[str, Any]]:
    """Shifts towards the goal state: hits first, then by falling mean."""
    towards, others = route(run)
    seen = Observations.read(run, [f"shift_{s}" for s in (towards, *others)] + ["similarity"])
    columns, summary = _effects(run, seen, f"shift_{towards}", "shift", judging)
    tested = columns["enough_cells"]
    for s in others:
        values = seen.values[f"shift_{s}"]
        result = against_rest(seen.gene, values, len(seen.count))
        p, centred = (np.where(tested, two_sided(result.z_around(c)), np.nan) for c in (0.5, centre_of(result, tested)))
        columns |= {f"shift_mean_{s}": seen.mean(values), f"p_value_{s}": p, f"fdr_{s}": fdr(centred)}
    columns["similarity_mean"] = seen.mean(seen.values["similarity"])
    summary = {"goal": towards, "alternatives": others, **summary}
    return described(in_order(columns, -columns["hit"].astype(int), -columns["shift_mean"]), others), summary


def similarity_effects(run: Run, judging: Judging) -> tuple[pa.Table, dict[str, Any]]:
    """Similarities, with the mixture of genes of impact and others: hits first, then by rising mean."""
    seen = Observations.read(run, ["similarity"])
    columns, summary = _effects(run, seen, "similarity", "similarity", judging)
    model = Mixture.fit(columns["similarity_mean"])
    columns |= {
        "impact": model.impact(columns["similarity_mean"]),
        "impact_probability": model.impact_probability(columns["similarity_mean"]),
        "impact_percent": 100 * seen.mean(model.impact(seen.values["similarity"]).astype(np.float32)),
    }
    summary["mixture"] = asdict(model)
    return described(in_order(columns, -columns["hit"].astype(int), columns["similarity_mean"])), summary


def _effects(
    run: Run, seen: Observations, column: str, measure: str, judging: Judging
) -> tuple[Columns, dict[str, Any]]:
    """The columns that shifts and similarities have in common. `column`: of the run, `measure`: its name in ours."""
    values = seen.values[column]
    first = measure == "shift"  # the highest shift is the strongest, the lowest similarity
    tested = seen.count >= judging.min_cells
    mean = seen.mean(values)
    columns = {
        **identity(seen),
        "enough_cells": tested,
        f"{measure}_mean": mean,
        f"{measure}_sd": _sd(seen, values, mean),
    }
    result = against_rest(seen.gene, values, len(mean))
    p, centre = np.where(tested, result.p, np.nan), centre_of(result, tested)
    centred = np.where(tested, two_sided(result.z_around(centre)), np.nan)
    columns |= {"superiority": result.superiority, "p_value": p, "centred_p_value": centred, "fdr": fdr(centred)}
    groups = None if judging.by is None else balanced(seen, values, Groups.read(run, judging.by))
    ranked = mean if groups is None else groups.mean
    columns["rank"] = np.full(len(mean), np.nan)
    columns["rank"][tested] = ranks(ranked[tested], highest_first=first)
    if groups is not None:
        q, difference = groups.test(tested)
        columns |= {"groups": groups.groups, "balanced_mean": groups.mean, "balanced_difference": groups.difference}
        columns |= {"balanced_p_value": q, "balanced_fdr": fdr(q)}
    decides = columns["fdr" if groups is None else "balanced_fdr"]
    away = columns["superiority"] - centre if groups is None else groups.difference - difference
    # What moves cells away, only less than the typical gene, is different from it and still no effect towards the goal.
    acts = away * ranked > 0 if first else away < 0
    columns |= hits_of(run, decides, column, np.abs(ranked) if first else 1 - ranked, acts=acts)
    summary = summary_of(seen, columns, judging) | {"typical_superiority": centre}
    if groups is not None:
        summary["typical_difference"] = difference
    if single_genes(seen):
        places = in_cells(run, seen, values)
        columns |= _adjusted(seen, places, tested, summary)
        columns |= against_likes(run, seen, places, mean, tested, judging.seed, summary)
    units = units_of(seen, values, groups)
    if judging.bootstrap:
        interval = bootstrap(units, tested, judging.bootstrap, judging.seed, highest_first=first)
        columns |= {f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        columns |= {"rank_low": interval.rank_low, "rank_high": interval.rank_high}
    halves = stability(units, tested, judging.seed, highest_first=first)
    summary["stability"] = None if halves is None else asdict(halves)
    return columns, summary


def _adjusted(seen: Observations, places: InCells, tested: np.ndarray, summary: dict[str, Any]) -> Columns:
    """What remains of the effects after the cell and its trend over rank, and the test of it."""
    order, _ = by_cell(seen)
    order = order[~np.isnan(places.adjusted[order])]
    within = within_strata(seen.cell[order], seen.gene[order], places.adjusted[order], len(tested))
    centre = centre_of(within, tested)
    p = np.where(tested, two_sided(within.z_around(centre)), np.nan)
    summary["typical_adjusted_superiority"] = centre
    if not np.isnan(places.removed[0]):
        summary["variance_removed"] = {"cell": places.removed[0], "cell_and_rank": places.removed[1]}
    return {"adjusted_mean": seen.mean(places.adjusted), "adjusted_p_value": p, "adjusted_fdr": fdr(p)}


def _sd(seen: Observations, values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    squares = np.bincount(seen.gene, weights=(values - mean[seen.gene]) ** 2, minlength=len(mean))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(seen.count > 1, np.sqrt(squares / (seen.count - 1)), np.nan)
