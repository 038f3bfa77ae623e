"""Which genes of a cell go into a list: every gene of the cell, named groups, pairs with an anchor. What happens to them is
their kind's to say.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rankshift.kernels.perturbed_lists import NOWHERE
from rankshift.screen.perturb.edits import CellEdits, Row, presence, stack
from rankshift.screen.perturb.perturbation import Perturb

Places = dict[int, int]  # row of the list by token


def gene_places(ids: np.ndarray, perturb: Perturb) -> np.ndarray:
    """The rows of the cell's genes."""
    return np.arange(len(ids))[perturb.frame.inner(len(ids))]


def pair_counts(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb) -> np.ndarray:
    """Pairs of the anchor with every other gene of each cell, int64 [cells]; 0 where the cell lacks the anchor."""
    return np.where(has_anchor(ids, offsets, perturb), perturb.frame.room(np.diff(offsets)) - 1, 0)


def has_anchor(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb) -> np.ndarray:
    """bool [cells]."""
    assert perturb.anchor is not None
    return presence(ids, offsets, (perturb.anchor,))[:, 0]


def named_groups(
    ids: np.ndarray, perturb: Perturb, row: Callable[[tuple[int, ...], Places], Row], *, present: bool
) -> CellEdits:
    """The lists of the groups named; for pairs also those of their genes alone. row: the edits of a group.

    present: a cell without one of the genes, or with nothing but them, gets no list (an empty list has no embedding).
    """
    places = {int(t): i for i, t in reversed(list(enumerate(ids.tolist())))}  # first occurrence wins
    if perturb.anchor is not None and perturb.anchor not in places:
        return stack([], [])
    numbered = list(enumerate(perturb.groups))
    if perturb.how == "each":  # neighbours in rank share most of the first layer
        numbered.sort(key=lambda x: places.get(x[1][0], NOWHERE))
    if present:
        numbered = [(i, g) for i, g in numbered if all(t in places for t in g) and len(ids) > len(g)]
    lists = stack([i for i, _ in numbered], [row(group, places) for _, group in numbered])
    if perturb.how != "pairs":
        return lists
    genes = sorted({t for _, group in numbered for t in group}, key=lambda t: places.get(t, NOWHERE))
    alone = stack([0] * len(genes), [row((t,), places) for t in genes])
    at = {t: i for i, t in enumerate(genes)}
    members = np.array([[at[t] for t in group] for _, group in numbered], np.int64).reshape(-1, 2)
    return replace(lists, alone=alone, members=members)


def with_anchor(
    ids: np.ndarray,
    perturb: Perturb,
    pair: Callable[[np.ndarray, np.ndarray, np.ndarray], CellEdits],
    single: Callable[[np.ndarray, np.ndarray], CellEdits],
) -> CellEdits:
    """The anchor with every other gene of a cell that has it, and every gene alone.

    pair: lists by key, the higher-ranked of their two rows, and the lower-ranked one [P]; single: by key and row.
    """
    genes = gene_places(ids, perturb)
    found = np.flatnonzero(ids[genes] == perturb.anchor)
    if not len(found):
        return stack([], [])
    anchor = int(genes[found[0]])
    place = genes[genes != anchor]
    lists = pair(ids[place], np.minimum(place, anchor), np.maximum(place, anchor))
    members = np.column_stack([np.full(len(place), anchor), place]) - perturb.frame.head
    return replace(lists, alone=single(ids[genes], genes), members=members)
