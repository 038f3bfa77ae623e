"""Shrunken means and their intervals, for genes that were chosen because they are the strongest."""

import numpy as np
import pytest

from drawn_runs import Draw
from rankshift.screen.stats.options import StatOptions
from rankshift.screen.stats.statistics import statistics

EFFECT, TOP = 4e-4, 60


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    draw = Draw(cells=300, genes=800, per_cell=100, shifted=60, effect=EFFECT, abundance_sd=0.5)
    return draw.run(tmp_path_factory.mktemp("drawn") / "run")


def test_after_selection_plain_means_are_too_large_and_shrunken_ones_nearly_right(drawn):
    run, truth = drawn
    table = statistics(run, "goal", judging=StatOptions(bootstrap=0)).table().to_pandas()
    effect = EFFECT * truth[table.gene_ids.str[4:].astype(int)]
    error = table.shift_sd / np.sqrt(table.cells)
    best = table.enough_cells & (table["rank"] <= TOP)
    assert best.sum() == TOP
    plain = (table.shift_mean - effect)[best]
    assert plain.mean() > 0.3 * EFFECT, "the strongest are strong by luck, too"
    assert (plain.abs() < 1.96 * error[best]).mean() < 0.85
    # Effects of one size and one sign are no mixture of normals around a centre, and yet:
    assert abs((table.shift_shrunken - effect)[best].mean()) < 0.4 * plain.mean()
    inside = (table.shift_shrunken_low <= effect) & (effect <= table.shift_shrunken_high)
    assert inside[best].mean() >= 0.87
    assert inside[table.enough_cells].mean() >= 0.94
    assert table.shift_shrunken[~table.enough_cells].isna().all()


def test_it_needs_independent_cells_and_genes_enough(drawn, tmp_path):
    run, _ = drawn
    small, _ = Draw(cells=40, genes=15, per_cell=12, donors=(0.5, 0.5)).run(tmp_path / "small")
    for table in (
        statistics(small, "goal", judging=StatOptions(bootstrap=0)).table(),
        statistics(small, "mixture", judging=StatOptions(bootstrap=0, by="donor")).table(),
    ):
        assert not [name for name in table.column_names if "shrunken" in name]
    similar = statistics(run, "mixture", judging=StatOptions(bootstrap=0)).table().to_pandas()
    assert (similar.similarity_shrunken_low < similar.similarity_shrunken).sum() == similar.enough_cells.sum()
