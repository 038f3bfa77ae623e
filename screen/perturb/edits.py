"""Perturbations as edits of a rank list: which lists a cell gets, and the edit arrays that make them.

No perturbed list is ever built here: a perturbation is K steps (source, destination, token) that the kernels compose.
A deletion removes its genes; an overexpression puts them at the front (behind <cls>), whether the cell had them or not, and
what no longer fits the model's positions is cut from the genes of lowest rank; activation and inhibition move a gene up or
down the ranks. Where genes below the input limit are known, a deletion can let them move up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from rankshift.kernels.perturbed_lists import NOWHERE
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame

Kind = Literal["delete", "overexpress", "activate", "inhibit"]
How = Literal["each", "together", "pairs"]
KINDS = ("delete", "overexpress", "activate", "inhibit")
HOWS = ("each", "together", "pairs")
QUARTILES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturb:
    """What is done to every cell of a run.

    genes: tokens named by the user, in the user's order, or None for every gene the cell has. anchor: a gene that every
    pair holds. rank_shift: by how many quartiles of its cell's ranks a gene is activated or inhibited; to: the rank it goes
    to instead, as a fraction (0 the front, 1 the bottom). limit: the model's positions. frame: what stands around the genes
    of a list. reference_overflow: count absent genes twice when an overexpression overflows, as the published code does
    (PS 2.5). refill: for every gene deleted, one from below the input limit moves up into the list.
    """

    kind: Kind
    how: How
    genes: tuple[int, ...] | None
    frame: Frame
    limit: int
    anchor: int | None = None
    rank_shift: int | None = None
    to: float | None = None
    reference_overflow: bool = False
    refill: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"perturbation kind {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if self.how not in HOWS:
            raise InputError(f"--how {self.how!r} is unknown: use one of {', '.join(HOWS)}")
        if self.genes is None and self.how == "together":
            raise InputError("--how together needs a list of genes, got all: name them with --genes, or use --how each")
        if self.genes is not None and not self.genes:
            raise InputError("the list of genes to perturb is empty: name at least one gene of the vocabulary")
        self._check_pairs()
        self._check_moves()
        room = self.frame.room(self.limit)
        if self.kind == "overexpress" and self.most > room:
            raise InputError(f"{self.most} genes do not fit the front of {room} positions: list fewer genes")
        if self.refill and self.kind != "delete":
            raise InputError(f"--refill fills what a deletion leaves free, {self.kind} frees nothing: leave it out")

    def _check_pairs(self) -> None:
        if self.anchor is not None and self.how != "pairs":
            raise InputError(f"an anchor makes pairs, --how {self.how} does not: use --how pairs")
        if self.how == "pairs" and self.anchor is None and (self.genes is None or len(self.genes) < 2):
            raise InputError("--how pairs needs an anchor or a list of two genes or more: give --anchor or --genes")
        if self.anchor is not None and self.genes is not None and set(self.genes) <= {self.anchor}:
            raise InputError("the only gene to pair with the anchor is the anchor itself: name another gene")

    def _check_moves(self) -> None:
        moves = self.kind in ("activate", "inhibit")
        given = (self.rank_shift is not None) + (self.to is not None)
        if not moves and given:
            raise InputError(
                f"--rank-shift and --to belong to activate and inhibit, not to {self.kind}: leave them out"
            )
        if not moves:
            return
        if given != 1:
            raise InputError(f"{self.kind} needs either --rank-shift 1, 2 or 3, or --to FRACTION: give one of them")
        if self.how != "each":
            raise InputError(f"{self.kind} moves one gene at a time, --how {self.how} does not: use --how each")
        if self.rank_shift is not None and self.rank_shift not in range(1, QUARTILES):
            raise InputError(f"--rank-shift is {self.rank_shift}, there are {QUARTILES} quartiles: use 1, 2 or 3")
        if self.to is not None and not 0 <= self.to <= 1:
            raise InputError(f"--to is {self.to:g}, a fraction of the ranks is needed: use 0 (front) to 1 (bottom)")

    @property
    def record(self) -> dict[str, Any]:
        """As run.json has it."""
        return {("framed" if f.name == "frame" else f.name): getattr(self, f.name) for f in fields(self)} | {
            "framed": self.frame.record
        }

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> "Perturb":
        """What a run's `record` says."""
        rest = {name: value for name, value in record.items() if name not in ("framed", "genes")}
        genes = None if record["genes"] is None else tuple(record["genes"])
        return Perturb(**rest, genes=genes, frame=Frame.of_record(record["framed"]))

    @property
    def most(self) -> int:
        """Genes of the largest perturbation."""
        return {"each": 1, "pairs": 2}.get(self.how) or len(self.genes or ())

    @property
    def required(self) -> tuple[int, ...]:
        """Genes a cell must have to be screened at all, before cells are sampled (PS 2.2)."""
        if self.anchor is not None:
            return (self.anchor,)
        return self.genes or () if (self.kind, self.how) == ("delete", "together") else ()

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Genes of every perturbation of a list, in the order of their numbers."""
        assert self.genes is not None
        if self.how == "together":
            return [self.genes]
        if self.how == "each":
            return [(t,) for t in self.genes]
        if self.anchor is None:
            return list(combinations(self.genes, 2))
        return [(self.anchor, t) for t in self.genes if t != self.anchor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEdits:
    """The perturbed lists of one cell. P lists of K edits; arrays are int32.

    perturbation [P]: number in `Perturb.groups`, or of a screen of all genes the token; source, destination, token [P, K];
    length [P]: rows of the perturbed list; base_length [P]: rows of the original it is compared with (shorter than the
    cell when that was cut along with an overflowing list). Of pairs, `alone` holds the lists of their genes one by one and
    members [P, 2] their rows there.
    """

    perturbation: np.ndarray
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
        """Some of the lists, by slice or by numbers; of pairs with those of their genes that they need."""
        arrays = ("perturbation", "source", "destination", "token", "length", "base_length")
        some = CellEdits(**{name: getattr(self, name)[rows] for name in arrays})
        if self.alone is None or self.members is None:
            return some
        needed, members = np.unique(self.members[rows], return_inverse=True)
        return replace(some, alone=self.alone.part(needed), members=members.reshape(-1, 2))


def cut(size: np.ndarray, kept: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Source and destination int32 [P, K] of the edits that cut lists of `size` [P] rows to `kept` [P] before their tail."""
    short = kept < size
    moves = [(np.where(short, a, NOWHERE), np.where(short, b, NOWHERE)) for a, b in frame.tail_moves(size, kept)]
    idle = np.full(len(size), NOWHERE)
    steps = np.array(moves or [(idle, idle)], np.int32)  # (K, 2, P)
    return np.ascontiguousarray(steps[:, 0].T), np.ascontiguousarray(steps[:, 1].T)


def eligible(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb) -> np.ndarray:
    """How many perturbed lists every cell gets. ids [tokens], offsets [cells + 1] -> int64 [cells]."""
    lengths = np.diff(offsets)
    if perturb.kind in ("activate", "inhibit"):
        cells = (ids[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
        return np.array([len(_moves(cell, perturb)[0]) for cell in cells], np.int64)
    genes = perturb.frame.room(lengths)
    if perturb.genes is None:
        if perturb.anchor is not None:
            counts = np.where(_presence(ids, offsets, (perturb.anchor,))[:, 0], genes - 1, 0)
        else:  # the gene that already leads the list is not overexpressed: nothing would change
            counts = np.maximum(genes - (perturb.kind == "overexpress"), 0)
        gone = 0 if perturb.kind == "overexpress" else 1 + (perturb.anchor is not None)
        return np.where(lengths > gone, counts, 0).astype(np.int64)
    groups = perturb.groups
    if perturb.kind == "overexpress":
        counts = np.full(len(lengths), len(groups), np.int64)
        return counts if perturb.anchor is None else counts * _presence(ids, offsets, (perturb.anchor,))[:, 0]
    members = tuple(dict.fromkeys(t for group in groups for t in group))
    present = _presence(ids, offsets, members)
    column = {t: i for i, t in enumerate(members)}
    return np.asarray(sum(_all_and_more(present[:, [column[t] for t in group]], lengths) for group in groups))


def _all_and_more(present: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """1 where a cell has all the genes of a group and a row beside them: an empty list has no embedding."""
    return (present.all(1) & (lengths > present.shape[1])).astype(np.int64)


def _presence(ids: np.ndarray, offsets: np.ndarray, genes: Sequence[int]) -> np.ndarray:
    """bool [cells, genes]: has the cell this gene?"""
    order = np.argsort(genes)
    wanted = np.asarray(genes)[order]
    at = np.searchsorted(wanted, ids)
    hit = wanted[np.minimum(at, len(wanted) - 1)] == ids
    cell = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    present = np.zeros((len(offsets) - 1, len(genes)), bool)
    present[cell[hit], order[at[hit]]] = True
    return present


def edits_of(ids: np.ndarray, perturb: Perturb, below: int = 0) -> CellEdits:
    """The perturbed lists of the cell `ids` (with its specials), in rank order, absent genes last.

    below: genes that follow in the base list behind those of `ids` (before <eos>), to refill deletions from.

    >>> cell = np.array([10, 11, 12, 13])
    >>> e = edits_of(cell, Perturb(kind="delete", how="each", genes=None, frame=PLAIN, limit=16))
    >>> e.perturbation.tolist(), e.source[:, 0].tolist(), e.length.tolist()
    ([10, 11, 12, 13], [0, 1, 2, 3], [3, 3, 3, 3])
    """
    if perturb.kind in ("activate", "inhibit"):
        label, source, destination = _moves(ids, perturb)
        return _single(label, source, destination, len(ids), len(ids))
    if perturb.genes is None:
        return _every_gene(ids, perturb, below) if perturb.anchor is None else _every_pair(ids, perturb, below)
    places = {int(t): i for i, t in reversed(list(enumerate(ids.tolist())))}  # first occurrence wins
    if perturb.anchor is not None and perturb.anchor not in places:
        return _stack([], [])
    numbered = list(enumerate(perturb.groups))
    if perturb.how == "each":  # neighbours in rank share most of the first layer
        numbered.sort(key=lambda x: places.get(x[1][0], NOWHERE))
    if perturb.kind == "delete":
        numbered = [(i, g) for i, g in numbered if all(t in places for t in g) and len(ids) > len(g)]
    lists = _stack([i for i, _ in numbered], [_row(group, places, len(ids), perturb, below) for _, group in numbered])
    if perturb.how != "pairs":
        return lists
    genes = sorted({t for _, group in numbered for t in group}, key=lambda t: places.get(t, NOWHERE))
    alone = _stack([0] * len(genes), [_row((t,), places, len(ids), perturb, below) for t in genes])
    at = {t: i for i, t in enumerate(genes)}
    members = np.array([[at[t] for t in group] for _, group in numbered], np.int64).reshape(-1, 2)
    return replace(lists, alone=alone, members=members)


def _single(label: np.ndarray, source: np.ndarray, destination: np.ndarray | int, length: int, base: int) -> CellEdits:
    """Lists of one deletion or move each."""
    p = len(source)
    return CellEdits(
        perturbation=label.astype(np.int32),
        source=source.astype(np.int32)[:, None],
        destination=np.broadcast_to(np.asarray(destination, np.int32), p)[:, None].copy(),
        token=np.full((p, 1), -1, np.int32),
        length=np.full(p, length, np.int32),
        base_length=np.full(p, base, np.int32),
    )


def _deleted(label: np.ndarray, place: np.ndarray, n: int, perturb: Perturb, below: int) -> CellEdits:
    """Lists of a cell of `n` rows without the genes at each row of `place` [P, k], the last of them first."""
    steps, size = place, n + below - place.shape[1]
    goal = np.full(steps.shape, NOWHERE)
    if size > n:  # more genes stand below than were deleted
        for at, to in perturb.frame.tail_moves(size, n):
            steps = np.column_stack([steps, np.full(len(steps), at)])
            goal = np.column_stack([goal, np.full(len(steps), to)])
    return CellEdits(
        perturbation=label.astype(np.int32),
        source=steps.astype(np.int32),
        destination=goal.astype(np.int32),
        token=np.full(steps.shape, -1, np.int32),
        length=np.full(len(steps), min(size, n), np.int32),
        base_length=np.full(len(steps), n, np.int32),
    )


def _every_gene(ids: np.ndarray, perturb: Perturb, below: int) -> CellEdits:
    n = len(ids)
    overexpress = perturb.kind == "overexpress"
    place = np.arange(n)[perturb.frame.inner(n)][int(overexpress) :]
    if overexpress:
        return _single(ids[place], place, perturb.frame.head, n, n)
    if n == 1:  # an empty list has no embedding
        place = place[:0]
    return _deleted(ids[place], place[:, None], n, perturb, below)


def _every_pair(ids: np.ndarray, perturb: Perturb, below: int) -> CellEdits:
    """The anchor with every other gene of the cell; moved to the front they keep their order by rank (PS B10)."""
    n = len(ids)
    genes = np.arange(n)[perturb.frame.inner(n)]
    found = np.flatnonzero(ids[genes] == perturb.anchor)
    overexpress = perturb.kind == "overexpress"
    if not len(found) or (n == 2 and not overexpress):
        return _stack([], [])
    anchor = int(genes[found[0]])
    place = genes[genes != anchor]
    low, high = np.minimum(place, anchor), np.maximum(place, anchor)
    if overexpress:
        # The later gene goes first; jumping over the earlier one, it pushes that one back by a place.
        source = np.column_stack([high, low + 1]).astype(np.int32)
        lists = CellEdits(
            perturbation=ids[place].astype(np.int32),
            source=source,
            destination=np.full(source.shape, perturb.frame.head, np.int32),
            token=np.full(source.shape, -1, np.int32),
            length=np.full(len(place), n, np.int32),
            base_length=np.full(len(place), n, np.int32),
        )
        alone = _single(ids[genes], genes, perturb.frame.head, n, n)
    else:
        lists = _deleted(ids[place], np.column_stack([high, low]), n, perturb, below)
        alone = _deleted(ids[genes], genes[:, None], n, perturb, below)
    members = np.column_stack([np.full(len(place), anchor), place]) - perturb.frame.head
    return replace(lists, alone=alone, members=members)


def _moves(ids: np.ndarray, perturb: Perturb) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activated or inhibited genes that change their place: label, source, destination.

    A gene of rank r among G (from 0) is in quartile 4 r / G, rounded down. It goes to the middle of the quartile `rank_shift`
    higher or lower, to the front or the bottom when there is none, or to rank `to` (G - 1).
    """
    count = perturb.frame.room(len(ids))
    rank = np.arange(count)
    up = perturb.kind == "activate"
    if perturb.to is not None:
        target = np.full(count, round(perturb.to * (count - 1)), np.int64)
    else:
        assert perturb.rank_shift is not None
        quartile = rank * QUARTILES // max(count, 1) + (-perturb.rank_shift if up else perturb.rank_shift)
        target = (2 * quartile + 1) * count // (2 * QUARTILES)
        target = np.where(quartile < 0, 0, np.where(quartile >= QUARTILES, count - 1, target))
    moved = target < rank if up else target > rank
    label = ids[perturb.frame.head + rank]
    if perturb.genes is not None:
        number = {t: i for i, t in enumerate(perturb.genes)}
        label = np.array([number.get(int(t), -1) for t in label], np.int64)
        moved &= label >= 0
    return label[moved], rank[moved] + perturb.frame.head, target[moved] + perturb.frame.head


Row = tuple[list[tuple[int, int, int]], int, int]  # edits, length, base_length


def _row(genes: tuple[int, ...], places: dict[int, int], n: int, perturb: Perturb, below: int) -> Row:
    """The edits that delete or overexpress `genes` together in a cell of `n` rows."""
    if perturb.kind == "delete":  # from the back, so that no step moves the place of a later one
        moves = [(i, NOWHERE, -1) for i in sorted((places[t] for t in genes), reverse=True)]
        size = n + below - len(genes)
        if size > n:  # more genes stand below than were deleted
            moves += [(at, to, -1) for at, to in perturb.frame.tail_moves(size, n)]
        return moves, min(size, n), n
    # From the last gene to the first, each to the front: the user's order results. A step shifts what it jumps over.
    moves = []
    now, size = [places.get(t) for t in genes], n
    for k in reversed(range(len(genes))):
        at = now[k]
        moves.append((NOWHERE, perturb.frame.head, genes[k]) if at is None else (at, perturb.frame.head, -1))
        size += at is None
        now = [None if i is None else i + (at is None or i < at) for i in now]
    length = min(size, perturb.limit)
    if length < size:  # what ends a list stays last, the genes of lowest rank fall off behind it
        moves += [(at, to, -1) for at, to in perturb.frame.tail_moves(size, length)]
    overflow = length + (size - n) - perturb.limit if perturb.reference_overflow else size - perturb.limit
    return moves, length, n - max(overflow, 0)


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
