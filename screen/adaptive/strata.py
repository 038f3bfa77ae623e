"""What is drawn in an adaptive screen: the pilot's rows, the audited genes, the blocks of cells. No stream is drawn from.

Each number is a hash of the seed and of the names of cell and gene (splitmix64), so that it depends on no order, no worker and
no other draw:

    u(seed, a, b) = mix(a * P1 xor b * P2 xor (seed * P3 + P4)) / 2^64,   mix: two rounds of x = (x xor x >> s) * k
"""

import numpy as np

from rankshift.screen.adaptive.population import Population

PRIMES = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5
ROUNDS = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)  # shift and factor, of splitmix64
CELL_DRAW, GENE_DRAW = 2**40, 2**41  # second names of draws that are about a cell or a gene alone
BLOCKS = (1 / 8, 1 / 8, 1 / 4, 1 / 2)  # shares of the cells; more blocks save nothing, one costs up to twice as much
AUDITED, AUDITED_LEAST = 40, 20  # genes; the least where 2 % of all are fewer


def drawn(seed: int, a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    """float64 in [0, 1), for every pair of names uint64.

    >>> drawn(0, np.array([1, 2], np.uint64), np.uint64(7)).round(6).tolist()
    [0.450849, 0.92602]
    """
    p1, p2, p3, p4 = PRIMES
    x = np.asarray(a, np.uint64) * np.uint64(p1) ^ np.asarray(b, np.uint64) * np.uint64(p2)
    x = x ^ np.uint64((seed * p3 + p4) % 2**64)
    for shift, factor in ROUNDS:
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2**53


def pilot(of: Population, seed: int, strata: int) -> np.ndarray:
    """bool [N]: in every cell about `strata` runs of its genes by rank, and of each the gene of lowest hash.

    Strata are even in the square root of the place, so narrower at the front, where shifts differ most. Twice as many strata
    halve them, so that the larger pilot holds the smaller one. Genes that a cell lacks get strata in proportion.
    """
    u = drawn(seed, of.cell_key[of.cell], of.gene_key[of.gene])
    order = np.lexsort((u, of.rank, of.absent, of.cell))
    cell = of.cell[order]
    count = np.bincount(cell, minlength=of.cells)
    here = np.bincount(cell, ~of.absent[order], of.cells).astype(np.int64)
    place = np.arange(len(order)) - (np.cumsum(count) - count)[cell]
    lacking = count - here
    some = np.where(
        lacking == 0,
        strata,
        np.where(here == 0, 0, np.clip(np.rint(strata * here / np.maximum(count, 1)), 1, strata - 1)),
    )
    front = np.sqrt((place + 0.5) / np.maximum(here, 1)[cell])
    behind = (place - here[cell] + 0.5) / np.maximum(lacking, 1)[cell]
    present = place < here[cell]
    stratum = np.where(present, np.floor(front * some[cell]), some[cell] + np.floor(behind * (strata - some[cell])))
    key = cell.astype(np.int64) * strata + stratum.astype(np.int64)
    by_stratum = np.lexsort((u[order], key))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(key[by_stratum]) != 0
    out = np.zeros(len(of), bool)
    out[order[by_stratum[first]]] = True
    return out


def audited(of: Population, seed: int) -> np.ndarray:
    """bool [G]: genes of lowest hash, which are measured in all their cells whatever the pilot says of them."""
    some = min(AUDITED, max(AUDITED_LEAST, of.genes // 50), of.genes)
    out = np.zeros(of.genes, bool)
    out[np.lexsort((of.gene_key, drawn(seed, of.gene_key, GENE_DRAW)))[:some]] = True
    return out


def blocks(of: Population, seed: int) -> np.ndarray:
    """int64 [C]: the block of every cell. Every stratum gives each block its share."""
    u = drawn(seed, of.cell_key, CELL_DRAW)
    order = np.lexsort((of.cell_key, u, of.stratum))
    _, first, count = np.unique(of.stratum[order], return_index=True, return_counts=True)
    place = np.empty(of.cells)
    place[order] = (np.arange(of.cells) - np.repeat(first, count) + 0.5) / np.repeat(count, count)
    return np.searchsorted(np.cumsum(BLOCKS)[:-1], place, side="right")
