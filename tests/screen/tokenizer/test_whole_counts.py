"""Counts that were divided by depth are whole again, exactly; what was not divided stays bit for bit what it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankshift.screen.tokenizer.whole_counts import whole_counts

# A cell has its ones, twos or threes; the others are anything.
CELLS = st.lists(st.lists(st.integers(0, 30_000), max_size=30), min_size=1, max_size=6)
DIVISIONS = {
    "x / n * T": lambda x, n, t: x / n * t,
    "x / (n / T)": lambda x, n, t: x / (n / t),
    "x * (T / n)": lambda x, n, t: x * (t / n),
}


@given(
    cells=CELLS,
    least=st.sampled_from([1, 2, 3]),
    division=st.sampled_from(list(DIVISIONS)),
    target=st.sampled_from([1.0, 50.0, 7919.0, 1e4, 1e6]),
    kind=st.sampled_from([np.float32, np.float64]),
)
def test_divided_counts_are_whole_again(cells, least, division, target, kind):
    counts = [np.array([least, *(c for c in cell if c == 0 or c >= least), least + 1], kind) for cell in cells]
    offsets = np.cumsum([0, *map(len, counts)])
    divided = [DIVISIONS[division](c, kind(c.sum()), kind(target)).astype(np.float32) for c in counts]
    whole, told = whole_counts(np.concatenate(divided), offsets)
    for cell, true in zip(np.split(whole, offsets[1:-1]), counts, strict=True):
        if (cell != np.rint(cell)).any():
            pytest.fail(f"{cell} are not whole")
        np.testing.assert_allclose(cell * true.max() / cell.max(), true, rtol=1e-6)  # equal up to one whole factor
    assert told <= len(cells)


def test_a_cell_with_ones_gets_its_very_counts_and_others_are_left():
    counts, corrected, empty = np.float32([1, 5, 0, 2]), np.float32([0.31, 1.44, 2.5]), np.float32([])
    data = np.concatenate([counts / np.float32(3), empty, corrected])
    whole, told = whole_counts(data, np.array([0, 4, 4, 7]))
    assert told == 1
    assert whole.dtype == np.float32
    assert whole.tolist() == [*counts.tolist(), *corrected.tolist()]
    assert data[1] == np.float32(5) / np.float32(3)  # what was given is not changed


@pytest.mark.parametrize(
    "data",
    [
        np.array([1, 2, 60], np.int64),
        np.float32([1, 2, 60]),  # whole already
        np.log1p(np.float32([3.1, 6.2, 9.3])),
        np.float32([1.0, 1.0 + 1e-5, 2.5]),
        np.float32([1e-6, 0.2]),  # 200,000 steps: rounding could stand for another count
        np.float32([]),
    ],
    ids=str,
)
def test_what_has_no_steps_is_left(data):
    whole, told = whole_counts(data, np.array([0, len(data)]))
    assert told == 0
    assert whole is data
