"""Cells as they are: the packed originals that perturbed lists are compared with, and embeddings of whole cells."""

from collections.abc import Callable

import numpy as np
import torch

from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.encoder.batches import ListArrays
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.encoder.pooling import Pooling
from rankshift.screen.errors import InputError
from rankshift.screen.families.operators import DELTA
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.edits import cut

LEVELS = ("cell", "cls")


def check_alone(dtype: str) -> None:
    """Raise InputError where a dtype is of lists beside their originals: what is embedded stands alone."""
    if dtype.endswith(DELTA):
        raise InputError(
            f"dtype {dtype} multiplies differences of perturbed lists to originals, embedded cells have none: use "
            f"{dtype.removesuffix(DELTA)} or float32"
        )


def original_lists(base: np.ndarray, lengths: np.ndarray, kept: np.ndarray, frame: Frame) -> ListArrays:
    """Lists that are the cells themselves, cut to `kept` rows: what ends a list moves up, the last genes fall off.

    base, lengths, kept [P]: where each cell begins in the packed ids, its rows, the rows to keep.
    """
    steps = cut(lengths, kept, frame)
    partner = offsets_of(kept)[:-1]
    return ListArrays(
        base=base.astype(np.int64),
        base_length=lengths.astype(np.int32),
        partner=partner,
        partner_length=kept.astype(np.int32),
        source=steps[0],
        destination=steps[1],
        token=np.full(steps[0].shape, -1, np.int32),
        length=kept.astype(np.int32),
    )


def check_level(level: str, frame: Frame) -> None:
    """Refuse an embedding that the cells cannot have."""
    if level not in LEVELS:
        raise InputError(f"embedding {level!r} is unknown: use one of {', '.join(LEVELS)}")
    if level == "cls" and not frame.head:
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
    check_level(level, cells.frame)
    order = np.argsort(-cells.lengths, kind="stable")
    lengths = cells.lengths[order]
    arrays = original_lists(cells.offsets[:-1][order], lengths, lengths, cells.frame)
    out = np.empty((len(cells), encoder.hidden_size), np.float32)
    pooling = Pooling(first_row=level == "cls", frame=cells.frame)
    row = 0
    for vectors in encoder.embed(torch.tensor(cells.ids), arrays, pooling, layers=layer_count, tokens=tokens):
        out[order[row : row + len(vectors)]] = vectors
        row += len(vectors)
        done(len(vectors))
    return out
