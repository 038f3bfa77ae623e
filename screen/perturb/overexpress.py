"""Overexpression: the genes go to the front of the list, whether the cell had them or not. What no longer fits the model's
positions is cut from the genes of lowest rank, in the original it is compared with, too.
"""

import numpy as np

from rankshift.kernels.perturbed_lists import NOWHERE
from rankshift.screen.errors import InputError
from rankshift.screen.perturb.edits import CellEdits, Row, moves, steps
from rankshift.screen.perturb.groups import (
    Places,
    gene_places,
    has_anchor,
    named_groups,
    pair_counts,
    with_anchor,
)
from rankshift.screen.perturb.perturbation import Kind, Perturb


def _check(perturb: Perturb) -> None:
    room = perturb.frame.room(perturb.limit)
    if perturb.most > room:
        raise InputError(f"{perturb.most} genes do not fit the front of {room} positions: list fewer genes")


def _counts(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb) -> np.ndarray:
    lengths = np.diff(offsets)
    if perturb.genes is not None:
        counts = np.full(len(lengths), len(perturb.groups), np.int64)
        return counts if perturb.anchor is None else counts * has_anchor(ids, offsets, perturb)
    if perturb.anchor is not None:
        return pair_counts(ids, offsets, perturb)
    # The gene that already leads the list is not overexpressed: nothing would change.
    return np.maximum(perturb.frame.room(lengths) - 1, 0)


def _edits(ids: np.ndarray, perturb: Perturb, below: int) -> CellEdits:
    n, front = len(ids), perturb.frame.head
    if perturb.genes is not None:
        return named_groups(ids, perturb, lambda group, places: _row(group, places, n, perturb), present=False)
    if perturb.anchor is None:
        place = gene_places(ids, perturb)[1:]
        return moves(ids[place], place, front, n)

    def pair(key: np.ndarray, high: np.ndarray, low: np.ndarray) -> CellEdits:
        """Both in front, in their order by rank (PS B10)."""
        # The lower-ranked gene goes first; jumping over the other one, it pushes that one back by a place.
        source = np.column_stack([low, high + 1])
        return steps(key, source, np.full(source.shape, front), n, n)

    return with_anchor(ids, perturb, pair=pair, single=lambda key, place: moves(key, place, front, n))


def _row(genes: tuple[int, ...], places: Places, n: int, perturb: Perturb) -> Row:
    """The edits that overexpress `genes` together in a cell of `n` rows."""
    # From the last gene to the first, each to the front: the user's order results. A step shifts what it jumps over.
    front = perturb.frame.head
    now, size = [places.get(t) for t in genes], n
    found: list[tuple[int, int, int]] = []
    for k in reversed(range(len(genes))):
        at = now[k]
        found.append((NOWHERE, front, genes[k]) if at is None else (at, front, -1))
        size += at is None
        now = [None if i is None else i + (at is None or i < at) for i in now]
    length = min(size, perturb.limit)
    if length < size:  # what ends a list stays last, the genes of lowest rank fall off behind it
        found += [(at, to, -1) for at, to in perturb.frame.tail_moves(size, length)]
    overflow = length + (size - n) - perturb.limit if perturb.reference_overflow else size - perturb.limit
    return found, length, n - max(overflow, 0)


KIND = Kind(name="overexpress", counts=_counts, edits=_edits, check=_check)
