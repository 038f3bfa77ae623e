"""The test of finished genes against scipy; no gene is called where none has an effect, and none that was not finished."""

import numpy as np
import pytest
from drawn_tables import Regime, draw, played
from scipy import stats as scipy_stats

from rankshift.screen.adaptive.allocation import Wanted
from rankshift.screen.adaptive.any_effect import any_effect, benjamini_hochberg
from rankshift.screen.adaptive.model import belief
from rankshift.screen.adaptive.passing import chance_to_pass
from rankshift.screen.adaptive.strata import pilot
from rankshift.screen.adaptive.trend import fit

SMALL = {"genes": 1500, "cells": 150, "per_cell": 250}


def test_it_is_a_t_test_of_what_cell_and_rank_leave_and_the_rate_is_that_of_scipy():
    table = draw(Regime(cell=0.4, trend=0.2, gene=0.1, known=0.5, **SMALL), seed=3, min_cells=5)
    of = table.population
    fitted = np.flatnonzero(pilot(of, 0, 6))
    finished = np.zeros(of.genes, bool)
    finished[::3] = True
    p, rate = any_effect(of, table.values, fitted, finished)
    trend = fit(of.with_prediction(None), fitted, table.values[fitted])
    rest = table.values - trend.predicted
    rest[fitted] = trend.residual
    for gene in range(0, of.genes, 30):
        assert p[gene] == pytest.approx(scipy_stats.ttest_1samp(rest[of.gene == gene], 0).pvalue, rel=1e-9)
    assert (np.isnan(p) == ~finished).all()
    whole = scipy_stats.false_discovery_control(np.where(finished, p, 1.0))
    np.testing.assert_allclose(rate[finished], whole[finished], rtol=1e-12)
    np.testing.assert_allclose(benjamini_hochberg(p[finished]), scipy_stats.false_discovery_control(p[finished]))


@pytest.mark.slow
def test_chosen_genes_without_an_effect_are_not_called_and_those_with_one_are():
    called = []
    for seed in range(6):
        none = draw(Regime(cell=0.6, trend=0.25, known=0.9, **SMALL), seed=seed, min_cells=5)
        _, verdict = played(none.population, none.values, Wanted(top=30, seed=seed))
        assert (np.isnan(verdict.p_value) == ~verdict.finished).all()
        called.append(int((verdict.fdr < 0.05).sum()))
    assert sum(called) <= 2
    some = draw(Regime(cell=0.4, trend=0.2, gene=0.15, known=0.9, **SMALL), seed=0, min_cells=5)
    _, verdict = played(some.population, some.values, Wanted(top=30))
    found = np.flatnonzero(verdict.fdr < 0.05)
    assert len(found) >= 15
    size = np.abs(some.truth)
    assert (size[found] > np.median(size)).mean() >= 0.9


@pytest.mark.slow
def test_asked_for_a_rate_nearly_all_that_the_full_screen_calls_are_called_for_a_part_of_the_passes():
    """One gene in ten has an effect, the others have exactly none; the prediction knows nine tenths of it."""
    regime = Regime(cell=0.6, trend=0.25, known=0.9, **SMALL)
    drawn = draw(regime, seed=0, min_cells=5)
    random, of = np.random.default_rng(0), drawn.population
    true = random.random(of.genes) < 0.1
    effect = np.where(true, random.choice([-1.0, 1.0], of.genes), 0.0)[of.gene] * 0.3 * drawn.values.std()
    values, of = drawn.values + effect, of.with_prediction(of.predicted + 0.9 * effect)
    whole = any_effect(of, values, np.flatnonzero(pilot(of, 0, 6)), np.ones(of.genes, bool))[1] < 0.05
    assert whole.sum() > 40
    share, passes = {}, {}
    for rate in (None, 0.05):
        _, verdict = played(of, values, Wanted(top=10, fdr=rate))
        called = np.nan_to_num(verdict.fdr, nan=1.0) < 0.05
        assert not called[~verdict.finished].any()
        assert (called & ~true).sum() <= 0.15 * max(called.sum(), 1)
        assert (verdict.uncalled > 0) == (rate is not None)
        share[rate], passes[rate] = (called & whole).sum() / whole.sum(), verdict.passes
    assert share[0.05] > 0.85 > 0.3 > share[None]
    assert passes[None] < passes[0.05] < 0.5 * regime.cells * (regime.per_cell + 1)


def test_the_chance_to_be_called_is_one_or_nought_where_all_is_known():
    """The genes of certain chance are those that scipy's tests and its correction call."""
    table = draw(Regime(cell=0.4, trend=0.2, gene=0.1, known=0.5, **SMALL), seed=3, min_cells=5)
    of, seen = table.population, np.ones(len(table.population), bool)
    fitted = np.flatnonzero(pilot(of, 0, 6))
    trends = [fit(some, fitted, table.values[fitted]) for some in (of, of.with_prediction(None))]
    now = belief(of, seen, table.values, fitted, trends[0])
    chance = chance_to_pass(of, now, table.values, fitted, trends[1], 0.05, slack=1.0)
    assert set(np.unique(chance.round(6))) <= {0.0, 1.0}
    rest = table.values - trends[1].predicted
    rest[fitted] = trends[1].residual
    p = np.array([scipy_stats.ttest_1samp(rest[of.gene == gene], 0).pvalue for gene in range(of.genes)])
    called = scipy_stats.false_discovery_control(p) < 0.05
    assert called.sum() > 50
    assert ((chance > 0.5) == called).mean() > 0.85  # it takes one spread for all genes of like ranks
    assert (chance[np.argsort(p)[: called.sum() // 2]] > 0.5).mean() > 0.9
