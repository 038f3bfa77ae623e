"""What the linear layers of originals read and gave, kept for the products of their lists. Nothing is multiplied here.

A list's product is taken on its difference to its original's (kernel `difference_product`), so every row of a list points at a
row of an original. Rows that are kept nowhere count as zeros with the bias as their product, as do those without an original.

Shapes: R rows of the originals of a group of cells, T packed rows of a block, D in, F out.
"""

from dataclasses import dataclass, replace
from threading import Lock

import torch
from torch import Tensor

Key = tuple[int, str]  # a layer, and the name of a linear layer in it


@dataclass(frozen=True, slots=True)
class Known:
    """What one linear layer read, [R + 1, D], and gave, [R + 1, F], float32; last the row of those without an original."""

    inputs: Tensor
    products: Tensor


class Originals:
    """The inputs and products of a group's originals, in `most` bytes. Blocks are kept from several threads.

    Layers are kept from the first on for as long as they fit; the products of those above are taken in float32. Which are kept
    depends on the model and the rows alone: a thread that is behind meets only layers that another has met.
    """

    def __init__(self, most: int) -> None:
        self._known: dict[Key, Known | None] = {}
        self._free = most
        self._lock = Lock()

    def of(self, key: Key) -> Known | None:
        """What a linear layer read and gave; None where no original went through it."""
        return self._known.get(key)

    def keep(self, key: Key, count: int, row: Tensor, x: Tensor, y: Tensor, bias: Tensor) -> None:
        """Keep what a linear layer read, x [T, D], and gave, y [T, F], at the rows `row` of `count`."""
        with self._lock:
            if key not in self._known:
                self._known[key] = self._room(count + 1, x, bias)
        known = self._known[key]
        if known is None:
            return
        at = row.long()
        known.inputs.index_copy_(0, at, x.float())
        known.products.index_copy_(0, at, y)

    def _room(self, rows: int, x: Tensor, bias: Tensor) -> Known | None:
        """Rows without a difference, of one linear layer; None where they do not fit."""
        self._free -= 4 * rows * (x.shape[1] + len(bias))
        if self._free < 0:  # and it stays so: a smaller layer above a large one is not kept either
            return None
        inputs = torch.zeros(rows, x.shape[1], device=x.device)
        return Known(inputs, bias.float().expand(rows, -1).contiguous())

    @property
    def bytes(self) -> int:
        """What is held."""
        return sum(4 * (known.inputs.numel() + known.products.numel()) for known in self._known.values() if known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Where the rows of a block stand among those of the originals. keeps: the block is of originals, which are kept there.

    row int32 [T]: of `count` rows, and `count` itself where a row has no original. alone int64: the rows of the block that have
    none, or were moved away from it; they are few, and multiplied in float32. first int32 [P]: the number of each list's
    original, of `lists`, for what is computed of first rows alone.
    """

    originals: Originals
    keeps: bool
    row: Tensor
    alone: Tensor
    count: int
    first: Tensor
    lists: int

    @property
    def of_first_rows(self) -> "Rows":
        """The same of the lists' first rows alone."""
        return replace(self, row=self.first, alone=self.alone[:0], count=self.lists)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One linear layer, and the rows of a block at it."""

    rows: Rows
    key: Key

    @property
    def known(self) -> Known | None:
        """What the lists' products are taken beside; None where there is nothing, and of originals."""
        return None if self.rows.keeps else self.rows.originals.of(self.key)

    def keep(self, x: Tensor, y: Tensor, bias: Tensor) -> None:
        """Keep what an original's rows read and gave."""
        if self.rows.keeps:
            self.rows.originals.keep(self.key, self.rows.count, self.rows.row, x, y, bias)


def place(rows: Rows | None, layer: int, name: str) -> Place | None:
    """The rows at one linear layer; None of rows that stand beside no originals."""
    return None if rows is None else Place(rows=rows, key=(layer, name))
