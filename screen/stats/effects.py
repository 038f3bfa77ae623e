"""One row per perturbation in our own columns: effect, tests, intervals, nulls, baselines, and what the whole run allows.

Every number has its column in `columns`. A perturbation is judged against the other genes of the same run; what is not
tested, for too few cells or groups, is empty and never 0 or 1.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import spearmanr

from rankshift.screen.errors import InputError
from rankshift.screen.results import Run
from rankshift.screen.stats.columns import described
from rankshift.screen.stats.groups import Balanced, Groups, balanced
from rankshift.screen.stats.matched import against_matched
from rankshift.screen.stats.mixture import Mixture
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.published import SIGNIFICANT, fdr, match, null_means, route
from rankshift.screen.stats.rank_sum import RankSum, against_rest, between, two_sided, within_strata
from rankshift.screen.stats.ranks_in_cells import InCells, by_cell, in_cells, single_genes
from rankshift.screen.stats.resampling import Units, bootstrap, ranks, stability
from rankshift.screen.stats.typical import typical


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How effects are judged; the fields are options of `rankshift stats`.

    by: obs column whose values (donors, samples) count once each. min_cells: fewer are not tested; below 10 a rank-sum's
    normal approximation is rough. bootstrap: resamples, 0 for no intervals; 200 give a 95 % end to about a tenth of its
    distance. seed: of everything drawn.
    """

    by: str | None = None
    min_cells: int = 10
    bootstrap: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("min_cells", 1), ("bootstrap", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: give at least {least}")


Columns = dict[str, Any]


def goal_effects(run: Run, judging: Judging) -> tuple[pa.Table, dict[str, Any]]:
    """Shifts towards the goal state: hits first, then by falling mean."""
    towards, others = route(run)
    seen = Observations.read(run, [f"shift_{s}" for s in (towards, *others)] + ["similarity"])
    columns, summary = _effects(run, seen, f"shift_{towards}", "shift", judging)
    tested = columns["enough_cells"]
    for s in others:
        values = seen.values[f"shift_{s}"]
        result = against_rest(seen.gene, values, len(seen.count))
        p, centred = (np.where(tested, two_sided(result.z_around(c)), np.nan) for c in (0.5, _centre(result, tested)))
        columns |= {f"shift_mean_{s}": seen.mean(values), f"p_value_{s}": p, f"fdr_{s}": fdr(centred)}
    columns["similarity_mean"] = seen.mean(seen.values["similarity"])
    summary = {"goal": towards, "alternatives": others, **summary}
    return described(_sorted(columns, -columns["hit"].astype(int), -columns["shift_mean"]), others), summary


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
    return described(_sorted(columns, -columns["hit"].astype(int), columns["similarity_mean"])), summary


def null_effects(run: Run, null: Run, judging: Judging) -> tuple[pa.Table, dict[str, Any]]:
    """Similarities against those of another run, gene by gene: hits first, then the strongest effect (lowest difference)."""
    test, other = Observations.read(run, ["similarity"]), Observations.read(null, ["similarity"])
    same = match(test, other)
    count, null_count, mean, null_mean = null_means(test, other, same)
    kept = same[other.gene] >= 0
    result = between(
        test.gene,
        test.values["similarity"],
        same[other.gene][kept],
        other.values["similarity"][kept],
        len(count),
        ties=True,
    )
    tested = np.minimum(count, null_count) >= judging.min_cells
    p = np.where(tested, result.p, np.nan)
    difference = mean - null_mean
    columns = {**_identity(test), "enough_cells": tested, "null_cells": null_count, "similarity_mean": mean}
    columns |= {"null_similarity_mean": null_mean, "difference_mean": difference, "superiority": result.superiority}
    columns |= {"p_value": p, "fdr": fdr(p)}
    columns |= _hits(run, columns["fdr"], "similarity", 1 - mean, acts=difference < 0)
    summary = _summary(test, columns, judging) | {"null": str(null.path), "null_cells": other.cells}
    return described(_sorted(columns, -columns["hit"].astype(int), difference)), summary


def _effects(
    run: Run, seen: Observations, column: str, measure: str, judging: Judging
) -> tuple[Columns, dict[str, Any]]:
    """The columns that shifts and similarities have in common. `column`: of the run, `measure`: its name in ours."""
    values = seen.values[column]
    first = measure == "shift"  # the highest shift is the strongest, the lowest similarity
    tested = seen.count >= judging.min_cells
    mean = seen.mean(values)
    columns = {
        **_identity(seen),
        "enough_cells": tested,
        f"{measure}_mean": mean,
        f"{measure}_sd": _sd(seen, values, mean),
    }
    result = against_rest(seen.gene, values, len(mean))
    p, centre = np.where(tested, result.p, np.nan), _centre(result, tested)
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
    columns |= _hits(run, decides, column, np.abs(ranked) if first else 1 - ranked, acts=acts)
    summary = _summary(seen, columns, judging) | {"typical_superiority": centre}
    if groups is not None:
        summary["typical_difference"] = difference
    if single_genes(seen):
        columns |= _against_likes(seen, in_cells(run, seen, values), mean, tested, judging.seed, summary)
    units = _units(seen, values, groups)
    if judging.bootstrap:
        interval = bootstrap(units, tested, judging.bootstrap, judging.seed, highest_first=first)
        columns |= {f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        columns |= {"rank_low": interval.rank_low, "rank_high": interval.rank_high}
    halves = stability(units, tested, judging.seed, highest_first=first)
    summary["stability"] = None if halves is None else asdict(halves)
    return columns, summary


def _against_likes(
    seen: Observations, places: InCells, mean: np.ndarray, tested: np.ndarray, seed: int, summary: dict[str, Any]
) -> Columns:
    """Adjusted effects, matched genes and baselines: what the rank of a gene in its cells explains."""
    order, _ = by_cell(seen)
    order = order[~np.isnan(places.adjusted[order])]
    within = within_strata(seen.cell[order], seen.gene[order], places.adjusted[order], len(mean))
    centre = _centre(within, tested)
    p = np.where(tested, two_sided(within.z_around(centre)), np.nan)
    rank = seen.mean(np.where(places.rank > 0, places.rank, np.nan).astype(np.float32))
    detection = places.detected / seen.cells
    matched = against_matched(mean, rank, places.detected, tested)
    floor = np.where(np.isnan(matched.p), np.nan, matched.floor)
    random = np.random.default_rng(seed).random(len(mean))
    summary["typical_adjusted_superiority"] = centre
    if not np.isnan(places.removed[0]):
        summary["variance_removed"] = {"cell": places.removed[0], "cell_and_rank": places.removed[1]}
    strength = np.abs(mean - np.median(mean[tested])) if tested.any() else mean
    summary["baseline_correlation"] = {
        name: _spearman(strength[tested], baseline[tested])
        for name, baseline in (("rank", rank), ("detection", detection), ("random", random))
    }
    return {
        "adjusted_mean": seen.mean(places.adjusted),
        "adjusted_p_value": p,
        "adjusted_fdr": fdr(p),
        "matched_median": matched.median,
        "matched_z": matched.z,
        "matched_p_value": matched.p,
        "matched_p_floor": floor,
        "baseline_rank": rank,
        "baseline_detection": detection,
        "baseline_random": random,
    }


def _centre(result: RankSum, tested: np.ndarray) -> float:
    """Superiority of the typical gene."""
    return typical(result.superiority, result.error, tested, 0.5)


def _identity(seen: Observations) -> Columns:
    return {**seen.names, "cells": seen.count}


def _sd(seen: Observations, values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    squares = np.bincount(seen.gene, weights=(values - mean[seen.gene]) ** 2, minlength=len(mean))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(seen.count > 1, np.sqrt(squares / (seen.count - 1)), np.nan)


def _units(seen: Observations, values: np.ndarray, groups: Balanced | None) -> Units:
    if groups is not None:
        return Units.of_groups(groups.by_group)
    return Units.of_rows(values, seen.cell, seen.offsets, seen.cells)


def _hits(run: Run, q: np.ndarray, column: str, size: np.ndarray, *, acts: np.ndarray) -> Columns:
    """Marks of hits by FDR `q` and by the `size` of the mean effect beside the noise floor of the run's `column`.

    acts: bool [G], does the perturbation differ from the others by what it does, and not by what it does not do?
    """
    floor = (run.manifest.get("noise_floor") or {}).get(column, {}).get("p99")
    below = np.zeros(len(q), bool) if floor is None else size < floor
    return {
        "below_noise_floor": pa.nulls(len(q), pa.bool_()) if floor is None else below,
        "hit": (q < SIGNIFICANT) & ~below & acts & (size > 0),
    }


def _summary(seen: Observations, columns: Columns, judging: Judging) -> dict[str, Any]:
    return {
        **asdict(judging),
        "perturbations": len(seen.count),
        "rows": len(seen),
        "cells": seen.cells,
        "dropped_rows": seen.dropped,
        "tested": int(columns["enough_cells"].sum()),
        "hits": int(columns["hit"].sum()),
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    known = ~np.isnan(a) & ~np.isnan(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return None
    return float(spearmanr(a[known], b[known]).statistic)


def _sorted(columns: Columns, *keys: np.ndarray) -> pa.Table:
    order = pa.array(np.lexsort(keys[::-1]))
    table = pa.table({name: pa.array(c, from_pandas=True) for name, c in columns.items()})
    return table.take(order)
