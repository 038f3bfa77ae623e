"""Attention networks: how much genes attend to each other, added up over cells into directed edges.

One head of one layer of one cell is in memory at a time, beside sums over pairs of genes whose size is known, and refused
above a limit, before anything runs (measured in docs/embeddings.md). Specials take their part of the attention and are in
no edge; nor is a gene with itself.

Shapes: N places of a cell, D hidden size, C channels (layer, head), G genes, E edges.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch

from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import original_lists
from rankshift.screen.encoder.batches import Batch, batches
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import Vocabulary

RANKINGS = ("mean", "max", "mean_both", "max_both")
PAIR_BYTES, CHANNEL_BYTES = 4, 20  # together; total and squares (float64), largest (float32)
BLOCK_TOKENS = 4096  # rows that go through the layers together: one long cell, or some short ones
ROWS = 256  # source genes whose edges are sorted together


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Whose attention is added up. layers: numbers of encoder layers, from 0, ascending.

    per_head: every head by itself beside all of them together. full_length: weights are multiplied by the cell's length
    over this, None for weights as they are; a cell of n places spreads 1 over n of them, so long cells have small weights.
    """

    layers: tuple[int, ...]
    per_head: bool = False
    full_length: int | None = None

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers {self.layers} are not ascending numbers")

    def channels(self, heads: int) -> list[tuple[int, int | None]]:
        """(layer, head) of every channel of a model of so many heads; head None: all together."""
        return [(layer, head) for layer in self.layers for head in (None, *(range(heads) if self.per_head else ()))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which edges to keep: of pairs that share `min_cells` cells or more, the `top` best by `rank_by`.

    top counts per source gene, with `overall` in all, each for every channel. Few cells say little about a pair: the
    default is that of `rankshift stats`.
    """

    min_cells: int = 10
    top: int = 20
    overall: bool = False
    rank_by: str = "mean"

    def __post_init__(self) -> None:
        for name in ("min_cells", "top"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give at least 1")
        if self.rank_by not in RANKINGS:
            raise InputError(f"--rank-by {self.rank_by!r} is unknown: use one of {', '.join(RANKINGS)}")


class PairSums:
    """Sums over cells per channel and directed pair of genes: source (query), target (key).

    genes: int [G] ascending tokens. total, squares: float64 [C, G, G], sums of the weight and of its square; where all
    heads go together, the weight is their mean. largest: float32 [C, G, G], over cells and heads. together: int32 [G, G],
    cells that have both.
    """

    def __init__(self, genes: np.ndarray, channels: list[tuple[int, int | None]]) -> None:
        self.genes, self.channels = genes, channels
        shape = (len(channels), len(genes), len(genes))
        self.total, self.squares = np.zeros(shape), np.zeros(shape)
        self.largest = np.zeros(shape, np.float32)
        self.together = np.zeros(shape[1:], np.int32)

    def merge(self, other: "PairSums") -> None:
        """Add the sums of other cells over the same genes and channels."""
        self.total += other.total
        self.squares += other.squares
        np.maximum(self.largest, other.largest, out=self.largest)
        self.together += other.together


def check_size(genes: int, channels: int, limit: int) -> None:
    """Refuse sums of more than `limit` bytes; they take genes² x (20 bytes a channel + 4)."""
    held = genes**2 * (CHANNEL_BYTES * channels + PAIR_BYTES)
    if held > limit:
        most = int((limit / (CHANNEL_BYTES * channels + PAIR_BYTES)) ** 0.5)
        raise InputError(
            f"sums over pairs of {genes} genes in {channels} layers and heads take {held / 2**30:.3g} GiB, the limit is "
            f"{limit / 2**30:.3g} ({most} genes): name fewer with --genes, raise --min-cells, or raise --memory"
        )


def frequent(cells: Cells, genes: np.ndarray, least: int) -> np.ndarray:
    """Those of `genes` that `least` cells have: the others are in no pair that so many cells have."""
    owner = np.repeat(np.arange(len(cells)), cells.lengths)
    pairs = np.unique(np.stack([cells.ids, owner]), axis=1)[0]
    count = np.bincount(pairs, minlength=int(genes.max(initial=0)) + 1)[genes]
    if (count >= least).sum() < 2:
        raise InputError(
            f"no two of the {len(genes)} genes are in {least} of the {len(cells)} cells: lower --min-cells, or take more cells"
        )
    return genes[count >= least]


def pair_sums(
    cells: Cells,
    encoder: Encoder,
    heads: Heads,
    genes: np.ndarray,
    *,
    done: Callable[[int], None] = lambda n: None,
) -> PairSums:
    """Attention between `genes` (ascending tokens) added up over the cells. `done` is told of cells.

    Of a gene that is twice in a list the first place counts. Batches do not change what a cell adds.
    """
    # Late: the loops are compiled by numba, an extra, and only an attention network needs it.
    from rankshift.screen.embed.attention_loop import add_pairs, count_pairs

    channels = heads.channels(encoder.heads)
    out = PairSums(genes, channels)
    row_of = {channel: i for i, channel in enumerate(channels)}
    order = np.argsort(-cells.lengths, kind="stable")
    lengths = cells.lengths[order]
    arrays = original_lists(cells.offsets[:-1][order], lengths, lengths, cells.frame)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for block in batches(torch.tensor(cells.ids), arrays, BLOCK_TOKENS):
            lists = [_places(cells.ids[b : b + n], genes) for b, n in _spans(block)]
            for gene, _ in lists:
                list(pool.map(lambda part, g=gene: count_pairs(out.together, g, *part), _stripes(len(gene), threads)))
            for layer, x_TD in enumerate(encoder.layer_inputs(block, heads.layers[-1] + 1)):
                if layer not in heads.layers:
                    continue
                for (gene, place), rows_ND in zip(lists, x_TD.split(block.arrays.length.tolist()), strict=True):
                    scale = 1.0 if heads.full_length is None else len(rows_ND) / heads.full_length
                    for head, mean, top in _weights(encoder, layer, rows_ND, heads.per_head):
                        at = row_of[layer, head]
                        sums = (out.total[at], out.squares[at], out.largest[at], gene, place)
                        list(
                            pool.map(
                                lambda part, s=sums, m=mean, t=top, f=scale: add_pairs(*s, m, t, f, *part),
                                _stripes(len(gene), threads),
                            )
                        )
            done(len(lists))
    return out


def _spans(block: Batch) -> list[tuple[int, int]]:
    return list(zip(block.arrays.base.tolist(), block.arrays.length.tolist(), strict=True))


def _places(ids: np.ndarray, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the sums and places in the cell, int64 [n], of the genes that the cell has, by row."""
    token, place = np.unique(ids, return_index=True)
    row = np.searchsorted(genes, token).clip(max=len(genes) - 1)
    there = genes[row] == token
    return row[there], place[there]


def _stripes(n: int, threads: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, n, threads + 1).astype(int).tolist()
    return list(pairwise(edges))


@torch.inference_mode()
def _weights(
    encoder: Encoder, layer: int, rows_ND: torch.Tensor, per_head: bool
) -> Iterator[tuple[int | None, np.ndarray, np.ndarray]]:
    """(head, weights, weights) of each head if asked, then (None, mean over heads, maximum over heads), float32 [N, N]."""
    mean: torch.Tensor | None = None
    top: torch.Tensor | None = None
    for head, weight in enumerate(encoder.attention(layer, rows_ND)):
        if per_head:
            one = weight.cpu().numpy()
            yield head, one, one
        mean = weight.clone() if mean is None else mean.add_(weight)
        top = weight if top is None else torch.maximum(top, weight, out=top)
    assert mean is not None
    assert top is not None
    yield None, mean.div_(encoder.heads).cpu().numpy(), top.cpu().numpy()


def edges(sums: PairSums, choice: Choice, vocabulary: Vocabulary, last_layer: int) -> Iterator[pa.Table]:
    """The chosen edges, channel by channel; sources in the order of tokens, each one's targets from the best.

    layer: 0 for layer number `last_layer`, -1 for the one before. head: empty for all together. source, target and their
    symbols. cells: that have both. sum, sum_squares, max over cells; mean and sd per cell; mean_both, max_both: of the
    two directions. With `overall`, best first within a channel.
    """
    for at, (layer, head) in enumerate(sums.channels):
        source, target, value = _ranked(sums, at, choice)
        if choice.overall:
            best = np.argsort(-value, kind="stable")[: choice.top]
            source, target = source[best], target[best]
        yield _table(sums, at, source, target, layer - last_layer, head, vocabulary)


def _ranked(sums: PairSums, at: int, choice: Choice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source, target and rank value of the `top` best edges of every source gene."""
    found = []
    for first in range(0, len(sums.genes), ROWS):
        rows = slice(first, first + ROWS)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = _value(sums, at, rows, choice.rank_by)
        value[sums.together[rows] < choice.min_cells] = -np.inf
        own = np.arange(len(value))
        value[own, first + own] = -np.inf
        best = np.argsort(-value, axis=1, kind="stable")[:, : choice.top]
        kept = np.take_along_axis(value, best, 1)
        some, rank = np.nonzero(kept > -np.inf)
        found.append((first + some, best[some, rank], kept[some, rank]))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def _value(sums: PairSums, at: int, rows: slice, rank_by: str) -> np.ndarray:
    """What edges are ranked by, float64 [rows, G]; pairs that no cell has are not numbers."""
    total, largest = sums.total[at], sums.largest[at]
    if rank_by == "mean":
        return np.asarray(total[rows] / sums.together[rows])
    if rank_by == "mean_both":
        return np.asarray((total[rows] + total[:, rows].T) / (2 * sums.together[rows]))
    return (largest[rows] if rank_by == "max" else np.maximum(largest[rows], largest[:, rows].T)).astype(float)


def _table(
    sums: PairSums,
    at: int,
    source: np.ndarray,
    target: np.ndarray,
    layer: int,
    head: int | None,
    vocabulary: Vocabulary,
) -> pa.Table:
    n = sums.together[source, target]
    total, squares, largest = (x[at][source, target] for x in (sums.total, sums.squares, sums.largest))
    back, back_largest = (x[at][target, source] for x in (sums.total, sums.largest))
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = np.sqrt(np.maximum(squares - total**2 / n, 0) / (n - 1))

    def named(which: list, rows: np.ndarray) -> pa.Array:
        return pa.array([which[token] for token in sums.genes[rows].tolist()], pa.string())

    return pa.table(
        {
            "layer": pa.array(np.full(len(n), layer), pa.int32()),
            "head": pa.array([head] * len(n), pa.int32()),
            "source": named(vocabulary.ensembl_id, source),
            "source_symbol": named(vocabulary.symbol, source),
            "target": named(vocabulary.ensembl_id, target),
            "target_symbol": named(vocabulary.symbol, target),
            "cells": pa.array(n, pa.int32()),
            "mean": pa.array((total / n).astype(np.float32)),
            "sd": pa.array(sd.astype(np.float32), mask=n < 2),
            "max": pa.array(largest),
            "mean_both": pa.array(((total + back) / (2 * n)).astype(np.float32)),
            "max_both": pa.array(np.maximum(largest, back_largest)),
            "sum": pa.array(total),
            "sum_squares": pa.array(squares),
        }
    )
