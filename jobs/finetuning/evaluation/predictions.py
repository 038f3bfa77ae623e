"""Predictions of a fine-tuned model on units that judge it; the ranks of a gang share the cells.

Shapes: n judged cells or rows of genes, S outputs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rankshift.jobs.finetuning.examples import Examples
from rankshift.jobs.finetuning.models import Classifier, cell_logits
from rankshift.jobs.training.batching import length_batches
from rankshift.jobs.training.gang import Collective

SEED = (0, 5)  # orders the batches, which changes no prediction


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Places:
    """Where judged genes stand. row: of the token table; place: in its list, from 0; token. int64, one entry a prediction."""

    row: np.ndarray
    place: np.ndarray
    token: np.ndarray

    @staticmethod
    def of(examples: Examples) -> "Places":
        """Every place of the examples' cells at which a labelled gene stands, row after row."""
        assert examples.by_token is not None
        table = examples.table
        at = np.flatnonzero(examples.by_token[table.ids] >= 0)
        row = np.searchsorted(table.offsets, at, side="right") - 1
        mine = np.isin(row, examples.rows)
        at, row = at[mine], row[mine]
        return Places(row=row, place=at - table.offsets[row], token=table.ids[at].astype(np.int64))


@torch.no_grad()
def predict(model: Classifier, examples: Examples, tokens: int, collective: Collective) -> np.ndarray:
    """Logits float32 (n, S): a row per cell of the examples in their order, or for genes a row per entry of its `Places`.

    tokens: places of a batch at most. Every rank calls it and gets all of them.
    """
    model.eval()
    device = next(model.parameters()).device
    lengths = examples.table.lengths
    owner = examples.rows if examples.by_token is None else Places.of(examples).row
    first = np.searchsorted(owner, examples.rows)  # the first prediction of each cell; rows rise
    out = torch.zeros(len(owner), model.config.num_labels, device=device)
    for rows in length_batches(examples.rows, lengths, tokens, SEED)[collective.rank.number :: collective.rank.world]:
        rows = np.sort(rows)
        batch = examples.batch(rows).to(device)
        at = first[np.searchsorted(examples.rows, rows)]
        if examples.by_token is None:
            out[torch.from_numpy(at).to(device)] = cell_logits(
                model, batch.ids, batch.real, examples.table.frame
            ).float()
            continue
        logits: Tensor = model(input_ids=batch.ids, attention_mask=batch.real).logits
        judged = batch.labels >= 0
        count = judged.sum(dim=1).cpu().numpy()
        target = np.concatenate([np.arange(a, a + n) for a, n in zip(at, count, strict=True)])
        out[torch.from_numpy(target).to(device)] = logits[judged].float()
    return collective.total(out).cpu().numpy()


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    odds = np.exp(shifted)
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def by_gene(tokens: np.ndarray, given: np.ndarray, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities (genes, S) over the places of each gene, and how many places those are. genes: tokens, rising."""
    at = np.searchsorted(genes, tokens)
    total = np.zeros((len(genes), given.shape[1]))
    np.add.at(total, at, given)
    count = np.bincount(at, minlength=len(genes))
    return total / np.maximum(count, 1)[:, None], count
