"""The compiled loops of sums over pairs of genes, for numba; `attention` calls them and says what they compute.

Rows first..last-1 only, so that threads can share the rows: no two of them write to the same place.
"""

import numpy as np

from rankshift.screen.tokenizer.rank_value_loop import compiled


@compiled
def add_pairs(
    total: np.ndarray,
    squares: np.ndarray,
    largest: np.ndarray,
    gene: np.ndarray,
    place: np.ndarray,
    mean: np.ndarray,
    top: np.ndarray,
    scale: float,
    first: int,
    last: int,
) -> None:
    """Add one cell's weights, times scale, to the sums of its pairs of genes.

    total, squares float64, largest float32 [G, G]. gene, place int64 [n]: rows of the sums, and where in the cell they are,
    each gene once. mean goes into total and squares, top into largest: float32 [N, N] over the places of the cell.
    """
    for a in range(first, last):
        i, p = gene[a], place[a]
        for b in range(len(gene)):
            j, q = gene[b], place[b]
            value = mean[p, q] * scale
            total[i, j] += value
            squares[i, j] += value * value
            largest[i, j] = max(largest[i, j], np.float32(top[p, q] * scale))


@compiled
def count_pairs(together: np.ndarray, gene: np.ndarray, first: int, last: int) -> None:
    """Count one cell for its pairs of genes: together int32 [G, G], gene int64 [n]."""
    for a in range(first, last):
        for b in range(len(gene)):
            together[gene[a], gene[b]] += 1
