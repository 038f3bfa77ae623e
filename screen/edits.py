"""Perturbations as edits of a rank list: which lists a cell gets, and the edit arrays that make them.

No perturbed list is ever built here: a perturbation is K steps (source, destination, token) that the kernels compose.
Semantics: a deletion removes its genes; an overexpression puts them at the front (behind <cls>) in the user's order,
whether the cell had them or not; what no longer fits the model's positions is cut from the genes of lowest rank.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankshift.kernels.rank_shift import NOWHERE
from rankshift.screen.errors import InputError

Kind = Literal["delete", "overexpress"]
How = Literal["each", "together"]
KINDS = ("delete", "overexpress")
HOWS = ("each", "together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturb:
    """What is done to every cell of a run.

    `genes` are the tokens named by the user, in the user's order, or None for every gene the cell has. `limit` is the
    model's number of positions, `framed` whether cells are framed by <cls> and <eos>. `reference_overflow` counts
    absent genes twice when an overexpression overflows, as the published code does (semantics 2.5).
    """

    kind: Kind
    how: How
    genes: tuple[int, ...] | None
    framed: bool
    limit: int
    reference_overflow: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"perturbation kind {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if self.how not in HOWS:
            raise InputError(f"--how {self.how!r} is unknown: use one of {', '.join(HOWS)}")
        if self.genes is None and self.how == "together":
            raise InputError("--how together needs a list of genes, got all: name them with --genes, or use --how each")
        if self.genes is not None and not self.genes:
            raise InputError("the list of genes to perturb is empty: name at least one gene of the vocabulary")
        room = self.limit - 2 * self.framed
        if self.genes is not None and self.kind == "overexpress" and self.how == "together" and len(self.genes) > room:
            raise InputError(f"{len(self.genes)} genes do not fit the front of {room} positions: list fewer genes")

    @property
    def front(self) -> int:
        """Position of the top-ranked gene: 0, or 1 behind <cls>."""
        return int(self.framed)

    @property
    def tail(self) -> int:
        """Tokens behind the last gene: 0, or 1 for <eos>."""
        return int(self.framed)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEdits:
    """The perturbed lists of one cell. P lists of K edits; arrays are int32.

    perturbation [P]: token of the gene (`each`) or 0 (`together`); source, destination, token [P, K];
    length [P]: rows of the perturbed list; base_length [P]: rows of the original it is compared with (shorter than the
    cell when that was cut along with an overflowing list).
    """

    perturbation: np.ndarray
    source: np.ndarray
    destination: np.ndarray
    token: np.ndarray
    length: np.ndarray
    base_length: np.ndarray

    def __len__(self) -> int:
        return len(self.length)

    def part(self, rows: slice | np.ndarray) -> "CellEdits":
        """Some of the lists, by slice or by numbers."""
        return CellEdits(**{name: getattr(self, name)[rows] for name in self.__slots__})


def eligible(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb) -> np.ndarray:
    """How many perturbed lists every cell gets. ids [tokens], offsets [cells + 1] -> int64 [cells]."""
    lengths = np.diff(offsets)
    genes = lengths - 2 * perturb.framed
    if perturb.genes is None:
        # The gene that already leads the list is not overexpressed: nothing would change.
        return np.maximum(genes - (perturb.kind == "overexpress"), 0).astype(np.int64)
    if perturb.kind == "overexpress":
        return np.full(len(lengths), len(perturb.genes) if perturb.how == "each" else 1, np.int64)
    present = _presence(ids, offsets, perturb.genes)
    return np.asarray(present.sum(1) if perturb.how == "each" else present.all(1), np.int64)


def _presence(ids: np.ndarray, offsets: np.ndarray, genes: tuple[int, ...]) -> np.ndarray:
    """bool [cells, genes]: has the cell this gene?"""
    order = np.argsort(genes)
    wanted = np.asarray(genes)[order]
    at = np.searchsorted(wanted, ids)
    hit = wanted[np.minimum(at, len(wanted) - 1)] == ids
    cell = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    present = np.zeros((len(offsets) - 1, len(genes)), bool)
    present[cell[hit], order[at[hit]]] = True
    return present


def edits_of(ids: np.ndarray, perturb: Perturb) -> CellEdits:
    """The perturbed lists of the cell `ids` (with its specials), in rank order, absent genes last.

    >>> cell = np.array([10, 11, 12, 13])
    >>> e = edits_of(cell, Perturb(kind="delete", how="each", genes=None, framed=False, limit=16))
    >>> e.perturbation.tolist(), e.source[:, 0].tolist(), e.length.tolist()
    ([10, 11, 12, 13], [0, 1, 2, 3], [3, 3, 3, 3])
    """
    if perturb.genes is None:
        return _every_gene(ids, perturb)
    places = {int(t): i for i, t in reversed(list(enumerate(ids.tolist())))}  # first occurrence wins
    groups: list[tuple[int, ...]] = [perturb.genes]
    if perturb.how == "each":  # in rank order, absent genes last: neighbours share most of the first layer
        groups = [(t,) for t in sorted(perturb.genes, key=lambda t: places.get(t, NOWHERE))]
    if perturb.kind == "delete":
        groups = [g for g in groups if all(t in places for t in g)]
        rows = [_delete([places[t] for t in g], len(ids)) for g in groups]
    else:
        rows = [_overexpress(g, [places.get(t) for t in g], len(ids), perturb) for g in groups]
    label = [g[0] if perturb.how == "each" else 0 for g in groups]
    return _stack(label, rows)


def _every_gene(ids: np.ndarray, perturb: Perturb) -> CellEdits:
    n = len(ids)
    overexpress = perturb.kind == "overexpress"
    place = np.arange(perturb.front + overexpress, n - perturb.tail, dtype=np.int32)
    p = len(place)
    return CellEdits(
        perturbation=ids[place].astype(np.int32),
        source=place[:, None],
        destination=np.full((p, 1), perturb.front if overexpress else NOWHERE, np.int32),
        token=np.full((p, 1), -1, np.int32),
        length=np.full(p, n if overexpress else n - 1, np.int32),
        base_length=np.full(p, n, np.int32),
    )


Row = tuple[list[tuple[int, int, int]], int, int]  # edits, length, base_length


def _delete(places: list[int], n: int) -> Row:
    # From the back, so that no step moves the place of a later one.
    return [(i, NOWHERE, -1) for i in sorted(places, reverse=True)], n - len(places), n


def _overexpress(genes: tuple[int, ...], places: list[int | None], n: int, perturb: Perturb) -> Row:
    # From the last gene to the first, each to the front: the user's order results. A step shifts what it jumps over.
    steps: list[tuple[int, int, int]] = []
    now, size = list(places), n
    for k in reversed(range(len(genes))):
        at = now[k]
        steps.append((NOWHERE, perturb.front, genes[k]) if at is None else (at, perturb.front, -1))
        size += at is None
        now = [None if i is None else i + (at is None or i < at) for i in now]
    length = min(size, perturb.limit)
    absent = size - n
    if perturb.tail and length < size:
        steps.append((size - 1, length - 1, -1))  # <eos> stays last, the genes of lowest rank fall off behind it
    overflow = length + absent - perturb.limit if perturb.reference_overflow else size - perturb.limit
    return steps, length, n - max(overflow, 0)


def _stack(labels: list[int], rows: list[Row]) -> CellEdits:
    most = max((len(steps) for steps, _, _ in rows), default=1)
    idle = (NOWHERE, NOWHERE, -1)
    steps = np.array([s + [idle] * (most - len(s)) for s, _, _ in rows], np.int32).reshape(len(rows), most, 3)
    return CellEdits(
        perturbation=np.array(labels, np.int32),
        source=np.ascontiguousarray(steps[:, :, 0]),
        destination=np.ascontiguousarray(steps[:, :, 1]),
        token=np.ascontiguousarray(steps[:, :, 2]),
        length=np.array([length for _, length, _ in rows], np.int32),
        base_length=np.array([base for _, _, base in rows], np.int32),
    )


def cut(ids_length: int, base_length: int, framed: bool) -> tuple[int, int, int]:
    """The one edit that cuts an original of `ids_length` rows to `base_length`: <eos> moves up, the rest falls off."""
    if framed and base_length < ids_length:
        return ids_length - 1, base_length - 1, -1
    return NOWHERE, NOWHERE, -1
