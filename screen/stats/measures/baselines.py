"""Effects beside what needs no model: the genes of like rank and detection, the rank itself, the token table, and chance."""

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.matched_null import against_matched
from rankshift.screen.stats.measures.coexpression import state_baselines
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.options import Columns
from rankshift.screen.stats.ranks_in_cells import InCells


def against_likes(
    run: Run,
    seen: Observations,
    places: InCells,
    effect: np.ndarray,
    tested: np.ndarray,
    seed: int,
    summary: dict[str, Any],
) -> Columns:
    """Columns of the matched null and the baselines of mean effects [G]; how these go together goes into the summary."""
    rank = seen.mean(np.where(places.rank > 0, places.rank, np.nan).astype(np.float32))
    detection = places.detected / seen.cells
    matched = against_matched(effect, rank, places.detected, tested)
    random = np.random.default_rng(seed).random(len(effect))
    strength = np.abs(effect - np.median(effect[tested])) if tested.any() else effect
    summary["baseline_correlation"] = {
        name: _spearman(strength[tested], baseline[tested])
        for name, baseline in (("rank", rank), ("detection", detection), ("random", random))
    }
    columns = {
        "matched_median": matched.median,
        "matched_z": matched.z,
        "matched_p_value": matched.p,
        "matched_p_floor": np.where(np.isnan(matched.p), np.nan, matched.floor),
        "baseline_rank": rank,
        "baseline_detection": detection,
        "baseline_random": random,
    }
    states = state_baselines(run, seen) or {}
    if states:
        summary["baseline_correlation_signed"] = {
            name: _spearman(effect[tested], baseline[tested]) for name, baseline in states.items()
        }
    return columns | {f"baseline_{name}": baseline for name, baseline in states.items()}


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    known = ~np.isnan(a) & ~np.isnan(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return None
    return float(spearmanr(a[known], b[known]).statistic)
