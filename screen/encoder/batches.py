"""Batches of perturbed lists: packed, in order, with shapes that depend on the cells and the token budget alone.

The number of workers never enters here, which is what makes results bit-identical for any of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
import torch

from rankshift.kernels.perturbed_lists import NOWHERE, PerturbedLists
from rankshift.screen.cells.cells import CellTable
from rankshift.screen.perturb.edits import CellEdits
from rankshift.screen.perturb.perturbation import Perturb, edits_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedEdit:
    """What single edits of one cell share in the first layer (kernel `first_layer`).

    at [P]: place of the gene that leaves, ascending; the cell's length when a gene is inserted instead.
    front: where the moved or inserted gene goes, None for deletions. token [P]: that gene.
    """

    at: np.ndarray
    front: int | None
    token: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ListArrays:
    """Perturbed lists as plain arrays, before they are packed for a device. P lists of K edits.

    base, base_length [P]: where the list's cell lies in the packed ids, and how long it is.
    partner, partner_length [P]: where the original that the list is compared with lies in the packed originals, and its length.
    """

    base: np.ndarray
    base_length: np.ndarray
    partner: np.ndarray
    partner_length: np.ndarray
    source: np.ndarray
    destination: np.ndarray
    token: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.length)

    def part(self, first: int, last: int) -> "ListArrays":
        """The lists first..last-1."""
        return ListArrays(**{f.name: getattr(self, f.name)[first:last] for f in fields(self)})


def join(cells: list[CellEdits], base: np.ndarray, base_length: np.ndarray, partners: list[np.ndarray]) -> ListArrays:
    """The lists of several cells behind each other; shorter edit chains are filled up with steps that do nothing."""
    counts = [len(c) for c in cells]
    most = max((c.source.shape[1] for c in cells), default=1)

    def stack(name: str, idle: int) -> np.ndarray:
        filled = [
            np.pad(getattr(c, name), ((0, 0), (0, most - c.source.shape[1])), constant_values=idle) for c in cells
        ]
        return np.concatenate(filled)

    return ListArrays(
        base=np.repeat(base, counts).astype(np.int64),
        base_length=np.repeat(base_length, counts).astype(np.int32),
        partner=np.concatenate(partners).astype(np.int64),
        partner_length=np.concatenate([c.base_length for c in cells]).astype(np.int32),
        source=stack("source", NOWHERE),
        destination=stack("destination", NOWHERE),
        token=stack("token", -1),
        length=np.concatenate([c.length for c in cells]).astype(np.int32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lists that run together. ids: the packed cells, on the CPU. split: None where the lists share nothing.

    first_row: where a block begins in the batch it was cut from. attended: first-layer attention [T, D] of that batch, where it
    is known.
    """

    ids: torch.Tensor
    arrays: ListArrays
    split: SharedEdit | None
    first_row: int = 0
    attended: torch.Tensor | None = None

    @property
    def runs(self) -> list[tuple[int, int]]:
        """(count, length) of neighbouring lists of one length."""
        length = self.arrays.length
        edges = np.flatnonzero(np.diff(length)) + 1
        return [(len(part), int(part[0])) for part in np.split(length, edges)]

    def _lists(self, ids: torch.Tensor, base: np.ndarray, base_length: np.ndarray) -> PerturbedLists:
        a = self.arrays
        return PerturbedLists.pack(
            ids=ids,
            base=torch.from_numpy(base),
            base_length=torch.from_numpy(base_length),
            length=torch.from_numpy(a.length),
            source=torch.from_numpy(a.source),
            destination=torch.from_numpy(a.destination),
            token=torch.from_numpy(a.token),
        )

    def lists(self) -> PerturbedLists:
        """The lists over their cells' ids, as `rank_shift` reads them."""
        return self._lists(self.ids, self.arrays.base, self.arrays.base_length)

    def partners(self, ids: torch.Tensor) -> PerturbedLists:
        """The same lists over the packed `ids` of the originals they are compared with, as `cosine_shift` reads them."""
        return self._lists(ids, self.arrays.partner, self.arrays.partner_length)

    def blocks(self, tokens: int | None) -> Iterator["Batch"]:
        """Blocks of whole lists of at most `tokens` rows (at least one list); None: the whole batch."""
        for first, last in spans(self.arrays.length, tokens):
            row = int(self.arrays.length[:first].sum())
            split = self.split and SharedEdit(
                at=self.split.at[first:last], front=self.split.front, token=self.split.token[first:last]
            )
            yield Batch(
                ids=self.ids,
                arrays=self.arrays.part(first, last),
                split=split,
                first_row=row,
                attended=self.attended,
            )


def spans(lengths: np.ndarray, tokens: int | None) -> Iterator[tuple[int, int]]:
    """Cut a row of lists into consecutive spans of at most `tokens` rows each; a longer list is a span of its own.

    >>> list(spans(np.array([3, 3, 3, 9, 1]), 6))
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    if tokens is None:
        if len(lengths):
            yield 0, len(lengths)
        return
    first, filled = 0, 0
    for i, n in enumerate(lengths.tolist()):
        if filled and filled + n > tokens:
            yield first, i
            first, filled = i, 0
        filled += n
    if filled:
        yield first, len(lengths)


def batches(ids: torch.Tensor, arrays: ListArrays, tokens: int, *, apart: bool = False) -> Iterator[Batch]:
    """The batches of a group of cells under a token budget. Where the group is one cell, a batch has lists of one length.

    apart: every cell has batches of its own, in which its lists share the first layer.
    """
    single = len(arrays) > 0 and (apart or bool((arrays.base == arrays.base[0]).all()))
    edges = (np.flatnonzero(np.diff(arrays.length) | np.diff(arrays.base)) + 1).tolist() if single else []
    first = 0
    for part in np.split(arrays.length, edges):
        for a, b in spans(part, tokens):
            some = arrays.part(first + a, first + b)
            yield Batch(ids=ids, arrays=some, split=_split(some) if single else None)
        first += len(part)


def groups(
    cells: CellTable,
    numbers: np.ndarray,
    perturb: Perturb,
    tokens: int,
    some: Mapping[int, slice | np.ndarray],
    kept_rows: int | None = None,
) -> Iterator[tuple[np.ndarray, list[CellEdits]]]:
    """Neighbouring cells whose perturbed lists fit one batch together; a cell that fills it is a group of its own.

    kept_rows: rows of originals of a group at most, where what they read and gave is kept; a cell is never divided.
    """
    group: list[int] = []
    edits: list[CellEdits] = []
    filled = held = 0
    for number in numbers.tolist():
        lists = edits_of(cells.ids_of(number), perturb, cells.below_of(number))
        if number in some:
            lists = lists.part(some[number])
        if not len(lists):
            continue
        size, rows = int(lists.length.sum()), _original_rows(lists)
        if group and (filled + size > tokens or (kept_rows is not None and held + rows > kept_rows)):
            yield np.array(group), edits
            group, edits, filled, held = [], [], 0, 0
        group.append(number)
        edits.append(lists)
        filled += size
        held += rows
    if group:
        yield np.array(group), edits


def _original_rows(lists: CellEdits) -> int:
    """Rows of a cell's originals: one for every length at which its lists are compared."""
    parts = [lists.base_length] if lists.alone is None else [lists.base_length, lists.alone.base_length]
    return int(np.unique(np.concatenate(parts)).sum())


def behind(batches: Iterable[Batch], after: int, tokens: int | None) -> tuple[Iterator[Batch], int]:
    """The batches without the first `after` of their blocks: those from the first that has more on, and how many it lacks."""
    coming = iter(batches)
    for batch in coming:
        blocks = sum(1 for _ in spans(batch.arrays.length, tokens))
        if after < blocks:
            return chain([batch], coming), after
        after -= blocks
    return coming, 0


def _split(arrays: ListArrays) -> SharedEdit | None:
    """What single edits of one cell share, if every list is one deletion, or one move or insertion to one place."""
    if len(arrays) == 0 or arrays.source.shape[1] != 1:
        return None
    source, destination, token = arrays.source[:, 0], arrays.destination[:, 0], arrays.token[:, 0]
    n, length = int(arrays.base_length[0]), int(arrays.length[0])
    if (destination != destination[0]).any() or (np.diff(source) < 0).any() or (arrays.length != length).any():
        return None
    removes = (source < n).all()
    if removes and destination[0] == NOWHERE and length == n - 1:
        return SharedEdit(at=source, front=None, token=token)
    if removes and (source >= destination).all() and length == n:
        return SharedEdit(at=source, front=int(destination[0]), token=token)
    if (source == NOWHERE).all() and (token >= 0).all() and length == n + 1:
        return SharedEdit(at=np.full(len(arrays), n, np.int32), front=int(destination[0]), token=token)
    return None
