"""Deletion: the genes leave the list, and what stood behind them moves up. With `refill`, genes from below the input limit
take the places that are free at the end. It refuses to leave a list empty.
"""

import numpy as np

from rankshift.kernels.perturbed_lists import NOWHERE
from rankshift.screen.perturb.edits import CellEdits, Row, nothing, presence, steps
from rankshift.screen.perturb.groups import Places, gene_places, named_groups, pair_counts, with_anchor
from rankshift.screen.perturb.perturbation import Kind, Perturb


def _required(perturb: Perturb) -> tuple[int, ...]:
    return perturb.genes or () if perturb.how == "together" else ()


def _counts(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb) -> np.ndarray:
    lengths = np.diff(offsets)
    if perturb.genes is None:
        if perturb.anchor is not None:
            return np.where(lengths > 2, pair_counts(ids, offsets, perturb), 0)
        return np.where(lengths > 1, np.maximum(perturb.frame.room(lengths), 0), 0)
    groups = perturb.groups
    members = tuple(dict.fromkeys(t for group in groups for t in group))
    present = presence(ids, offsets, members)
    column = {t: i for i, t in enumerate(members)}
    return np.asarray(sum(_all_and_more(present[:, [column[t] for t in group]], lengths) for group in groups))


def _all_and_more(present: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """1 where a cell has all the genes of a group and a row beside them: an empty list has no embedding."""
    return (present.all(1) & (lengths > present.shape[1])).astype(np.int64)


def _edits(ids: np.ndarray, perturb: Perturb, below: int) -> CellEdits:
    n = len(ids)
    if perturb.genes is not None:
        return named_groups(ids, perturb, lambda group, places: _row(group, places, n, perturb, below), present=True)

    def without(key: np.ndarray, place: np.ndarray) -> CellEdits:
        """Lists without the genes at the rows `place` [P, k], the last of them first."""
        source, size = place, n + below - place.shape[1]
        goal = np.full(source.shape, NOWHERE)
        if size > n:  # more genes stand below than were deleted
            for at, to in perturb.frame.tail_moves(size, n):
                source = np.column_stack([source, np.full(len(source), at)])
                goal = np.column_stack([goal, np.full(len(source), to)])
        return steps(key, source, goal, min(size, n), n)

    if perturb.anchor is None:
        place = gene_places(ids, perturb)[: None if n > 1 else 0]  # an empty list has no embedding
        return without(ids[place], place[:, None])
    if n == 2:
        return nothing()
    return with_anchor(
        ids,
        perturb,
        pair=lambda key, high, low: without(key, np.column_stack([low, high])),
        single=lambda key, place: without(key, place[:, None]),
    )


def _row(genes: tuple[int, ...], places: Places, n: int, perturb: Perturb, below: int) -> Row:
    """The edits that delete `genes` together in a cell of `n` rows."""
    # From the back, so that no step moves the place of a later one.
    found = [(i, NOWHERE, -1) for i in sorted((places[t] for t in genes), reverse=True)]
    size = n + below - len(genes)
    if size > n:  # more genes stand below than were deleted
        found += [(at, to, -1) for at, to in perturb.frame.tail_moves(size, n)]
    return found, min(size, n), n


KIND = Kind(name="delete", counts=_counts, edits=_edits, required=_required)
