"""Splits: nothing on both sides, proportions kept, donors whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankshift.jobs.finetuning.labels.labels import NONE, Task
from rankshift.jobs.finetuning.labels.splits import Fold, Splitting, check_split, split, strata_of
from rankshift.screen.errors import InputError


@settings(max_examples=40, deadline=None)
@given(donors=st.integers(8, 12), cells=st.integers(20, 120), folds=st.sampled_from([0, 2, 3]), seed=st.integers(0, 99))
def test_no_donor_is_on_both_sides_of_any_cut(donors, cells, folds, seed):
    rng = np.random.default_rng(seed)
    donor = np.concatenate([np.arange(donors), rng.integers(0, donors, cells)])
    kind = rng.integers(0, 3, len(donor))
    how = Splitting(test=0.0 if folds == 3 else 0.25, folds=folds, seed=seed)
    splits = split(len(donor), how, strata=kind, groups=[f"d{i}" for i in donor], inner=True)
    assert splits.inner is not None
    for cut in (*splits.folds, splits.final, splits.inner):
        assert not set(donor[cut.train]) & set(donor[cut.judged])
        assert len(cut.train)
    judged = [row for fold in splits.folds for row in fold.judged]
    assert sorted(judged) == (splits.final.train.tolist() if folds else [])
    assert not set(splits.inner.judged) & set(splits.final.judged)


def test_the_donors_that_balance_best_are_held_out():
    # Donors 0 to 3 hold both classes evenly, donor 4 and 5 one each: only an even one can judge 20 % well.
    donor = np.repeat(np.arange(6), 20)
    kind = np.concatenate([np.tile([0, 1], 40), np.zeros(20, int), np.ones(20, int)])
    splits = split(120, Splitting(test=0.2), strata=kind, groups=donor.tolist())
    assert np.bincount(kind[splits.final.judged]).tolist() in ([10, 10], [20, 20])
    assert len(set(donor[splits.final.judged])) <= 2


def test_random_splits_keep_the_classes_in_proportion():
    kind = np.repeat([0, 1, 2], [60, 30, 10])
    splits = split(100, Splitting(test=0.2, folds=4), strata=kind)
    assert np.bincount(kind[splits.final.judged]).tolist() == [12, 6, 2]
    assert [np.bincount(kind[fold.judged]).tolist() for fold in splits.folds] == [[12, 6, 2]] * 4
    assert sorted([*splits.final.train, *splits.final.judged]) == list(range(100))
    again = split(100, Splitting(test=0.2, folds=4), strata=kind)
    assert again.final.judged.tolist() == splits.final.judged.tolist()
    other = split(100, Splitting(test=0.2, seed=1), strata=kind)
    assert other.final.judged.tolist() != splits.final.judged.tolist()


def test_a_column_can_name_the_split():
    column = ["train", "Test", "valid", "train", "test"]
    splits = split(5, Splitting(), column=column, inner=True)
    assert splits.inner is not None
    assert (splits.final.train.tolist(), splits.final.judged.tolist()) == ([0, 3], [1, 4])
    assert (splits.inner.train.tolist(), splits.inner.judged.tolist()) == ([0, 3], [2])
    with pytest.raises(InputError, match="group d1 is on both sides of the final split"):
        split(5, Splitting(), column=column, groups=["d1", "d1", "d2", "d3", "d4"])
    with pytest.raises(InputError, match="holds 'holdout': its values are train, valid and test"):
        split(2, Splitting(), column=["train", "holdout"])
    with pytest.raises(InputError, match="name both sides"):
        split(2, Splitting(), column=["train", "train"])


def test_strata_of_numbers_and_of_several_tasks():
    assert np.bincount(strata_of(np.arange(100.0)[:, None], numeric=True)).tolist() == [20] * 5
    assert strata_of(np.array([[0, 0], [0, 1], [0, 0], [0, 1]]), numeric=False).tolist() == [0, 1, 0, 1]
    alone = np.array([[0, 0], [0, 1], [1, NONE], [1, 1]])
    assert strata_of(alone, numeric=False).tolist() == [0, 0, 1, 1]


def test_a_class_that_a_side_lacks_is_refused():
    task, ids = Task(name="kind", classes=("a", "b")), np.array([0, 0, 1, 1, NONE])
    check_split(Fold(name="final", train=np.array([0, 2]), judged=np.array([1, 3, 4])), task, ids)
    with pytest.raises(InputError, match="class 'b' of kind has nothing to judge by in the final split"):
        check_split(Fold(name="final", train=np.array([0, 2, 3]), judged=np.array([1, 4])), task, ids)
    with pytest.raises(InputError, match="class 'a' of kind has nothing to learn from in the fold 1 split"):
        check_split(Fold(name="fold 1", train=np.array([2]), judged=np.array([0, 1, 3])), task, ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 1.0}, "--test is 1.0"),
        ({"folds": 1}, "--folds is 1: give at least 2"),
        ({"test": 0.0}, "leaves nothing to judge by"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        Splitting(**options)


def test_groups_that_do_not_fit():
    with pytest.raises(InputError, match="--split-by leaves 1 groups"):
        split(4, Splitting(), groups=["d"] * 4)
    with pytest.raises(InputError, match="--split-by: 1 cells have no value"):
        split(4, Splitting(), groups=["d", "e", None, "d"])
    with pytest.raises(InputError, match="leaves 2 groups for 3 folds"):
        split(6, Splitting(test=0.0, folds=3), groups=list("ddeeee"))
    with pytest.raises(InputError, match="--folds 9 of 6 are too many"):
        split(6, Splitting(test=0.0, folds=9))
