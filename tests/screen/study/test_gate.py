"""The gate: balanced accuracy over folds, and the exact test over donors."""

from math import comb

import numpy as np
import pytest

from rankshift.screen.study.gate import gate


def judged(rows: list[tuple[str, str, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """true, predicted and donor of cells, from rows of donor, label, cells named rightly and wrongly."""
    other = {"sick": "well", "well": "sick"}
    out = [(label, label, donor) for donor, label, right, _ in rows for _ in range(right)]
    out += [(label, other[label], donor) for donor, label, _, wrong in rows for _ in range(wrong)]
    true, predicted, donor = zip(*out, strict=True)
    return np.array(true, object), np.array(predicted, object), np.array(donor, object)


def test_paired_donors_by_hand():
    """Donors 0 to 4 have (0.8 + 0.6) / 2, donor 6 has (0.2 + 0.4) / 2; donor 7 is at chance and counts in neither."""
    rows = [row for i in range(5) for row in ((f"d{i}", "sick", 8, 2), (f"d{i}", "well", 6, 4))]
    rows += [("d6", "sick", 2, 8), ("d6", "well", 4, 6), ("d7", "sick", 5, 5), ("d7", "well", 5, 5)]
    found = gate(*judged(rows))
    assert found.balanced_accuracy == pytest.approx((47 / 70 + 39 / 70) / 2)
    assert found.recall == {"sick": pytest.approx(47 / 70), "well": pytest.approx(39 / 70)}
    assert found.donors["d0"] == pytest.approx(0.7)
    assert found.donors["d6"] == pytest.approx(0.3)
    assert (found.above, found.below, found.test) == (5, 1, "sign")
    assert found.p_value == pytest.approx((1 + 6) / 2**6)  # five or six of six
    assert not found.passed


def test_it_passes_where_donors_agree():
    rows = [row for i in range(5) for row in ((f"d{i}", "sick", 8, 2), (f"d{i}", "well", 6, 4))]
    found = gate(*judged(rows))
    assert found.p_value == pytest.approx(1 / 2**5)
    assert found.passed


def test_one_label_for_all_cells_does_not_pass_where_most_donors_have_it():
    rows = [(f"s{i}", "sick", 10, 0) for i in range(12)] + [(f"w{i}", "well", 0, 10) for i in range(3)]
    found = gate(*judged(rows))
    assert found.balanced_accuracy == 0.5
    assert found.test == "between donors"
    assert found.p_value == 1
    assert not found.passed


def test_unpaired_donors_are_permuted_exactly():
    rows = [(f"s{i}", "sick", 9 - (i == 0), 1 + (i == 0)) for i in range(4)]
    rows += [(f"w{i}", "well", 6 + i % 2, 4 - i % 2) for i in range(5)]
    found = gate(*judged(rows))
    assert found.p_value == pytest.approx(1 / comb(9, 4))
    assert found.passed
