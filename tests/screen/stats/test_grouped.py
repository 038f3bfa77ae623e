"""Sums and places by group in small pieces are those of the whole, to the last bit."""

import numpy as np
import pytest

from rankshift.screen.stats.arithmetic.grouped import grouped_counts, grouped_sums, places_by_group


@pytest.fixture(params=[7, 100, 5000])
def group(request, monkeypatch) -> np.ndarray:
    """Groups of 1,000 values, looked at so many at a time; one group has none."""
    monkeypatch.setattr("rankshift.screen.stats.arithmetic.grouped.CHUNK", request.param)
    return np.random.default_rng(0).integers(0, 30, 1000).astype(np.int32) + 1


def test_sums_are_those_of_one_pass(group):
    values = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    found = grouped_sums(group, lambda some: values[some], 31)
    expected = np.zeros(31)
    for g, value in zip(group, values.astype(np.float64), strict=True):
        expected[g] += value
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(grouped_counts(group, 31), [(group == g).sum() for g in range(31)])


@pytest.mark.parametrize("groups", [31, 1 << 17])
def test_places_are_those_of_a_stable_sort(group, groups):
    place = places_by_group(group, grouped_counts(group, groups))
    order = np.empty(1000, int)
    order[place] = np.arange(1000)
    assert order.tolist() == sorted(range(1000), key=group.__getitem__)
