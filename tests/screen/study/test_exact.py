"""Exact tests over donors, against scipy's and against counting all signs and all groups."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, rankdata, wilcoxon

from rankshift.screen.study.exact import (
    between_floor,
    centre,
    centre_between,
    leave_out,
    rank_between,
    signed_rank,
    signed_rank_floor,
)


def drawn(genes: int, donors: int, missing: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 1, (genes, donors))
    return np.where(rng.random(values.shape) < missing, np.nan, values)


def test_signed_ranks_are_those_of_scipy_also_where_donors_are_missing():
    values = drawn(60, 9, 0.3)
    found = signed_rank(values)
    for gene, row in enumerate(values):
        there = row[np.isfinite(row)]
        if len(there):
            assert found[gene] == pytest.approx(wilcoxon(there, method="exact").pvalue, rel=1e-12)
        else:
            assert np.isnan(found[gene])


def test_signed_ranks_with_ties_count_every_sign():
    values = np.array([[1.0, 1, -1, 2, 3, 3], [0, 0, 1, -2, 2, 2], [0, 0, 0, 0, 0, 0], [1, np.nan, 1, 1, 1, 1]])
    found = signed_rank(values)
    for gene in (0, 1, 3):
        row = values[gene][np.isfinite(values[gene]) & (values[gene] != 0)]
        rank = rankdata(np.abs(row))
        sums = np.array(
            [sum(r for r, s in zip(rank, signs, strict=True) if s) for signs in product((0, 1), repeat=len(row))]
        )
        mine, middle = rank[row > 0].sum(), rank.sum() / 2
        assert found[gene] == pytest.approx((np.abs(sums - middle) >= abs(mine - middle) - 1e-9).mean())
    assert found[2] == 1


def test_ranks_between_groups_are_those_of_scipy_and_of_all_groups_with_ties():
    other = np.array([False] * 4 + [True] * 5)
    values = drawn(40, 9, 0.1, seed=1)
    found = rank_between(values, other)
    for gene, row in enumerate(values):
        a, b = (row[side & np.isfinite(row)] for side in (~other, other))
        assert found[gene] == pytest.approx(mannwhitneyu(a, b, method="exact").pvalue, rel=1e-12)
    tied = np.array([[1.0, 2, 2, 5, 2, 2, 3, 3, 4]])
    rank = rankdata(tied[0])
    sums = np.array([rank[list(some)].sum() for some in combinations(range(9), 4)])
    mine = rank[:4].sum()
    assert rank_between(tied, other)[0] == pytest.approx(min(1, 2 * min((sums <= mine).mean(), (sums >= mine).mean())))


def test_floors_are_reached_and_no_p_is_below():
    assert signed_rank(np.arange(1.0, 9)[None])[0] == signed_rank_floor(8)
    other = np.array([False] * 4 + [True] * 4)
    assert rank_between(np.arange(1.0, 9)[None], other)[0] == pytest.approx(between_floor(4, 4))


def test_the_interval_is_what_the_test_does_not_refuse():
    """Signed ranks of values minus a centre: not refused within the interval, refused just outside."""
    values = drawn(25, 8, seed=2)
    middle, low, high = centre(values)
    for row, m, a, b in zip(values, middle, low, high, strict=True):
        walsh = [(row[i] + row[j]) / 2 for i in range(8) for j in range(i, 8)]
        assert m == pytest.approx(np.median(walsh))
        for inside, outside in ((a + 1e-9, a - 1e-9), (b - 1e-9, b + 1e-9)):
            assert wilcoxon(row - inside, method="exact").pvalue > 0.05
            assert wilcoxon(row - outside, method="exact").pvalue <= 0.05
    assert np.isnan(centre(values[:, :5])[1]).all()  # the smallest p of five donors is above 0.05


def test_the_interval_between_groups_is_what_the_test_does_not_refuse():
    values, other = drawn(25, 10, seed=3), np.array([False] * 5 + [True] * 5)
    middle, low, high = centre_between(values, other)
    for row, m, a, b in zip(values, middle, low, high, strict=True):
        assert m == pytest.approx(np.median(row[:5][:, None] - row[5:]))
        for inside, outside in ((a + 1e-9, a - 1e-9), (b - 1e-9, b + 1e-9)):
            assert mannwhitneyu(row[:5] - inside, row[5:], method="exact").pvalue > 0.05
            assert mannwhitneyu(row[:5] - outside, row[5:], method="exact").pvalue <= 0.05


def test_leaving_out_one_part_at_a_time():
    values = np.array([[1.0, 2, 3, 10], [1, np.nan, 2, np.nan], [5, 5, 5, 5]])
    low, high = leave_out(values, np.array([0, 0, 1, 2]), lambda x: np.nanmean(x, axis=1))
    assert low.tolist() == pytest.approx([2, 1, 5])
    assert high.tolist() == pytest.approx([6.5, 2, 5])
