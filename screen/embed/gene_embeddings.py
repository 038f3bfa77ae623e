"""Embeddings of genes: the hidden states of a gene in all the cells that have it, and their mean or median.

It keeps sums, not cells: memory is groups x genes x width, except for the median, which needs every value and refuses to
hold more than `HELD_BYTES`. Sums of parts of the cells add up to those of all, so workers can share the cells.

Shapes: T rows of a block, G genes, S groups of cells, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.embed.cell_embeddings import original_lists
from rankshift.screen.encoder.batches import Batch, batches
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError

HELD_BYTES = 2**32  # bytes of sums (for medians, of values) that a laptop can hold beside the model


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class GeneRows:
    """Hidden states of consecutive places of cells. cell, place, token: int [T]. hidden: float32 [T, D]."""

    cell: np.ndarray
    place: np.ndarray
    token: np.ndarray
    hidden: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class GeneVectors:
    """One vector per gene and group of cells that has it, by gene, then group.

    token [n]: the gene. group [n]: the group, or -1 for all cells, which come first. cells [n]: how many hold the gene (a
    gene twice in a list counts twice). vectors: float32 [n, D].
    """

    token: np.ndarray
    group: np.ndarray
    cells: np.ndarray
    vectors: np.ndarray


class GeneSums:
    """Sums of hidden states per group of cells and gene. genes: int [G] ascending tokens. sums: [S, G, D], count: [S, G].

    Sums are float64, so that no number of cells makes the order of adding visible in a float32 mean.
    """

    def __init__(self, genes: np.ndarray, groups: int, width: int) -> None:
        held = groups * len(genes) * width * 8
        if held > HELD_BYTES:
            raise InputError(
                f"sums of {len(genes)} genes x {groups} groups x {width} dimensions are {held / 2**30:.1f} GiB, the limit is "
                f"{HELD_BYTES / 2**30:.0f}: name fewer with --genes, or a --by of fewer values"
            )
        self.genes = genes
        self.sums = np.zeros((groups, len(genes), width))
        self.count = np.zeros((groups, len(genes)), np.int64)

    def add(self, token: np.ndarray, group: np.ndarray, hidden: np.ndarray) -> None:
        """Add rows: token, group [T], hidden [T, D]."""
        slot = group * len(self.genes) + np.searchsorted(self.genes, token)
        sums = torch.from_numpy(self.sums).view(-1, hidden.shape[1])
        sums.index_add_(0, torch.from_numpy(slot), torch.from_numpy(hidden).double())
        self.count += np.bincount(slot, minlength=self.count.size).reshape(self.count.shape)

    def merge(self, other: "GeneSums") -> None:
        """Add the sums of other cells over the same genes and groups."""
        self.sums += other.sums
        self.count += other.count

    def means(self) -> GeneVectors:
        """Mean per gene over all cells, and per group where there are several."""
        sums, count, group = self.sums, self.count, np.arange(len(self.count))
        if len(count) > 1:
            sums, count = np.concatenate([sums.sum(0)[None], sums]), np.concatenate([count.sum(0)[None], count])
            group = np.concatenate([[-1], group])
        else:
            group = np.array([-1])
        gene, row = np.nonzero(count.T)
        n = count[row, gene]
        vectors = (sums[row, gene] / n[:, None]).astype(np.float32)
        return GeneVectors(token=self.genes[gene], group=group[row], cells=n, vectors=vectors)


def gene_rows(cells: Cells, encoder: Encoder, *, layer_count: int, tokens: int) -> Iterator[GeneRows]:
    """The hidden states of every place of every cell, block by block, cells in their order."""
    arrays = original_lists(cells.offsets[:-1], cells.lengths, cells.lengths, cells.frame)

    def row(block: Batch, hidden: torch.Tensor) -> GeneRows:
        base, length = block.arrays.base, block.arrays.length
        at = np.concatenate([np.arange(b, b + n) for b, n in zip(base.tolist(), length.tolist(), strict=True)])
        cell = np.repeat(np.searchsorted(cells.offsets, base, side="right") - 1, length)
        return GeneRows(
            cell=cell, place=at - cells.offsets[cell], token=cells.ids[at], hidden=hidden.float().cpu().numpy()
        )

    yield from encoder.map(batches(torch.tensor(cells.ids), arrays, tokens), row, layers=layer_count)


def gene_sums(
    cells: Cells,
    encoder: Encoder,
    *,
    genes: np.ndarray,
    layer_count: int,
    tokens: int,
    group: np.ndarray | None = None,
    groups: int = 1,
    done: Callable[[int], None] = lambda n: None,
) -> GeneSums:
    """Sums of the hidden states of `genes` (ascending tokens; specials, too, if named) over the cells of each group.

    group: int [cells], the group of each cell of 0..groups-1; None for one group. `done` is told of cells.
    """
    out = GeneSums(genes, groups, encoder.hidden_size)
    for token, of, hidden in _wanted(cells, encoder, genes, layer_count, tokens, group, done):
        out.add(token, of, hidden)
    return out


def gene_medians(
    cells: Cells,
    encoder: Encoder,
    *,
    genes: np.ndarray,
    layer_count: int,
    tokens: int,
    group: np.ndarray | None = None,
    groups: int = 1,
    done: Callable[[int], None] = lambda n: None,
) -> GeneVectors:
    """As the means of `gene_sums`, with the median of each dimension, the lower middle value of an even number.

    It is exact and so holds every hidden state of the genes; more than `HELD_BYTES` of them are refused.
    """
    slot = np.searchsorted(genes, cells.ids)
    there = _are(genes, cells.ids)
    held = int(there.sum()) * encoder.hidden_size * 4
    if held > HELD_BYTES:
        raise InputError(
            f"an exact median holds {held / 2**30:.1f} GiB of hidden states, the limit is {HELD_BYTES / 2**30:.0f}: use "
            "--summary mean, or fewer cells (--max-cells) or genes (--genes)"
        )
    of_cell = np.zeros(len(cells), np.int64) if group is None else group
    key = slot[there] * groups + np.repeat(of_cell, cells.lengths)[there]  # by gene, then group
    count = np.bincount(key, minlength=len(genes) * groups)
    free = offsets_of(count)[:-1]
    values = np.empty((len(key), encoder.hidden_size), np.float32)
    for token, of, hidden in _wanted(cells, encoder, genes, layer_count, tokens, group, done):
        key = np.searchsorted(genes, token) * groups + of
        order = np.argsort(key, kind="stable")
        key = key[order]
        values[free[key] + np.arange(len(key)) - np.searchsorted(key, key)] = hidden[order]
        free += np.bincount(key, minlength=len(free))
    return _medians(genes, count.reshape(len(genes), groups), values)


def _medians(genes: np.ndarray, count_GS: np.ndarray, values: np.ndarray) -> GeneVectors:
    token, group, cells, vectors = [], [], [], []

    def keep(g: int, s: int, some: np.ndarray) -> None:
        token.append(genes[g])
        group.append(s)
        cells.append(len(some))
        vectors.append(np.partition(some, (len(some) - 1) // 2, axis=0)[(len(some) - 1) // 2])

    end = np.cumsum(count_GS).reshape(count_GS.shape)
    begin = end - count_GS
    for g in np.flatnonzero(count_GS.any(1)).tolist():
        keep(g, -1, values[begin[g, 0] : end[g, -1]])
        if count_GS.shape[1] > 1:
            for s in np.flatnonzero(count_GS[g]).tolist():
                keep(g, s, values[begin[g, s] : end[g, s]])
    return GeneVectors(
        token=np.array(token), group=np.array(group), cells=np.array(cells), vectors=np.array(vectors, np.float32)
    )


def _wanted(
    cells: Cells,
    encoder: Encoder,
    genes: np.ndarray,
    layer_count: int,
    tokens: int,
    group: np.ndarray | None,
    done: Callable[[int], None],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Token, group and hidden state of the rows that are of `genes`."""
    for rows in gene_rows(cells, encoder, layer_count=layer_count, tokens=tokens):
        keep = _are(genes, rows.token)
        of = np.zeros(len(rows.cell), np.int64) if group is None else group[rows.cell]
        yield rows.token[keep], of[keep], rows.hidden[keep]
        done(len(np.unique(rows.cell)))


def _are(genes: np.ndarray, token: np.ndarray) -> np.ndarray:
    """bool: which tokens are of `genes`, ascending."""
    at = np.searchsorted(genes, token).clip(max=len(genes) - 1)
    return np.asarray(genes[at] == token)


def genes_of(cells: Cells, is_gene: np.ndarray, wanted: Sequence[int] | None = None) -> np.ndarray:
    """The genes of the cells, ascending; with `wanted` only those among it. Raises InputError when there is none."""
    found = np.unique(cells.ids)
    found = found[is_gene[found]]
    if wanted is not None:
        found = np.intersect1d(found, np.asarray(wanted, found.dtype))
        if not len(found):
            raise InputError(f"none of the {len(wanted)} genes of --genes is in any cell: name others")
    return found
