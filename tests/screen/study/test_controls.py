"""Matched controls: who they are, what is taken from a value, and how an effect is held against theirs."""

import numpy as np
import pytest
from scipy.stats import median_abs_deviation, t

from rankshift.screen.study.controls import MOST, Controls, tail_of

GENES, DONORS = 60, 7


def matched(eligible: np.ndarray | None = None) -> Controls:
    detection, rank = np.arange(GENES) ** 2.0, np.full(GENES, 5.0)
    return Controls.match(detection, rank, np.ones(GENES, bool) if eligible is None else eligible)


def test_the_nearest_in_detection_are_taken_and_never_the_gene_itself():
    near = matched().near
    assert near.shape == (GENES, 20)
    for gene, row in enumerate(near):
        assert gene not in row
        assert len(set(row.tolist())) == len(row)
        farthest = np.abs(row - gene).max()
        left_out = set(range(GENES)) - {gene, *row.tolist()}
        assert all(abs(other - gene) >= farthest for other in left_out)


def test_only_eligible_genes_are_controls_and_too_few_are_none():
    eligible = np.arange(GENES) % 2 == 0
    near = matched(eligible).near
    assert near.shape == (GENES, 15)
    assert np.all(near % 2 == 0)
    assert matched(np.arange(GENES) < 19).count == 0
    many = Controls.match(np.random.default_rng(0).random(900), None, np.ones(900, bool))
    assert many.count == MOST


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_a_value_loses_the_median_of_its_controls_in_the_same_donor(missing):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(GENES, DONORS))
    values[rng.random(values.shape) < missing] = np.nan
    controls = matched()
    found = controls.adjusted(values)
    for gene in range(0, GENES, 7):
        for donor in range(DONORS):
            expected = values[gene, donor] - np.nanmedian(values[controls.near[gene], donor])
            assert found[gene, donor] == pytest.approx(expected, nan_ok=True)


def test_an_effect_among_its_controls_by_hand():
    effect = np.random.default_rng(2).normal(size=GENES)
    controls = matched()
    cloud = controls.against(effect, np.ones(GENES, bool))
    theirs, k = effect[controls.near[5]], 20
    spread = median_abs_deviation(theirs, scale="normal") * k / (k - 0.8)
    z = (effect[5] - np.median(theirs)) / (spread * np.sqrt(1 + np.pi / 2 / k))
    assert cloud.count[5] == k
    assert cloud.spread[5] == pytest.approx(spread, rel=1e-4)
    assert cloud.p[5] == pytest.approx(2 * t.sf(abs(z), 0.37 * (k - 1)), rel=1e-3)


def test_heavy_tails_are_seen_and_normal_ones_left_alone():
    rng = np.random.default_rng(4)
    assert 3 < tail_of(rng.standard_t(5, 20_000) * 3) < 8
    assert tail_of(rng.normal(size=20_000)) > 25
    assert np.isinf(tail_of(rng.standard_t(5, 100)))  # too few to tell


def test_p_among_controls_is_no_smaller_than_it_should_be_where_all_are_alike():
    rng = np.random.default_rng(3)
    p = np.concatenate(
        [
            Controls.match(rng.random(1000), None, np.ones(1000, bool))
            .against(rng.normal(size=1000), np.ones(1000, bool))
            .p
            for _ in range(30)
        ]
    )
    for level in (0.05, 0.005):
        assert (p <= level).mean() < level * 1.15
