"""Folds of donors: all cells of a donor, of whatever label, lie in one fold, so that no model judges a donor that it saw."""

from collections.abc import Sequence
from warnings import catch_warnings, simplefilter

import numpy as np

from rankshift.screen.errors import InputError

TRIES = 64  # shuffles among which the best balanced is taken; each costs a millisecond for a hundred donors


def donor_folds(
    label: np.ndarray, donor: np.ndarray, *, folds: int, seed: int, balance: Sequence[np.ndarray] = ()
) -> dict[str, int]:
    """Fold of every donor, in sorted order of the donors; label, donor and each of `balance`: texts of the cells [n].

    Donors count once for each label, and value of a balance column, that their cells have, whatever the number of cells.
    sklearn's StratifiedGroupKFold deals them out, over several shuffles by the seed; kept is the one in which folds are most
    alike in labels, then in balance columns, then in number of donors. Raises InputError where no shuffle gives every fold
    a donor of every label.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # start-up time: a study needs it once

    donors = sorted(set(np.asarray(donor, str).tolist()))
    if len(donors) < folds:
        raise InputError(f"--folds is {folds}, the cells are of {len(donors)} donors: give at most one fold for each")
    place = np.searchsorted(donors, np.asarray(donor, str))
    crossed = [_has(place, np.asarray(column, object), len(donors)) for column in (label, *balance)]
    group, kind = _strata(crossed)
    best, odds = None, None
    for attempt in range(TRIES):
        with catch_warnings():
            simplefilter(
                "ignore", UserWarning
            )  # of strata with fewer donors than folds; the refusal below says it better
            splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=(seed * TRIES + attempt) % 2**32)
            fold = np.empty(len(donors), np.int64)
            for number, (_, held) in enumerate(splitter.split(kind, kind, group)):
                fold[group[held]] = number
        found = _odds(fold, folds, crossed)
        if odds is None or found < odds:
            best, odds = fold, found
    assert best is not None
    assert odds is not None
    if odds[0]:
        lacking = next(k for k in range(folds) if not crossed[0][best == k].any(0).all())
        raise InputError(
            f"--folds {folds}: fold {lacking} would have no donor of one of the labels: lower --folds, "
            "or name fewer columns in --balance"
        )
    return dict(zip(donors, best.tolist(), strict=True))


def _has(place: np.ndarray, column: np.ndarray, donors: int) -> np.ndarray:
    """bool [donors, values]: does the donor have cells of the value? Missing is a value."""
    names, number = np.unique(np.array(["" if v is None else v for v in column], str), return_inverse=True)
    out = np.zeros((donors, len(names)), bool)
    out[place, number] = True
    return out


def _strata(crossed: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A row per donor and label: the donor, and the number of its kind (label, and the donor's whole set of balance values)."""
    group, at = np.nonzero(crossed[0])
    rest = np.concatenate([np.zeros((len(crossed[0]), 1), bool), *crossed[1:]], axis=1)
    _, kind = np.unique(rest, axis=0, return_inverse=True)
    return group, np.unique(at * (kind.max() + 1) + kind.reshape(-1)[group], return_inverse=True)[1]


def _odds(fold: np.ndarray, folds: int, crossed: list[np.ndarray]) -> tuple[int, float, float, float]:
    """Labels that folds lack, then how uneven labels, balance columns and numbers of donors are (sums of squares)."""
    member = np.arange(folds)[:, None] == fold
    counts = [member.astype(np.int64) @ column.astype(np.int64) for column in crossed]
    uneven = [float(((c - c.mean(0)) ** 2).sum()) for c in counts]
    sizes = member.sum(1)
    return int((counts[0] == 0).sum()), uneven[0], sum(uneven[1:]), float(((sizes - sizes.mean()) ** 2).sum())
