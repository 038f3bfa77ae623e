"""How the rows of a list become one embedding; nothing is encoded here."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rankshift.screen.families.operators import Runs
from rankshift.screen.genes.framing import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """The list's first row (`first_row`, of <cls>), or the mean over its rows of genes, specials left out (PS 3.2)."""

    first_row: bool
    frame: Frame

    def of(self, hidden: Tensor, runs: Runs) -> Tensor:
        """Embeddings (P, D) from what `Encoder.map` gives: the first rows (P, D), or all rows (T, D)."""
        if self.first_row:
            return hidden
        parts, row = [], 0
        for count, n in runs:
            rows = hidden[row : row + count * n].view(count, n, -1)
            parts.append(rows[:, self.frame.inner(n)].mean(1))
            row += count * n
        return torch.cat(parts)
