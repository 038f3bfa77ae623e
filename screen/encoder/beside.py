"""The originals beside the lists of a group: where each row of a block comes from, for products on differences.

What the originals' linear layers read and gave is held by `families.originals`; here are the places in it.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from rankshift.kernels.perturbed_lists import sent, trace
from rankshift.screen.encoder.batches import Batch, ListArrays
from rankshift.screen.families.originals import Originals, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The originals of a group, as the blocks of the group see them. keeps: the blocks are the originals themselves.

    start int64 [C]: where each original begins among the packed ones, ascending. rows: of all of them together.
    """

    originals: Originals
    start: np.ndarray
    rows_of_all: int
    keeps: bool

    @staticmethod
    def of(originals: ListArrays, most: int) -> "Beside":
        """Where the originals are kept when they are run, in `most` bytes."""
        rows = int(originals.length.sum())
        return Beside(originals=Originals(most), start=originals.partner, rows_of_all=rows, keeps=True)

    @property
    def of_lists(self) -> "Beside":
        """The same for the lists, which read what is kept."""
        return replace(self, keeps=False)

    def rows(self, block: Batch, device: torch.device) -> Rows:
        """Where the rows of a block stand among those of the originals."""
        partners = block.partners(block.ids).to(device)  # the ids are not looked at
        index, _, moved = trace(partners)
        a = block.arrays
        end = sent(torch.from_numpy(a.partner + a.partner_length), device)
        length = sent(torch.from_numpy(a.length), device)
        end = torch.repeat_interleave(end, length, output_size=len(index))
        none = (index < 0) | (index >= end)  # inserted, or behind the end of a list that was cut off
        first = torch.from_numpy(np.searchsorted(self.start, a.partner).astype(np.int32))
        return Rows(
            originals=self.originals,
            keeps=self.keeps,
            row=torch.where(none, self.rows_of_all, index).to(torch.int32),
            alone=torch.nonzero(none | moved).flatten(),
            count=self.rows_of_all,
            first=sent(first, device),
            lists=len(self.start),
        )
