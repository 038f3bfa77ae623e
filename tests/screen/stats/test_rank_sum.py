"""Rank-sum tests of many groups at once against scipy, one group at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, rankdata, ranksums

from rankshift.screen.stats.arithmetic.rank_sum import (
    against_rest,
    against_sample,
    between,
    ordered_bits,
    within_strata,
)

GROUPS = 4
value = st.sampled_from([-2.5, -1e-30, -0.0, 0.0, 1e-3, 0.5, 0.5000001, 7.0])  # few values: many ties
rows = st.lists(st.tuples(st.integers(0, GROUPS - 1), value), min_size=2, max_size=60)
few = settings(max_examples=60, deadline=None)


def split(some: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    group, values = zip(*some, strict=True)
    return np.array(group), np.array(values, np.float32)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_bits_are_ordered_as_floats_are(values):
    values = np.array(values, np.float32)
    np.testing.assert_array_equal(rankdata(ordered_bits(values)), rankdata(values + np.float32(0)))


@few
@given(rows)
def test_each_gene_against_all_others_is_the_tie_corrected_rank_sum_test(some):
    group, values = split(some)
    result = against_rest(group, values, GROUPS)
    for g in range(GROUPS):
        mine, others = values[group == g], values[group != g]
        if not len(mine) or not len(others):
            assert np.isnan(result.p[g])
            continue
        if np.ptp(values) == 0:
            assert (result.z[g], result.p[g]) == (0, 1)
            continue
        want = mannwhitneyu(mine.astype(float), others.astype(float), method="asymptotic", use_continuity=False)
        assert result.p[g] == pytest.approx(want.pvalue, rel=1e-9, abs=1e-15)
        assert result.superiority[g] == pytest.approx(want.statistic / len(mine) / len(others))


@few
@given(rows, st.lists(value, min_size=1, max_size=40))
def test_against_a_sample_is_the_uncorrected_test(some, sample):
    group, values = split(some)
    order = np.argsort(group, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=GROUPS))])
    result = against_sample(offsets, values[order], np.array(sample, np.float32))
    for g in range(GROUPS):
        if (group == g).any():
            want = ranksums(values[group == g], np.array(sample, np.float32))
            assert result.z[g] == pytest.approx(want.statistic, abs=1e-12)
            assert result.p[g] == pytest.approx(want.pvalue, rel=1e-9)


@few
@given(rows, rows)
def test_between_two_runs(some, more):
    (group, values), (other_group, other) = split(some), split(more)
    plain, corrected = (between(group, values, other_group, other, GROUPS, ties=t) for t in (False, True))
    for g in range(GROUPS):
        a, b = values[group == g], other[other_group == g]
        if not len(a) or not len(b):
            assert np.isnan(plain.p[g])
            continue
        assert plain.p[g] == pytest.approx(ranksums(a, b).pvalue, rel=1e-9)
        if np.ptp(np.concatenate([a, b])) > 0:
            want = mannwhitneyu(a.astype(float), b.astype(float), method="asymptotic", use_continuity=False).pvalue
            assert corrected.p[g] == pytest.approx(want, rel=1e-9, abs=1e-15)
        else:
            assert corrected.p[g] == 1


@few
@given(st.lists(st.lists(value, min_size=1, max_size=6), min_size=1, max_size=5))
def test_within_cells_ranks_are_standardised_by_what_chance_gives_in_each_cell(cells):
    stratum = np.repeat(np.arange(len(cells)), [len(c) for c in cells])
    group = np.concatenate([np.arange(len(c)) for c in cells])  # gene 0 is in every cell
    values = np.concatenate([np.array(c, np.float32) for c in cells])
    result = within_strata(stratum, group, values, 6)
    scores = [rankdata(np.array(c, np.float32)) / (len(c) + 1) - 0.5 for c in cells]
    variance = sum(s.var() for s in scores)  # of a value drawn from its cell at random
    if variance > 0:
        assert result.z[0] == pytest.approx(sum(s[0] for s in scores) / np.sqrt(variance), abs=1e-9)
    else:
        assert np.isnan(result.z[0]) or result.z[0] == 0


def test_groups_are_compared_in_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    group, other_group = rng.integers(0, 50, 3000), rng.integers(0, 50, 2000)
    values, other = (rng.integers(0, 20, n).astype(np.float32) for n in (3000, 2000))
    whole = between(group, values, other_group, other, 60, ties=True)
    monkeypatch.setattr("rankshift.screen.stats.arithmetic.grouped.CHUNK", 130)
    np.testing.assert_array_equal(between(group, values, other_group, other, 60, ties=True).z, whole.z)


def test_values_are_ranked_in_ranges(monkeypatch):
    """Ranges of a few values, among which a third are equal, give what one sort gives."""
    rng = np.random.default_rng(2)
    group = rng.integers(0, 40, 5000)
    values = np.where(rng.random(5000) < 0.3, 0.5, rng.normal(size=5000)).astype(np.float32)
    values[:2] = np.inf, -np.inf
    whole = against_rest(group, values, 40)
    for name, size in (("AT_ONCE", 170), ("SAMPLE", 300)):
        monkeypatch.setattr(f"rankshift.screen.stats.arithmetic.rank_sum.{name}", size)
    monkeypatch.setattr("rankshift.screen.stats.arithmetic.grouped.CHUNK", 333)
    parts = against_rest(group, values, 40)
    np.testing.assert_array_equal(parts.superiority, whole.superiority)
    np.testing.assert_array_equal(parts.error, whole.error)


def test_those_who_take_part_are_named_by_their_order():
    rng = np.random.default_rng(3)
    stratum, group = rng.integers(0, 30, 2000), rng.integers(0, 50, 2000)
    values = rng.normal(size=2000).astype(np.float32)
    order = np.argsort(stratum, kind="stable")[::2]
    order = order[np.argsort(stratum[order], kind="stable")]
    named = within_strata(stratum, group, values, 50, order=order)
    np.testing.assert_array_equal(named.z, within_strata(stratum[order], group[order], values[order], 50).z)


def test_many_cells_are_counted_in_blocks():
    rng = np.random.default_rng(0)
    stratum = np.sort(rng.integers(0, 5000, 20_000))
    group, values = rng.integers(0, 2**18, 20_000), rng.normal(size=20_000).astype(np.float32)
    small = np.unique(group, return_inverse=True)[1]
    wide, narrow = within_strata(stratum, group, values, 2**18), within_strata(stratum, small, values, small.max() + 1)
    np.testing.assert_allclose(wide.z[group], narrow.z[small], rtol=1e-12)
