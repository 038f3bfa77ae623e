"""Edits of a cell's rank list as arrays: which rows leave, move or come in. No perturbed list is ever built here.

A perturbation is K steps (source, destination, token) that the kernels compose. What a kind of perturbation makes of a
gene is in the kind's own file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rankshift.kernels.perturbed_lists import NOWHERE
from rankshift.screen.genes.framing import Frame

Row = tuple[list[tuple[int, int, int]], int, int]  # edits, length, base_length


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEdits:
    """The perturbed lists of one cell. P lists of K edits; arrays are int32.

    key [P]: which perturbation it is, for `Perturb.group_of`; source, destination, token [P, K]; length [P]: rows of
    the perturbed list; base_length [P]: rows of the original it is compared with (shorter than the cell when that was cut
    along with an overflowing list). For pairs, `alone` has the edits of the single genes and members [P, 2] their rows
    there.
    """

    key: np.ndarray
    source: np.ndarray
    destination: np.ndarray
    token: np.ndarray
    length: np.ndarray
    base_length: np.ndarray
    alone: "CellEdits | None" = None
    members: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.length)

    def part(self, rows: slice | np.ndarray) -> "CellEdits":
        """Some of the lists, by slice or by numbers; for pairs with the edits of the single genes that they need."""
        arrays = ("key", "source", "destination", "token", "length", "base_length")
        some = CellEdits(**{name: getattr(self, name)[rows] for name in arrays})
        if self.alone is None or self.members is None:
            return some
        needed, members = np.unique(self.members[rows], return_inverse=True)
        return replace(some, alone=self.alone.part(needed), members=members.reshape(-1, 2))


def steps(key: np.ndarray, source: np.ndarray, destination: np.ndarray, length: int, base_length: int) -> CellEdits:
    """Lists of deletions and moves: source, destination [P, K]; all of one length and compared with one original."""
    return CellEdits(
        key=key.astype(np.int32),
        source=np.ascontiguousarray(source, np.int32),
        destination=np.ascontiguousarray(destination, np.int32),
        token=np.full(source.shape, -1, np.int32),
        length=np.full(len(source), length, np.int32),
        base_length=np.full(len(source), base_length, np.int32),
    )


def moves(key: np.ndarray, source: np.ndarray, destination: np.ndarray | int, n: int) -> CellEdits:
    """Lists of a cell of `n` rows in which one row each goes from `source` [P] to `destination`."""
    return steps(key, source[:, None], np.broadcast_to(destination, source.shape)[:, None], n, n)


def stack(keys: Sequence[int], rows: Sequence[Row]) -> CellEdits:
    """Lists whose edits were worked out one by one; shorter ones are filled up with steps that do nothing."""
    most = max((len(edits) for edits, _, _ in rows), default=1)
    idle = (NOWHERE, NOWHERE, -1)
    filled = np.array([s + [idle] * (most - len(s)) for s, _, _ in rows], np.int32).reshape(len(rows), most, 3)
    return CellEdits(
        key=np.array(keys, np.int32),
        source=np.ascontiguousarray(filled[:, :, 0]),
        destination=np.ascontiguousarray(filled[:, :, 1]),
        token=np.ascontiguousarray(filled[:, :, 2]),
        length=np.array([length for _, length, _ in rows], np.int32),
        base_length=np.array([base for _, _, base in rows], np.int32),
    )


def nothing() -> CellEdits:
    """The edits of a cell that gets no list."""
    return stack([], [])


def cut(size: np.ndarray, kept: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Source and destination int32 [P, K] of the edits that cut lists of `size` [P] rows to `kept` [P] before their tail."""
    short = kept < size
    ends = [(np.where(short, a, NOWHERE), np.where(short, b, NOWHERE)) for a, b in frame.tail_moves(size, kept)]
    idle = np.full(len(size), NOWHERE)
    arrays = np.array(ends or [(idle, idle)], np.int32)  # (K, 2, P)
    return np.ascontiguousarray(arrays[:, 0].T), np.ascontiguousarray(arrays[:, 1].T)


def presence(ids: np.ndarray, offsets: np.ndarray, genes: Sequence[int]) -> np.ndarray:
    """bool [cells, genes]: has the cell this gene?"""
    order = np.argsort(genes)
    wanted = np.asarray(genes)[order]
    at = np.searchsorted(wanted, ids)
    hit = wanted[np.minimum(at, len(wanted) - 1)] == ids
    cell = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    present = np.zeros((len(offsets) - 1, len(genes)), bool)
    present[cell[hit], order[at[hit]]] = True
    return present
