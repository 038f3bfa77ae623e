"""Splits: which cells (or genes) are learnt from and which only judge, cut by scikit-learn's splitters.

A group (a donor) is never on both sides of any cut. A cut that leaves a class out of one side is refused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from warnings import catch_warnings, simplefilter

import numpy as np
from sklearn.model_selection import ShuffleSplit, StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit

from rankshift.jobs.finetuning.labels.labels import Task
from rankshift.screen.errors import InputError

INNER = 0.2  # share of the inner cut where no test share says otherwise
BINS = 5  # strata of a number: its quintiles
TRAIN, VALID, TEST = "train", "valid", "test"
SPELLINGS = {
    "train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST,
    "valid": VALID, "validation": VALID, "val": VALID, "eval": VALID,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Fold:
    """One cut: numbers of the units that are learnt from, and of those that judge, both rising. name: where it comes from."""

    name: str
    train: np.ndarray
    judged: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Splits:
    """All cuts of n units. folds: of a cross-validation. final: everything but the test part against the test part.

    inner: a cut of the training part of `final`, where settings are chosen without a look at the test part; None if not
    asked for.
    """

    folds: tuple[Fold, ...]
    final: Fold
    inner: Fold | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Splitting:
    """How to cut. Shares are those of the units that are there."""

    test: float = 0.2  # share that only judges the final model
    folds: int = 0  # folds of a cross-validation beside the held-out share; 0: none
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.test < 1:
            raise InputError(f"--test is {self.test}: give a share from 0 to below 1")
        if self.folds < 0 or self.folds == 1:
            raise InputError(f"--folds is {self.folds}: give at least 2, or 0 for none")
        if self.test == 0 and self.folds == 0:
            raise InputError("--test 0 without --folds leaves nothing to judge by: give a share or folds")


def split(
    n: int,
    how: Splitting,
    *,
    strata: np.ndarray | None = None,
    groups: Sequence[object] | None = None,
    column: Sequence[object] | None = None,
    inner: bool = False,
) -> Splits:
    """Cut n units. strata: int (n,), kept in proportion on both sides as far as groups allow.

    groups: units of one value stay together. column: says train, valid or test for every unit, in place of `how.test`.
    """
    everything = np.arange(n)
    coded = None if groups is None else _codes(groups)
    valid = test = everything[:0]
    train = everything
    if column is not None:
        train, valid, test = _named(column)
    elif how.test:
        train, test = _hold_out(everything, strata, coded, how.test, how.seed)
    chosen = None
    if inner and len(valid):
        chosen = Fold(name="inner", train=train, judged=valid)
    elif inner:
        learnt, judged = _hold_out(train, strata, coded, how.test or INNER, how.seed + 1)
        chosen = Fold(name="inner", train=learnt, judged=judged)
    folds = _folds(train, strata, coded, how) if how.folds else ()
    final = Fold(name="final", train=train, judged=test if len(test) else valid)
    splits = Splits(folds=tuple(folds), final=final, inner=chosen)
    if coded is not None:
        _check_groups(splits, coded, np.asarray(groups, object))
    return splits


def check_split(
    fold: Fold, task: Task, ids: np.ndarray, fix: str = "give another --test or --folds, or drop it with --rare"
) -> None:
    """Every class of a task on both sides of a cut. ids (n,): classes of all units, negative where they have none."""
    for side, rows in (("learn from", fold.train), ("judge by", fold.judged)):
        if not len(rows):
            continue
        count = np.bincount(ids[rows][ids[rows] >= 0], minlength=len(task.classes))
        if not count.all():
            name = task.classes[int(np.argmin(count))]
            raise InputError(f"class {name!r} of {task.name} has nothing to {side} in the {fold.name} split: {fix}")


def strata_of(values: np.ndarray, numeric: bool) -> np.ndarray:
    """int (n,): what a split keeps in proportion. values (n, tasks): class ids, or numbers, which count by quintile.

    Of several tasks the combinations count, unless one of them is a single unit: then the first task alone.
    """
    if numeric:
        edges = np.unique(np.quantile(values[:, 0], np.linspace(0, 1, BINS + 1)[1:-1]))
        return np.asarray(np.searchsorted(edges, values[:, 0], side="right"))
    _, joint, count = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    if count.min() > 1:
        return np.asarray(joint)
    return np.asarray(np.unique(values[:, 0], return_inverse=True)[1])


def _hold_out(
    rows: np.ndarray, strata: np.ndarray | None, groups: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(learnt from, judged), both rising; with groups the best balanced of the folds that about make the share."""
    if groups is not None:
        return min(
            _group_folds(rows, strata, groups, max(2, round(1 / share)), seed),
            key=lambda cut: _odds(cut, strata, share),
        )
    size = min(max(1, round(share * len(rows))), len(rows) - 1)
    kinds = None if strata is None else strata[rows]
    if kinds is not None and (np.bincount(kinds)[np.unique(kinds)].min() < 2 or size < len(np.unique(kinds))):
        kinds = None  # too few to keep proportions; `check_split` judges what comes of it
    splitter = (ShuffleSplit if kinds is None else StratifiedShuffleSplit)(
        n_splits=1, test_size=size, random_state=seed
    )
    train, judged = next(splitter.split(rows, kinds))
    return np.sort(rows[train]), np.sort(rows[judged])


def _folds(rows: np.ndarray, strata: np.ndarray | None, groups: np.ndarray | None, how: Splitting) -> Iterator[Fold]:
    if groups is not None:
        cuts = _group_folds(rows, strata, groups, how.folds, how.seed, exactly=True)
    else:
        if how.folds > len(rows):
            raise InputError(f"--folds {how.folds} of {len(rows)} are too many: give at most one fold each")
        kinds = np.zeros(len(rows), int) if strata is None else strata[rows]
        if np.bincount(kinds).max() < how.folds:
            kinds = np.zeros(len(rows), int)
        with catch_warnings():
            simplefilter(
                "ignore", UserWarning
            )  # warns of classes with fewer members than folds; check_split says it better
            splitter = StratifiedKFold(how.folds, shuffle=True, random_state=how.seed)
            cuts = [(np.sort(rows[a]), np.sort(rows[b])) for a, b in splitter.split(rows, kinds)]
    for k, (train, judged) in enumerate(cuts):
        yield Fold(name=f"fold {k}", train=train, judged=judged)


def _group_folds(
    rows: np.ndarray, strata: np.ndarray | None, groups: np.ndarray, folds: int, seed: int, exactly: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    there = len(np.unique(groups[rows]))
    if there < 2 or (exactly and there < folds):
        raise InputError(
            f"--split-by leaves {there} groups for {folds} folds: split by a column of more values, or lower --folds"
        )
    kinds = np.zeros(len(rows), int) if strata is None else strata[rows]
    with catch_warnings():
        simplefilter("ignore", UserWarning)
        splitter = StratifiedGroupKFold(min(folds, there), shuffle=True, random_state=seed)
        cuts = list(splitter.split(rows, kinds, groups[rows]))
    cuts = [(np.sort(rows[a]), np.sort(rows[b])) for a, b in cuts if len(a) and len(b)]
    if len(cuts) < (folds if exactly else 1):
        raise InputError(
            f"--split-by: {there} groups do not fill {folds} folds: lower --folds, or split by another column"
        )
    return cuts


def _odds(cut: tuple[np.ndarray, np.ndarray], strata: np.ndarray | None, share: float) -> tuple[int, float]:
    """How far a cut is from a good one: strata that a side lacks, then how far judged shares of strata are from the wish."""
    train, judged = cut
    if strata is None:
        return 0, abs(len(judged) / (len(train) + len(judged)) - share)
    kinds = int(strata.max()) + 1
    a, b = (np.bincount(strata[side], minlength=kinds) for side in cut)
    there = a + b > 0
    return int((there & ((a == 0) | (b == 0))).sum()), float(np.abs(b[there] / (a + b)[there] - share).mean())


def _named(column: Sequence[object]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sides = []
    for value in column:
        side = SPELLINGS.get(str(value).strip().lower())
        if side is None:
            raise InputError(f"--split-column holds {value!r}: its values are train, valid and test")
        sides.append(side)
    train, valid, test = (np.flatnonzero(np.array(sides) == side) for side in (TRAIN, VALID, TEST))
    if not len(train) or not (len(valid) or len(test)):
        raise InputError(
            f"--split-column has {len(train)} cells to train, {len(valid)} valid and {len(test)} test: name both sides"
        )
    return train, valid, test


def _codes(groups: Sequence[object]) -> np.ndarray:
    missing = sum(group is None for group in groups)
    if missing:
        raise InputError(f"--split-by: {missing} cells have no value: leave them out with --where")
    return np.asarray(np.unique(np.array([str(group) for group in groups]), return_inverse=True)[1])


def _check_groups(splits: Splits, coded: np.ndarray, names: np.ndarray) -> None:
    """No group on both sides: true by construction, unless a split column says otherwise."""
    for fold in (*splits.folds, splits.final, *([splits.inner] if splits.inner else [])):
        both = np.flatnonzero(np.isin(coded, coded[fold.train]) & np.isin(coded, coded[fold.judged]))
        if len(both):
            raise InputError(
                f"--split-by: group {names[both[0]]} is on both sides of the {fold.name} split: mend --split-column"
            )
