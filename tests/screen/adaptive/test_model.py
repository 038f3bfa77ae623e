"""Draws, the trend of cells, the mixture of genes and their posterior, against what is known of them."""

import numpy as np
import pytest
from drawn_tables import Regime, draw

from rankshift.screen.adaptive.mixture import posterior, threshold
from rankshift.screen.adaptive.model import belief
from rankshift.screen.adaptive.population import Population, keys_of
from rankshift.screen.adaptive.strata import BLOCKS, blocks, drawn, pilot
from rankshift.screen.adaptive.trend import fit


def lists(cells: int, genes: int, absent: int = 0, strata: int = 1) -> Population:
    """Every cell has all genes, in the order of their numbers; it lacks the last ones."""
    cell, gene = np.repeat(np.arange(cells), genes), np.tile(np.arange(genes), cells)
    return Population(
        cell=cell,
        gene=gene,
        rank=np.log2(np.minimum(gene, genes - absent) + 1) / np.log2(genes + 1),
        absent=gene >= genes - absent,
        predicted=None,
        cell_key=keys_of([f"cell{i}" for i in range(cells)]),
        gene_key=keys_of([f"gene{i}" for i in range(genes)]),
        stratum=np.arange(cells) % strata,
    )


def test_hashed_numbers_are_even_and_differ_with_every_name():
    a, b = np.meshgrid(np.arange(300, dtype=np.uint64), np.arange(300, dtype=np.uint64))
    u = drawn(3, a, b)
    assert len(np.unique(u)) == u.size
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert abs(counts - u.size / 20).max() < 4 * np.sqrt(u.size / 20)
    assert abs(np.corrcoef(u.ravel(), drawn(4, a, b).ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 0.02


def test_a_pilot_takes_a_gene_of_every_stratum_and_holds_the_smaller_one():
    of = lists(20, 144)
    small, large = pilot(of, 0, 6), pilot(of, 0, 12)
    assert (large | ~small).all()
    edges = [0, 4, 16, 36, 64, 100, 144]  # even in the square root
    for cell in range(20):
        genes = np.flatnonzero(small[of.cell == cell])
        assert np.searchsorted(edges, genes, side="right").tolist() == [1, 2, 3, 4, 5, 6]
    assert len(np.unique(of.gene[small])) > 60, "cells draw different genes"


def test_genes_that_cells_lack_are_drawn_in_proportion():
    of = lists(50, 120, absent=80)
    some = pilot(of, 1, 6)
    assert some.sum() == 300
    assert of.absent[some].mean() == pytest.approx(2 / 3)


def test_every_stratum_gives_each_block_its_share():
    of = lists(160, 2, strata=2)
    for stratum in range(2):
        count = np.bincount(blocks(of, 0)[of.stratum == stratum], minlength=4)
        assert count.tolist() == [round(80 * share) for share in BLOCKS]
    assert (blocks(of, 0) != blocks(of, 1)).any()


def test_means_of_normal_effects_are_shrunk_by_half():
    rng = np.random.default_rng(0)
    effect = rng.normal(2, 1, 5000)
    shrunk, prior = posterior(effect + rng.normal(0, 1, 5000), np.ones(5000))
    assert prior.mean == pytest.approx(2, abs=0.06)
    assert (prior.weight * prior.variance).sum() == pytest.approx(1, abs=0.12)
    assert np.mean((shrunk.centre - effect) ** 2) == pytest.approx(0.5, abs=0.03)  # the best there is: 1 / (1 + 1)
    assert np.mean(np.abs(shrunk.centre - effect) < 1.96 * shrunk.sd) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("tail", ["normal", "t3"])
def test_intervals_of_the_strongest_cover_after_selection(tail):
    rng = np.random.default_rng(3)
    plain, covered = [], []
    for _ in range(5):
        effect = rng.normal(0, 1, 3000) if tail == "normal" else rng.standard_t(3, 3000) / np.sqrt(3)
        mean = effect + rng.normal(0, 1, 3000)
        shrunk, _ = posterior(mean, np.ones(3000))
        best = np.argsort(-shrunk.centre)[:100]
        covered.append(np.abs(shrunk.centre - effect)[best] < 1.96 * shrunk.sd[best])
        plain.append(np.abs(mean - effect)[best] < 1.96)
    assert np.mean(plain) < 0.85
    assert np.mean(covered) >= 0.93


def test_without_effects_nothing_is_left_and_a_strong_one_stays():
    rng = np.random.default_rng(1)
    mean = np.append(rng.normal(0, 1, 2000), 30.0)
    shrunk, _ = posterior(mean, np.ones(2001))
    assert np.abs(shrunk.centre[:-1]).max() < 1.2
    assert shrunk.centre[-1] > 28


def test_as_many_genes_as_asked_are_expected_above_the_threshold():
    rng = np.random.default_rng(2)
    shrunk, _ = posterior(rng.normal(0, 2, 500), np.full(500, 1.0))
    assert shrunk.above(threshold(shrunk, 20)).sum() == pytest.approx(20, abs=1e-6)


def test_the_trend_knows_cells_ranks_and_the_prediction():
    table = draw(Regime(genes=600, cells=200, per_cell=200, cell=0.6, trend=0.3, known=0.8), 0, min_cells=1)
    of, values = table.population, table.values
    rows = np.flatnonzero(pilot(of, 0, 24))
    trend = fit(of, rows, values[rows])
    left = np.delete(np.arange(len(of)), rows)
    rest = (values - trend.predicted)[left]
    assert trend.explained == pytest.approx(0.8, abs=0.03)
    assert rest.std() == pytest.approx(np.sqrt(0.1 * 0.2), rel=0.2)  # the tenth, less four fifths
    behind, far = of.rank[rows] > 0.8, of.rank[left] > 0.8
    assert trend.residual[behind].std() == pytest.approx(rest[far].std(), rel=0.1)
    blind = fit(of.with_prediction(None), rows, values[rows])
    assert np.delete(values - blind.predicted, rows).std() == pytest.approx(np.sqrt(0.1), rel=0.2)


def test_what_is_measured_everywhere_is_known():
    table = draw(Regime(genes=300, cells=60, per_cell=80), 0, min_cells=2)
    of, values = table.population, table.values
    rows = np.flatnonzero(pilot(of, 0, 12))
    trend = fit(of, rows, values[rows])
    seen = np.zeros(len(of), bool)
    seen[rows] = True
    seen |= of.gene < 40
    now = belief(of, seen, np.where(seen, values, 0.0), rows, trend)
    np.testing.assert_allclose(now.centre[:40], table.means[:40], rtol=0, atol=1e-12)
    assert now.sd[:40].max() < 1e-9
    assert now.sd[40:].min() > 1e-6
    error = (now.centre - table.means)[40:] / now.sd[40:]
    assert np.mean(np.abs(error) < 1.96) > 0.9
