"""Which cells are learnt from and which judge, cut as the published classifier cuts them: at random, by ids, or balanced.

Shapes: n cells. Each cut is (cells to learn from, cells that judge), numbers of cells, both in the order of the published one.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
from scipy.stats import chi2_contingency, ranksums
from sklearn.model_selection import StratifiedShuffleSplit

from rankshift.compat.inputs import count
from rankshift.screen.cells.labels import label_meant, labels_of
from rankshift.screen.errors import InputError

SEED = 42  # of all the published shuffles
Cut = tuple[np.ndarray, np.ndarray]


def shuffled(n: int) -> np.ndarray:
    """The order of `datasets.Dataset.shuffle(seed=42)`."""
    return np.random.default_rng(SEED).permutation(n)


def at_random(n: int, share: float, strata: Sequence[Any] | None = None) -> Cut:
    """A random share judges, as `datasets.Dataset.train_test_split(test_size, seed=42)` draws it; strata keep proportion."""
    judged = math.ceil(share * n)
    if not 0 < judged < n:
        raise InputError(f"{share:g} of {n} cells leaves a side empty: give another share, or more cells")
    if strata is None:
        order = shuffled(n)
        return order[judged:], order[:judged]
    coded = np.unique([str(value) for value in strata], return_inverse=True)[1]
    if np.bincount(coded).min() < 2 or min(judged, n - judged) <= coded.max():
        raise InputError(f"stratify_splits_col has {coded.max() + 1} values for {judged} cells: leave it out")
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=judged, random_state=SEED)
    return next(splitter.split(coded, coded))


def folds(n: int, share: float, number: int) -> list[Cut]:
    """`number` cuts of shuffled cells in turn: each judges at most its n-th part, and at most `share` of all."""
    edges = np.linspace(0, n, number + 1).round().astype(int)
    most = max(1, round(share * n))
    cuts = []
    for low, high in pairwise(edges.tolist()):
        judged = np.arange(low, min(high, low + most))
        cuts.append((np.setdiff1d(np.arange(n), judged), judged))
    return cuts


def by_ids(obs: pa.Table, ids: Mapping[str, Any], judge: str) -> Cut:
    """The cells whose column ids["attr_key"] holds one of ids["train"], and those of ids[judge]."""
    missing = [key for key in ("attr_key", "train", judge) if key not in ids]
    if missing:
        raise InputError(f"split_id_dict lacks {missing[0]!r}: give attr_key, train and {judge}")
    held = labels_of(obs, ids["attr_key"], "split_id_dict['attr_key']").to_pylist()
    sides = []
    for side in ("train", judge):
        wanted = {label_meant(obs.column(ids["attr_key"]), value) for value in ids[side]}
        sides.append(np.flatnonzero([value in wanted for value in held]))
        if not len(sides[-1]):
            raise InputError(f"split_id_dict: no cell has one of {ids[side]} as {ids['attr_key']}: name others")
    both = np.intersect1d(sides[0], sides[1])
    if len(both):
        raise InputError(f"split_id_dict: {held[both[0]]!r} is in train and in {judge}: name it once")
    return sides[0], sides[1]


def balanced(
    obs: pa.Table, classes: np.ndarray, unit: str, attributes: Sequence[str], share: float, trials: int, limit: float
) -> tuple[Cut, pd.DataFrame]:
    """A cut that never splits a unit (a donor) and in which the attributes do not differ between the sides.

    classes: int (n,). Trials draw units at random, one of every class first; the first whose p-values all reach `limit` is
    taken, else the one of the highest mean. Also the table of the trials: a row each, with the p-value of every attribute.
    """
    count("max_trials", trials)
    units = np.array([str(value) for value in labels_of(obs, unit, "attr_to_split").to_pylist()])
    names, of = np.unique(units, return_inverse=True)
    values = {name: _values(obs, name) for name in attributes}
    for name, column in values.items():
        mixed = [names[u] for u in range(len(names)) if len(set(column[of == u].tolist())) > 1]
        if mixed:
            raise InputError(f"attr_to_balance: {name} is not the same in all cells of {mixed[0]}: leave it out")
    first = np.array([np.flatnonzero(of == u)[0] for u in range(len(names))])
    wanted = max(1, round(share * len(names)))
    if len(names) < 2 or wanted >= len(names):
        raise InputError(
            f"attr_to_split: {unit} has {len(names)} values for a share of {share:g}: split by another column"
        )
    rows, best = [], None
    for trial in range(trials):
        rng = np.random.default_rng((SEED, trial))
        judged = [int(rng.choice(np.unique(of[classes == c]))) for c in np.unique(classes)]
        rest = rng.permutation(np.setdiff1d(np.arange(len(names)), judged))
        chosen = np.unique([*judged, *rest[: max(0, wanted - len(set(judged)))]])
        inside = np.isin(np.arange(len(names)), chosen)
        left = np.isin(of, np.flatnonzero(~inside))
        if not set(classes) <= set(classes[left]):
            continue
        found = {name: _p_value(column[first], inside) for name, column in values.items()}
        mean = float(np.mean(list(found.values()))) if found else 1.0
        rows.append({"trial": trial, unit: ", ".join(names[chosen]), **found, "mean": mean})
        if best is None or mean > best[0]:
            best = mean, left
        if all(p >= limit for p in found.values()):
            best = mean, left
            break
    if best is None:
        raise InputError(
            f"attr_to_split: no {trials} draws of {unit} left every class on both sides: use split_id_dict"
        )
    return (np.flatnonzero(best[1]), np.flatnonzero(~best[1])), pd.DataFrame(rows)


def _values(obs: pa.Table, name: str) -> np.ndarray:
    """A column as numbers where it holds numbers, else as text."""
    if name not in obs.column_names:
        raise InputError(f"attr_to_balance: {name!r} is not a column: the columns are {', '.join(obs.column_names)}")
    kind = obs.column(name).type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(obs.column(name).cast(pa.float64()))
    return np.array([str(value) for value in labels_of(obs, name, "attr_to_balance").to_pylist()])


def _p_value(values: np.ndarray, inside: np.ndarray) -> float:
    """Do units on the two sides differ? Rank-sum test of numbers, chi-square test of labels; 1 where nothing varies."""
    if values.dtype.kind == "f":
        return float(ranksums(values[~inside], values[inside]).pvalue)
    kinds = np.unique(values)
    if len(kinds) < 2:
        return 1.0
    table = [[int(((values == kind) & (inside == side)).sum()) for kind in kinds] for side in (False, True)]
    return float(chi2_contingency(table).pvalue)
