"""The objective: a model with a head for genes, batches with hidden genes, and the loss of naming them.

Shapes: B cells of a batch, N places of its longest list, M hidden genes, D hidden size, V tokens.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from rankshift.jobs.pretraining.masking import Batch, mask
from rankshift.jobs.pretraining.options import Pretraining, model_config
from rankshift.jobs.pretraining.unigram import unigram_logs
from rankshift.jobs.training import Step, mean_loss, rank_slices
from rankshift.jobs.training.batching import EpochBatches, length_batches
from rankshift.jobs.training.families.family import family_of_config
from rankshift.jobs.training.gang import Collective, Rank
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import Vocabulary

SPLIT, ORDER, MASK, JUDGE = 0, 1, 2, 4  # streams of random numbers; 3 is dropout's, in the trainer
ALONE = Collective(Rank())


def new_model(options: Pretraining, vocabulary: Vocabulary, ids: np.ndarray, places: int) -> PreTrainedModel:
    """Random weights, and in the head's bias the log frequencies of the genes in `ids`.

    The first loss is then about the unigram entropy, and no step is spent on learning how common genes are.
    """
    config = model_config(options, vocabulary, places)
    family = family_of_config(config)
    model = family.gene_model(config)
    with torch.no_grad():
        family.gene_bias(model).copy_(torch.from_numpy(unigram_logs(ids, vocabulary)))
    return model


def masked_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, int]:
    """Summed cross-entropy over the hidden genes in nats, and how many those are.

    The head sees their rows only: (M, V) logits, never (B, N, V).
    """
    family = family_of_config(model.config)
    hidden_BND = family.encoded(model, batch.shown, batch.real)
    logits_MV = family.gene_logits(model, hidden_BND.flatten(0, 1)[batch.places])
    return F.cross_entropy(logits_MV.float(), batch.genes, reduction="sum"), len(batch.genes)


class MaskedBatches:
    """Steps of pretraining: the cells of `rows` in batches of like length, anew in every epoch, genes hidden in each.

    A batch and what is hidden in it depend on the seed, the epoch and the number of the step alone. The gang hides the
    genes of a whole batch on every rank, and each rank takes its cells of it.
    """

    def __init__(
        self,
        table: Cells,
        rows: np.ndarray,
        vocabulary: Vocabulary,
        options: Pretraining,
        device: torch.device,
        collective: Collective = ALONE,
    ) -> None:
        self._table, self._vocabulary, self._options = table, vocabulary, options
        self._device, self._collective, self._lengths = device, collective, table.lengths
        seed = (options.seed, ORDER)
        self._batches = EpochBatches(rows, table.lengths, options.batch_tokens, seed, options.epochs)

    def steps(self) -> list[int]:
        """Batches of each epoch."""
        return self._batches.steps

    def step(self, epoch: int, index: int) -> Step:
        """This rank's share of a batch, hidden genes and all."""
        rows, options = self._batches.batch(epoch, index), self._options
        seed = (options.seed, MASK, epoch, index)
        batch = mask(self._table, rows, self._vocabulary, options.hidden_share, seed)
        parts = rank_slices(np.arange(len(rows)), self._collective, options.accumulate)
        return Step(
            cells=len(rows),
            tokens=int(self._lengths[rows].sum()),
            passes=[batch.take(part).to(self._device) if len(part) else None for part in parts],
        )


def held_out_loss(
    model: PreTrainedModel,
    table: Cells,
    rows: np.ndarray,
    vocabulary: Vocabulary,
    options: Pretraining,
    collective: Collective = ALONE,
) -> float:
    """Mean loss over the hidden genes of cells that were not trained on; the same genes are hidden every time.

    The model is in eval mode. In a gang all ranks call it, and share the cells.
    """

    def passes() -> Iterator[Batch]:
        for i, some in enumerate(length_batches(rows, table.lengths, options.batch_tokens, (options.seed, JUDGE))):
            batch = mask(table, some, vocabulary, options.hidden_share, (options.seed, JUDGE, i))
            for part in rank_slices(np.arange(len(some)), collective, options.accumulate):
                if len(part):
                    yield batch.take(part).to(model.device)

    return mean_loss(model, masked_loss, passes(), collective)


def split(cells: int, options: Pretraining) -> tuple[np.ndarray, np.ndarray]:
    """Random rows to train on and rows held out, each in rising order."""
    if cells < 2:
        raise InputError(f"{cells} cell cannot be split into training and held-out cells: give at least 2")
    order = np.random.default_rng((options.seed, SPLIT)).permutation(cells)
    n = min(max(1, round(options.held_out * cells)), cells - 1)
    return np.sort(order[n:]), np.sort(order[:n])
