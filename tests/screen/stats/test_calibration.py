"""Calibration on drawn runs: uniform p-values where nothing acts, FDR where something does, one donor of most cells."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from drawn_runs import Draw
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.options import StatOptions
from rankshift.screen.stats.statistics import statistics

EVEN = (0.125,) * 8
ONE_OF_MOST = (0.8, *(0.2 / 7,) * 7)
GENES = 2500
SEEDS = (0, 1, 2)


def judged(folder, *, by: str | None = None, null: dict | None = None, **draw) -> pd.DataFrame:
    """Statistics of a drawn run, with its truth as column `planted`; of mode null, what `null` draws otherwise."""
    options = {"cells": 1200, "genes": GENES, "per_cell": 250, "abundance_sd": 0.7, **draw}
    run, truth = Draw(**options).run(folder / "run")
    judging, other = StatOptions(by=by, bootstrap=0), None
    if null is not None:
        other, _ = Draw(**{**options, "shifted": 0, "seed": options.get("seed", 0) + 100, **null}).run(folder / "null")
    table = statistics(run, "null" if other else "goal", null=other, judging=judging).table().to_pandas()
    table["planted"] = truth[table.gene_ids.str[4:].astype(int)]
    return table


def false_discoveries(table: pd.DataFrame, column: str) -> float:
    found = table[column] < 0.05
    return float((found & ~table.planted).sum() / max(found.sum(), 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "columns"),
    [
        ({}, ["p_value", "centred_p_value", "adjusted_p_value", "matched_p_value", "balanced_p_value"]),
        ({"cell_sd": 1e-3, "trend": 3e-3}, ["adjusted_p_value", "matched_p_value"]),
        ({"cell_sd": 5e-4, "donor_sd": 1e-3}, ["balanced_p_value", "matched_p_value"]),
        ({"donor_sd": 1e-3, "donors": ONE_OF_MOST}, ["balanced_p_value", "matched_p_value"]),
    ],
    ids=["nothing", "cells and ranks", "donors", "one donor of most cells"],
)
def test_p_values_are_uniform_where_nothing_acts(draw, columns, tmp_path):
    table = judged(tmp_path, by="donor", seed=3, **{"donors": EVEN, **draw})
    for column in columns:
        p = table[column].dropna()
        assert len(p) >= 2000
        assert kstest(p, "uniform").pvalue > 1e-3, column
        assert (p < 0.05).mean() < 0.065, column


@pytest.mark.slow
@pytest.mark.parametrize("draw", [{}, {"cell_sd": 1e-3, "trend": 3e-3}], ids=["plain", "cells and ranks"])
def test_false_discoveries_stay_at_five_percent_when_all_effects_go_one_way(draw, tmp_path):
    tables = [judged(tmp_path / str(s), seed=s, shifted=250, effect=7e-4, **draw) for s in SEEDS]
    for column in ("fdr", "adjusted_fdr"):
        if draw and column == "fdr":
            continue  # the plain test takes the trend over rank for an effect
        assert np.mean([false_discoveries(t, column) for t in tables]) < 0.06, column
        power = np.mean([(t[column] < 0.05)[t.planted].mean() for t in tables])
        assert power > 0.9, column
    # Against the rest as it is, the genes without effect lie on the other side of those with one.
    for t in tables:
        t["plain"] = fdr(t.p_value.to_numpy())
    if not draw:
        assert np.mean([false_discoveries(t, "plain") for t in tables]) > 0.08


@pytest.mark.slow
def test_one_donor_of_most_cells_fools_the_test_over_cells_and_not_the_one_over_donors(tmp_path):
    draw = {"donors": ONE_OF_MOST, "donor_sd": 1e-3, "cell_sd": 5e-4, "shifted": 250, "effect": 4e-3}
    tables = [judged(tmp_path / str(s), seed=s, by="donor", **draw) for s in SEEDS]
    over_donors = np.mean([false_discoveries(t, "balanced_fdr") for t in tables])
    over_cells = np.mean([false_discoveries(t, "fdr") for t in tables])
    assert over_donors < 0.06
    assert over_cells > 0.5
    assert np.mean([(t.balanced_fdr < 0.05)[t.planted].mean() for t in tables]) > 0.9
    assert all((t.hit == ((t.balanced_fdr < 0.05) & ~t.below_noise_floor)).all() for t in tables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "columns"),
    [
        ({}, ["p_value", "centred_p_value", "adjusted_p_value", "matched_p_value", "balanced_p_value"]),
        (
            {"cell_sd": 1e-3, "trend": 3e-3},
            ["p_value", "centred_p_value", "adjusted_p_value", "matched_p_value", "balanced_p_value"],
        ),
        ({"donor_sd": 1e-3}, ["matched_p_value", "balanced_p_value"]),
        ({"donor_sd": 1e-3, "donors": ONE_OF_MOST}, ["matched_p_value", "balanced_p_value"]),
    ],
    ids=["nothing", "cells and ranks", "donors", "one donor of most cells"],
)
def test_p_values_against_a_null_run_are_uniform_where_the_runs_do_not_differ(draw, columns, tmp_path):
    table = judged(tmp_path, by="donor", null={}, seed=5, **{"donors": EVEN, **draw})
    for column in columns:
        p = table[column].dropna()
        assert len(p) >= 2000
        assert kstest(p, "uniform").pvalue > 1e-3, column
        assert (p < 0.05).mean() < 0.065, column


@pytest.mark.slow
def test_a_null_run_whose_cells_are_more_easily_moved_fools_the_plain_test_alone(tmp_path):
    table = judged(tmp_path, by="donor", null={"noise_sd": 1.3e-3}, seed=6, donors=EVEN)
    assert (table.p_value < 0.05).mean() > 0.3
    for column in ("centred_p_value", "adjusted_p_value", "matched_p_value", "balanced_p_value"):
        p = table[column].dropna()
        assert len(p) >= 2000
        assert kstest(p, "uniform").pvalue > 1e-3, column
    assert not table.hit.any()


@pytest.mark.slow
def test_against_a_null_run_false_discoveries_stay_at_five_percent(tmp_path):
    draw = {"donors": EVEN, "shifted": 250, "effect": 2e-3}
    tables = [judged(tmp_path / str(s), seed=s, by="donor", null={}, **draw) for s in SEEDS]
    for column in ("fdr", "adjusted_fdr", "balanced_fdr"):
        assert np.mean([false_discoveries(t, column) for t in tables]) < 0.06, column
        assert np.mean([(t[column] < 0.05)[t.planted].mean() for t in tables]) > 0.9, column


@pytest.mark.slow
def test_one_donor_of_most_cells_fools_the_test_between_runs_and_not_the_one_over_donors(tmp_path):
    draw = {"donors": ONE_OF_MOST, "donor_sd": 1e-3, "cell_sd": 5e-4, "shifted": 250, "effect": 6e-3}
    tables = [judged(tmp_path / str(s), seed=s, by="donor", null={}, **draw) for s in SEEDS]
    assert np.mean([false_discoveries(t, "balanced_fdr") for t in tables]) < 0.06
    assert np.mean([false_discoveries(t, "fdr") for t in tables]) > 0.5
    assert np.mean([(t.balanced_fdr < 0.05)[t.planted].mean() for t in tables]) > 0.9
