"""What is drawn of a cohort, and how its donors are dealt to folds."""

import numpy as np
import pytest

from rankshift.screen.errors import InputError
from rankshift.screen.study.draw import ANALYSIS, POOL, draw
from rankshift.screen.study.folds import donor_folds


def cells(sizes: dict[tuple[str, str], int]) -> tuple[np.ndarray, np.ndarray]:
    """label and donor of cells, mixed, from their number by donor and label."""
    rows = [(label, donor) for (donor, label), n in sizes.items() for _ in range(n)]
    mixed = np.random.default_rng(0).permutation(len(rows))
    label, donor = (np.array(column, object)[mixed] for column in zip(*rows, strict=True))
    return label, donor


SIZES = {("a", "sick"): 3000, ("a", "well"): 40, ("b", "sick"): 9, ("b", "well"): 1, ("c", "sick"): 130}


def test_every_donor_gives_the_same_number_and_the_rest_is_the_pool_up_to_its_cap():
    label, donor = cells(SIZES)
    label[5] = None
    found = draw(label, donor, cells_per_donor=100, pool_per_donor=500, seed=3)
    assert np.all(np.diff(found.row) > 0)
    assert 5 not in found.row
    size = {key: n - (key == (donor[5], "sick")) for key, n in SIZES.items()}
    for (who, state), n in size.items():
        mine = (donor[found.row] == who) & (label[found.row] == state)
        judged, learnt = ((found.role[mine] == role).sum() for role in (ANALYSIS, POOL))
        assert judged == min(100, -(-n // 2))
        assert learnt == min(500, n - judged)


def test_the_draw_hangs_on_the_seed_and_not_on_other_donors():
    label, donor = cells(SIZES)
    options = {"cells_per_donor": 10, "pool_per_donor": 20}
    first, again, other = (draw(label, donor, seed=seed, **options) for seed in (1, 1, 2))
    assert first.row.tolist() == again.row.tolist()
    assert first.row.tolist() != other.row.tolist()
    some = np.flatnonzero(donor != "b")
    fewer = draw(label[some], donor[some], seed=1, **options)
    assert some[fewer.row].tolist() == [row for row in first.row if donor[row] != "b"]


def test_nothing_to_draw_is_refused():
    label, donor = cells(SIZES)
    with pytest.raises(InputError, match="--cells-per-donor is 0"):
        draw(label, donor, cells_per_donor=0, pool_per_donor=1, seed=0)


@pytest.mark.parametrize("paired", [True, False])
def test_folds_part_no_donor_and_hold_every_label(paired):
    labels = ("sick", "well") if paired else (None,)
    sizes = {
        (f"d{i}", label or ("sick" if i % 2 else "well")): 3 + 50 * (i == 7) for i in range(20) for label in labels
    }
    label, donor = cells(sizes)
    fold = donor_folds(label, donor, folds=5, seed=0)
    assert sorted(fold) == sorted(set(donor))
    for k in range(5):
        members = [d for d, at in fold.items() if at == k]
        assert len(members) == 4
        assert {label[i] for i in np.flatnonzero(np.isin(donor, members))} == {"sick", "well"}
    assert fold == donor_folds(label, donor, folds=5, seed=0)
    assert fold != donor_folds(label, donor, folds=5, seed=1)


def test_folds_are_balanced_over_the_columns_that_are_asked_for():
    sizes = {(f"d{i}", label): 4 for i in range(16) for label in ("sick", "well")}
    label, donor = cells(sizes)
    number = np.array([int(d[1:]) for d in donor])
    sex, site = np.where(number < 8, "f", "m"), np.where(number % 4 == 0, None, "north")
    fold = donor_folds(label, donor, folds=4, seed=0, balance=[sex, site])
    for k in range(4):
        members = [int(d[1:]) for d, at in fold.items() if at == k]
        assert sum(m < 8 for m in members) == 2
        assert sum(m % 4 == 0 for m in members) == 1


def test_folds_that_lack_a_label_are_refused():
    label, donor = cells({**{(f"d{i}", "sick"): 2 for i in range(6)}, ("x", "well"): 2, ("y", "well"): 2})
    with pytest.raises(InputError, match="would have no donor of one of the labels"):
        donor_folds(label, donor, folds=4, seed=0)
    with pytest.raises(InputError, match="--folds is 9, the cells are of 8 donors"):
        donor_folds(label, donor, folds=9, seed=0)
