"""Examples: what is learnt in one fold, as batches of padded cells with their labels and as a loss.

Shapes: B cells of a batch, N places of the longest, S outputs of all tasks, T tasks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rankshift.jobs.finetuning.labels.labels import NONE
from rankshift.jobs.finetuning.models import Classifier, Head, cell_logits
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.training import Step, rank_slices
from rankshift.jobs.training.batching import EpochBatches
from rankshift.jobs.training.gang import Collective
from rankshift.screen.cells.cells import Cells
from rankshift.screen.genes.framing import Frame

ORDER, THIN = 1, 2  # streams of random numbers: the order of the cells, and what is left out of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Padded cells. ids: int64 (B, N). real: bool (B, N), False on padding, None where nothing is padded.

    labels: int64 (B, T) class ids, float32 (B, 1) numbers, or int64 (B, N) class ids of genes; NONE where there is none.
    """

    ids: Tensor
    real: Tensor | None
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        real = None if self.real is None else self.real.to(device)
        return replace(self, ids=self.ids.to(device), real=real, labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """What one fold learns. rows: rows of the token table. weights: one array per task over its classes, None for equal ones.

    by_row: (rows of the table, T) labels of cells, class ids or float32 standardised numbers; or by_token: (V,) class ids
    of genes. The other is None.
    """

    table: Cells
    head: Head
    pad: int
    rows: np.ndarray
    by_row: np.ndarray | None = None
    by_token: np.ndarray | None = None
    weights: tuple[Tensor, ...] | None = None

    def lists(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rank lists of these cells."""
        return [self.table.ids_of(int(row)) for row in rows]

    def batch(self, rows: np.ndarray, lists: Sequence[np.ndarray] | None = None) -> Batch:
        """These cells, padded on the right to the longest; `lists` replaces their lists where genes were left out."""
        ids, real = padded(self.lists(rows) if lists is None else lists, self.pad)
        if self.by_token is not None:
            labels = torch.from_numpy(self.by_token[ids])
        else:
            assert self.by_row is not None
            labels = torch.from_numpy(self.by_row[rows])
        real_BN = None if real.all() else torch.from_numpy(real)
        return Batch(ids=torch.from_numpy(ids), real=real_BN, labels=labels)

    def loss(self, model: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss and what it counts: cross-entropy over labels, weighted by class and task; or squared error.

        The mean loss of a batch is their quotient, also over the cells of several workers.
        """
        if self.by_token is not None:
            logits = model(input_ids=batch.ids, attention_mask=batch.real).logits
            parts = [(logits.flatten(0, 1), batch.labels.flatten())]
        else:
            logits = cell_logits(model, batch.ids, batch.real, self.table.frame)
            if not self.head.tasks[0].classes:
                error = logits.float() - batch.labels
                return (error**2).sum(), torch.tensor(float(len(error)), device=error.device)
            parts = [(logits[:, at], batch.labels[:, t]) for t, at in enumerate(self.head.slices)]
        loss = count = logits.new_zeros((), dtype=torch.float32)
        for t, (task, (given, truth)) in enumerate(zip(self.head.tasks, parts, strict=True)):
            weight = None if self.weights is None else self.weights[t].to(given.device)
            summed = F.cross_entropy(given.float(), truth, weight=weight, ignore_index=NONE, reduction="sum")
            known = truth[truth != NONE]
            loss = loss + task.weight * summed
            count = count + task.weight * (len(known) if weight is None else weight[known].sum())
        return loss, count


class CellBatches:
    """Steps over examples: their cells in batches of like length, anew in every epoch, perhaps without some of their genes."""

    def __init__(self, examples: Examples, options: Finetuning, device: torch.device, collective: Collective) -> None:
        self._examples, self._options, self._device, self._collective = examples, options, device, collective
        self._batches = EpochBatches(
            examples.rows, examples.table.lengths, options.batch_tokens, (options.seed, ORDER), options.passes
        )

    def steps(self) -> list[int]:
        """Batches of each epoch."""
        return self._batches.steps

    def step(self, epoch: int, index: int) -> Step:
        """This rank's share of a batch."""
        rows = self._batches.batch(epoch, index)
        lists = self._examples.lists(rows)
        if self._options.drop_genes:
            rng = np.random.default_rng((self._options.seed, THIN, epoch, index))  # the same on every rank
            lists = [thinned(ids, self._options.drop_genes, self._examples.table.frame, rng) for ids in lists]
        parts = rank_slices(np.arange(len(rows)), self._collective, self._options.accumulate)
        return Step(
            cells=len(rows), tokens=sum(map(len, lists)), passes=[self._take(rows, lists, part) for part in parts]
        )

    def _take(self, rows: np.ndarray, lists: list[np.ndarray], part: np.ndarray) -> Batch | None:
        if not len(part):
            return None
        return self._examples.batch(rows[part], [lists[i] for i in part]).to(self._device)

    def once(self) -> Iterator[Batch]:
        """This rank's share of every cell, once."""
        for rows in self._batches.of(0)[self._collective.rank.number :: self._collective.rank.world]:
            yield self._examples.batch(rows).to(self._device)


def thinned(ids: np.ndarray, share: float, frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """The list without a random share of its genes; at least one gene stays, and so does the frame."""
    keep = rng.random(len(ids)) >= share
    genes = keep[frame.inner(len(keep))]
    if not genes.any():
        genes[0] = True
    keep[: frame.head] = keep[len(keep) - frame.tail :] = True
    return ids[keep]


def padded(lists: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """The lists as int64 (B, N), `pad` on the right, and bool (B, N), False on padding."""
    size = np.array([len(ids) for ids in lists])
    real = np.arange(size.max()) < size[:, None]
    ids = np.full(real.shape, pad, np.int64)
    ids[real] = np.concatenate(lists)
    return ids, real
