"""The test of finished genes against scipy; no gene is called where none has an effect, and none that was not finished."""

import numpy as np
import pytest
from drawn_tables import Regime, draw, played
from scipy import stats as scipy_stats

from rankshift.screen.adaptive.allocation import Wanted
from rankshift.screen.adaptive.any_effect import any_effect, benjamini_hochberg
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
