"""Activation and inhibition: a gene of the cell goes up or down the ranks, by quartiles or to a given rank. It is never
brought into a list that lacks it.
"""

from functools import partial

import numpy as np

from rankshift.screen.cells.ragged import places_of
from rankshift.screen.errors import InputError
from rankshift.screen.perturb.edits import CellEdits, moves
from rankshift.screen.perturb.perturbation import Kind, Perturb

QUARTILES = 4


def _check(perturb: Perturb) -> None:
    name = perturb.kind.name
    if (perturb.rank_shift is None) == (perturb.to is None):
        raise InputError(f"{name} needs either --rank-shift 1, 2 or 3, or --to FRACTION: give one of them")
    if perturb.how != "each":
        raise InputError(f"{name} moves one gene at a time, --how {perturb.how} does not: use --how each")
    if perturb.rank_shift is not None and perturb.rank_shift not in range(1, QUARTILES):
        raise InputError(f"--rank-shift is {perturb.rank_shift}, there are {QUARTILES} quartiles: use 1, 2 or 3")
    if perturb.to is not None and not 0 <= perturb.to <= 1:
        raise InputError(f"--to is {perturb.to:g}, a fraction of the ranks is needed: use 0 (front) to 1 (bottom)")


def _moved(ids: np.ndarray, perturb: Perturb, up: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Genes that change their place: key, source, destination.

    A gene of rank r among G (from 0) is in quartile 4 r / G, rounded down. It goes to the middle of the quartile `rank_shift`
    higher or lower, to the front or the bottom when there is none, or to rank `to` (G - 1).
    """
    front, count = perturb.frame.head, max(perturb.frame.room(len(ids)), 0)
    rank = np.arange(count)
    target, moved = _target(rank, np.full(count, count), perturb, up)
    key = ids[front + rank]
    if perturb.genes is not None:
        number = {t: i for i, t in enumerate(perturb.genes)}
        key = np.array([number.get(int(t), -1) for t in key], np.int64)
        moved &= key >= 0
    return key[moved], rank[moved] + front, target[moved] + front


def _target(rank: np.ndarray, count: np.ndarray, perturb: Perturb, up: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where genes of `rank` among `count` [both n] go, and whether that is another place in the direction asked for."""
    if perturb.to is not None:
        target = np.round(perturb.to * (count - 1)).astype(np.int64)
    else:
        assert perturb.rank_shift is not None
        quartile = rank * QUARTILES // np.maximum(count, 1) + (-perturb.rank_shift if up else perturb.rank_shift)
        target = (2 * quartile + 1) * count // (2 * QUARTILES)
        target = np.where(quartile < 0, 0, np.where(quartile >= QUARTILES, count - 1, target))
    return target, target < rank if up else target > rank


def _counts(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb, up: bool) -> np.ndarray:
    size = np.maximum(perturb.frame.room(np.diff(offsets)), 0)
    if perturb.genes is None:  # it depends on the number of genes alone
        room, which = np.unique(size, return_inverse=True)
        _, moved = _target(places_of(room), np.repeat(room, room), perturb, up)
        return np.bincount(np.repeat(np.arange(len(room)), room), moved, len(room)).astype(np.int64)[which]
    at = np.flatnonzero(np.isin(ids, perturb.genes))
    cell = np.searchsorted(offsets, at, side="right") - 1
    _, moved = _target(at - offsets[cell] - perturb.frame.head, size[cell], perturb, up)
    return np.bincount(cell, moved, len(size)).astype(np.int64)


def _edits(ids: np.ndarray, perturb: Perturb, below: int, up: bool) -> CellEdits:
    key, source, destination = _moved(ids, perturb, up)
    return moves(key, source, destination, len(ids))


def _kind(name: str, *, up: bool) -> Kind:
    return Kind(name=name, counts=partial(_counts, up=up), edits=partial(_edits, up=up), check=_check)


ACTIVATE, INHIBIT = _kind("activate", up=True), _kind("inhibit", up=False)
