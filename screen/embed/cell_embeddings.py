"""Cells as they are: the packed originals that perturbed lists are compared with, and embeddings of whole cells."""

from collections.abc import Callable

import numpy as np
import torch

from rankshift.kernels.perturbed_lists import NOWHERE
from rankshift.screen.cells.cells import Cells
from rankshift.screen.encoder.batches import Batch, ListArrays, batches
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError

LEVELS = ("cell", "cls")


def original_lists(base: np.ndarray, lengths: np.ndarray, kept: np.ndarray, framed: bool) -> ListArrays:
    """Lists that are the cells themselves, cut to `kept` rows: <eos> moves up to the last kept row, the rest falls off.

    base, lengths, kept [P]: where each cell begins in the packed ids, its rows, the rows to keep.
    """
    cut = framed & (kept < lengths)
    partner = np.concatenate([[0], np.cumsum(kept)[:-1]]).astype(np.int64)
    return ListArrays(
        base=base.astype(np.int64),
        base_length=lengths.astype(np.int32),
        partner=partner,
        partner_length=kept.astype(np.int32),
        source=np.where(cut, lengths - 1, NOWHERE).astype(np.int32)[:, None],
        destination=np.where(cut, kept - 1, NOWHERE).astype(np.int32)[:, None],
        token=np.full((len(base), 1), -1, np.int32),
        length=kept.astype(np.int32),
    )


def check_level(level: str, framed: bool) -> None:
    """Refuse an embedding that the cells cannot have."""
    if level not in LEVELS:
        raise InputError(f"embedding {level!r} is unknown: use one of {', '.join(LEVELS)}")
    if level == "cls" and not framed:
        raise InputError(
            "cells have no <cls>, embedding cls needs one: use --embedding cell, or tokenize for a v2 bundle"
        )


def embed(
    cells: Cells,
    encoder: Encoder,
    *,
    level: str,
    layer_count: int,
    tokens: int,
    done: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Embeddings float32 [cells, D] in the order of `cells`: the <cls> row, or the mean over the rows of genes.

    `done` is told how many cells each batch held.
    """
    check_level(level, cells.framed)
    order = np.argsort(-cells.lengths, kind="stable")
    lengths = cells.lengths[order]
    arrays = original_lists(cells.offsets[:-1][order], lengths, lengths, cells.framed)
    out = np.empty((len(cells), encoder.width), np.float32)

    def pooled(block: Batch, hidden: torch.Tensor) -> np.ndarray:
        return (hidden if level == "cls" else pool(hidden, block.runs, cells.framed)).float().cpu().numpy()

    parts = batches(torch.tensor(cells.ids), arrays, tokens)
    row = 0
    for vectors in encoder.map(parts, pooled, layers=layer_count, first_rows=level == "cls"):
        out[order[row : row + len(vectors)]] = vectors
        row += len(vectors)
        done(len(vectors))
    return out


def pool(hidden_TD: torch.Tensor, runs: list[tuple[int, int]], framed: bool) -> torch.Tensor:
    """Mean over the rows of genes of every list, specials left out (PS 3.2): (T, D) -> (P, D)."""
    parts, row = [], 0
    for count, n in runs:
        rows = hidden_TD[row : row + count * n].view(count, n, -1)
        parts.append((rows[:, 1:-1] if framed else rows).mean(1))
        row += count * n
    return torch.cat(parts)
