"""Where each perturbed gene stood in its cell, and what the same cell's other genes near that rank did.

A shift depends on the cell it was measured in and on the rank of the gene: edits near the top move more tokens and more
weight. The adjusted value is what remains of it after both. Joint perturbations have no single rank and are refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankshift.screen.cells.ragged import offsets_of, places_of
from rankshift.screen.runs import layout
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.grouped import chunks, grouped_counts, places_by_group
from rankshift.screen.stats.observations import Observations

CELLS = 512  # cells read and adjusted at a time
NEAREST, FARTHEST = 16, 128  # genes on either side that make the trend: a quarter of the rank, within these bounds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InCells:
    """For N rows and G perturbations (as in `Observations`): rank and adjusted value per row, detection per gene.

    rank: int32 [N], 1 for the top gene of the cell, 0 where the cell's list has no such gene. adjusted: float32 [N], NaN
    where there is no rank or no other gene. detected: int64 [G], cells whose list has the gene.
    removed: share of the variance of the values that went with (the cell, the cell and the trend over rank).
    """

    rank: np.ndarray
    adjusted: np.ndarray
    detected: np.ndarray
    removed: tuple[float, float]


def single_genes(seen: Observations) -> bool:
    """Is every perturbation of one gene?"""
    return bool(pc.all(pc.equal(pc.list_value_length(seen.perturbations["tokens"]), 1)).as_py())


def in_cells(run: Run, seen: Observations, values: np.ndarray) -> InCells:
    """Ranks of the perturbed genes, and `values` float32 [N] adjusted by cell and rank.

    From each value the prediction of a straight line over log2 rank is taken, fitted to the values of the same cell's genes
    within NEAREST to FARTHEST places on either side (a quarter of the rank), itself left out (local regression with a
    uniform kernel; Cleveland, 1979).
    """
    token = seen.perturbations["tokens"].combine_chunks().flatten().to_numpy()
    gene_of = np.full(int(token.max()) + 2, -1, np.int32)  # the last place stands for every token above
    gene_of[token] = np.arange(len(token), dtype=np.int32)
    frame = run.manifest.perturb.frame
    order, offsets = by_cell(seen)
    rank, adjusted = np.zeros(len(seen), np.int32), np.full(len(seen), np.nan, np.float32)
    detected = np.zeros(len(token), np.int64)
    mean = float(values.mean(dtype=np.float64))
    left = np.zeros(3)  # sums of squares: of the values, after the cell, after cell and rank
    for first, ids, size in lists_of(run):
        rows = order[offsets[first] : offsets[first + len(size)]]
        place = np.full((len(size), len(token)), -1, np.int32)  # row of a gene in a cell
        place[seen.cell[rows] - first, seen.gene[rows]] = rows
        cell = np.repeat(np.arange(len(size), dtype=np.int32), size)
        position = places_of(size)
        gene = gene_of[np.minimum(ids, len(gene_of) - 1)]
        detected += np.bincount(gene[gene >= 0], minlength=len(token))
        row = np.where(gene >= 0, place[cell, gene], -1)
        there = row >= 0
        row, cell, position = row[there], cell[there], frame.rank(position[there])
        rank[row[::-1]] = position[::-1]  # if a gene stands twice, its first place counts
        once = rank[row] == position
        row, cell, position = row[once], cell[once], position[once]
        y = values[row].astype(np.float64)
        centred, residual = adjust(cell, np.log2(position), y)
        adjusted[row] = residual
        fine = ~np.isnan(residual)
        left += [((y[fine] - mean) ** 2).sum(), (centred[fine] ** 2).sum(), (residual[fine] ** 2).sum()]
    share = 1 - left[1:] / left[0] if left[0] > 0 else np.full(2, np.nan)
    return InCells(rank=rank, adjusted=adjusted, detected=detected, removed=(float(share[0]), float(share[1])))


def adjust(cell: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y minus the mean of the cell's other values, and minus the local line through them; float64 [M], NaN without others.

    cell int [M] must not fall, x float64 [M] must not fall within a cell.

    >>> _, rest = adjust(np.zeros(9, int), np.arange(9.0), 3 + 2 * np.arange(9.0))
    >>> bool(np.abs(rest).max() < 1e-9)
    True
    """
    count = np.bincount(cell) if len(cell) else np.zeros(1, np.int64)
    end = np.cumsum(count)[cell]
    begin = end - count[cell]
    at = np.arange(len(y))
    others = count[cell] - 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = y - (np.bincount(cell, weights=y)[cell] - y) / others
    half = np.clip((at - begin + 1) // 4, NEAREST, FARTHEST)
    low, high = np.maximum(begin, at - half), np.minimum(end, at + half + 1)

    def near(value: np.ndarray) -> np.ndarray:
        """Sum over the neighbours, the gene itself left out."""
        running = np.concatenate([[0.0], np.cumsum(value)])
        return running[high] - running[low] - value

    n = high - low - 1.0
    sx, sy, sxx, sxy = near(x), near(y), near(x * x), near(x * y)
    across = n * sxx - sx * sx  # n^2 times the variance of x among the neighbours
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where((n > 2) & (across > 1e-9 * n * sxx), (n * sxy - sx * sy) / across, 0.0)
        residual = y - (sy - slope * sx) / n - slope * x
    return centred, np.where(n > 0, residual, np.nan)


def by_cell(seen: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Rows sorted by cell, then gene: int32 [N], int64 of more than 2**31; and where each cell begins in them, [C + 1]."""
    count = grouped_counts(seen.cell, seen.cells)
    place = places_by_group(seen.cell, count)
    rows = np.empty_like(place)
    for some in chunks(len(seen)):
        rows[place[some]] = np.arange(some.start, some.stop)
    return rows, offsets_of(count)


def lists_of(run: Run) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First cell, tokens one list after the other, and lengths, of CELLS cells at a time."""
    first = 0
    for batch in pq.ParquetFile(run.path / layout.CELLS).iter_batches(CELLS, columns=["input_ids"]):
        lists = batch.column(0)
        size = pc.list_value_length(lists).to_numpy()
        yield first, lists.flatten().to_numpy(), size
        first += batch.num_rows
