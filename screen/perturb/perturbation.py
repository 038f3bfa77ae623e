"""What is asked of every cell of a run, and what a kind of perturbation has to say for itself. No kind is named here.

`asked.asked` makes a `Perturb` from the name of a kind.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any, Literal

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.edits import CellEdits

How = Literal["each", "together", "pairs"]
HOWS = ("each", "together", "pairs")


def _anything(perturb: "Perturb") -> None:
    """Refuse nothing."""


def _no_gene(perturb: "Perturb") -> tuple[int, ...]:
    """No gene."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of perturbation; its options stand in its line of `kinds.KINDS`.

    counts: how many lists every cell gets, from ids [tokens], offsets [cells + 1] -> int64 [cells]. edits: the lists of one
    cell, from its ids with their frame and the number of genes below the limit that follow in its base list. check: raise
    InputError where it cannot do what is asked. required: genes without which a cell gets no list at all.
    """

    name: str
    counts: Callable[[np.ndarray, np.ndarray, "Perturb"], np.ndarray]
    edits: Callable[[np.ndarray, "Perturb", int], CellEdits]
    check: Callable[["Perturb"], None] = _anything
    required: Callable[["Perturb"], tuple[int, ...]] = _no_gene


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
        if self.how not in HOWS:
            raise InputError(f"--how {self.how!r} is unknown: use one of {', '.join(HOWS)}")
        if self.genes is None and self.how == "together":
            raise InputError("--how together needs a list of genes, got all: name them with --genes, or use --how each")
        if self.genes is not None and not self.genes:
            raise InputError("the list of genes to perturb is empty: name at least one gene of the vocabulary")
        if self.anchor is not None and self.how != "pairs":
            raise InputError(f"an anchor makes pairs, --how {self.how} does not: use --how pairs")
        if self.how == "pairs" and self.anchor is None and (self.genes is None or len(self.genes) < 2):
            raise InputError("--how pairs needs an anchor or a list of two genes or more: give --anchor or --genes")
        if self.anchor is not None and self.genes is not None and set(self.genes) <= {self.anchor}:
            raise InputError("the only gene to pair with the anchor is the anchor itself: name another gene")
        self.kind.check(self)

    @property
    def record(self) -> dict[str, Any]:
        """As run.json has it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"kind": self.kind.name, "frame": self.frame.record}
        return {("framed" if name == "frame" else name): value for name, value in values.items()}

    @property
    def most(self) -> int:
        """Genes of the largest perturbation."""
        return {"each": 1, "pairs": 2}.get(self.how) or len(self.genes or ())

    @property
    def required(self) -> tuple[int, ...]:
        """Genes a cell must have to be screened at all, before cells are sampled (PS 2.2)."""
        return self.kind.required(self) if self.anchor is None else (self.anchor,)

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

    def group_of(self, key: int) -> tuple[int, ...]:
        """The genes that a `CellEdits.key` stands for: its place in `groups`, or the token that is not the anchor's."""
        if self.genes is not None:
            return self.groups[key]
        return (key,) if self.anchor is None else (self.anchor, key)


def eligible(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb) -> np.ndarray:
    """How many perturbed lists every cell gets. ids [tokens], offsets [cells + 1] -> int64 [cells]."""
    return perturb.kind.counts(ids, offsets, perturb).astype(np.int64)


def edits_of(ids: np.ndarray, perturb: Perturb, below: int = 0) -> CellEdits:
    """The perturbed lists of the cell `ids` (with its frame), in rank order, absent genes last.

    below: genes that follow in the base list behind those of `ids` (before its tail), to refill deletions from.
    """
    return perturb.kind.edits(ids, perturb, below)
