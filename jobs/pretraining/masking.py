"""Batches for masked-gene training: padded lists with a share of their genes hidden. Seeded; made by numpy.

Shapes: B cells of a batch, N places of its longest list, M hidden genes.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rankshift.screen.cells.cells import Cells
from rankshift.screen.genes.vocabulary import Vocabulary

MASKED, RANDOM = 0.8, 0.1  # shares of the hidden genes shown as <mask> and as another gene; the rest is shown as it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Padded lists with hidden genes.

    shown: int64 (B, N). real: bool (B, N), False on padding, None where nothing is padded (which is faster).
    places: int64 (M,), where genes are hidden, in the flattened (B * N), rising. genes: int64 (M,), what stood there.
    """

    shown: Tensor
    real: Tensor | None
    places: Tensor
    genes: Tensor

    @property
    def hidden(self) -> Tensor:
        """bool (B, N): where genes are hidden. The loss takes `places`: a GPU would have to count the True ones first."""
        flags = torch.zeros(self.shown.numel(), dtype=torch.bool, device=self.shown.device)
        flags[self.places] = True
        return flags.view_as(self.shown)

    def take(self, cells: np.ndarray) -> "Batch":
        """These cells of the batch, in rising order, without the padding that only the others needed."""
        which, wide = torch.from_numpy(cells), self.shown.shape[1]
        owner, column = self.places // wide, self.places % wide
        mine = torch.isin(owner, which)
        real = None if self.real is None else self.real[which]
        longest = wide if real is None else int(real.sum(1).max())
        return Batch(
            shown=self.shown[which, :longest],
            real=None if real is None or real[:, :longest].all() else real[:, :longest],
            places=torch.searchsorted(which, owner[mine]) * longest + column[mine],
            genes=self.genes[mine],
        )

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        real = None if self.real is None else self.real.to(device)
        return replace(
            self, shown=self.shown.to(device), real=real, places=self.places.to(device), genes=self.genes.to(device)
        )


def mask(
    table: Cells, rows: np.ndarray, vocabulary: Vocabulary, mlm_probability: float, seed: tuple[int, ...]
) -> Batch:
    """The lists of `rows`, padded, with a random share of their genes hidden: 80 % as <mask>, 10 % as another gene.

    Only genes are hidden and only genes replace them: the published collator also draws <pad>, <mask>, <cls> and <eos>
    as replacements and hides <cls> and <eos> (TS 2.3), which teaches nothing about genes. At least one is hidden.
    """
    rng = np.random.default_rng(seed)
    size = np.diff(table.offsets)[rows]
    places = np.arange(size.max())
    real = places < size[:, None]
    flat = np.minimum(table.offsets[rows][:, None] + places, len(table.ids) - 1)
    ids = np.where(real, table.ids[flat], vocabulary.special.pad).astype(np.int64)
    gene = vocabulary.is_gene[ids] & real
    draw = np.where(gene, rng.random(ids.shape), np.inf)
    hidden = draw < max(mlm_probability, draw.min() * (1 + 1e-9))
    as_mask, as_gene = hidden.copy(), hidden.copy()
    kind = rng.random(ids.shape)
    as_mask &= kind < MASKED
    as_gene &= (kind >= MASKED) & (kind < MASKED + RANDOM)
    shown = np.where(as_mask, vocabulary.special.mask, ids)
    shown[as_gene] = rng.choice(np.flatnonzero(vocabulary.is_gene), int(as_gene.sum()))
    return Batch(
        shown=torch.from_numpy(shown),
        real=None if real.all() else torch.from_numpy(real),
        places=torch.from_numpy(np.flatnonzero(hidden)),
        genes=torch.from_numpy(ids[hidden]),
    )
