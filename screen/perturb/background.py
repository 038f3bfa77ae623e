"""Genes drawn at random beside a list, to hold it against something: of like detection and rank, from the same cells.

A gene that many cells have, or that ranks high, moves an embedding more than others whatever it does; genes that are matched on
both show what a list of genes would do by that alone.
"""

from collections.abc import Sequence

import numpy as np

from rankshift.screen.cells.cells import CellTable, blocks
from rankshift.screen.errors import InputError

NEAREST = 10  # genes among which one is drawn: enough that another seed draws others, few enough to be alike


def background(cells: CellTable, listed: Sequence[int], is_gene: np.ndarray, count: int, seed: int) -> list[int]:
    """`count` tokens of genes that the cells have and the list has not, each drawn among those most like a gene of the list.

    is_gene: bool by token. Like: near in the logarithm of the number of cells that have the gene, and in its mean place in
    their lists (0 the front, 1 the end), each in standard deviations over all genes. Genes of the list take turns; those
    that no cell has are passed over. Raises InputError where the cells have too few other genes, or none of the list.
    """
    detected, place = seen(cells, len(is_gene))
    there = [token for token in dict.fromkeys(listed) if detected[token]]
    if not there:
        raise InputError("no cell has a gene of the list, so there is nothing to match: leave out --background")
    pool = np.setdiff1d(np.flatnonzero(is_gene & (detected > 0)), listed)
    if len(pool) < count:
        raise InputError(f"--background is {count}, the cells have {len(pool)} genes besides the list: ask for fewer")
    point = np.stack([np.log(np.maximum(detected, 1)), place], 1)
    spread = point[detected > 0].std(0)
    point /= np.where(spread > 0, spread, 1.0)
    draw, free, drawn = np.random.default_rng(seed), np.ones(len(pool), bool), []
    for turn in range(count):
        distance = np.linalg.norm(point[pool] - point[there[turn % len(there)]], axis=1)
        nearest = np.argsort(np.where(free, distance, np.inf), kind="stable")[: min(NEAREST, int(free.sum()))]
        chosen = int(draw.choice(nearest))
        free[chosen] = False
        drawn.append(int(pool[chosen]))
    return drawn


def seen(cells: CellTable, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """By token: how many cells have it, int64 [V], and its mean place in their lists, float64 [V], 0 of what none has."""
    detected, total = np.zeros(vocabulary, np.int64), np.zeros(vocabulary)
    for some in blocks(cells):
        size = np.diff(some.offsets)
        place = (np.arange(len(some.ids)) - np.repeat(some.offsets[:-1], size)) / np.repeat(
            np.maximum(size - 1, 1), size
        )
        detected += np.bincount(some.ids, minlength=vocabulary)
        total += np.bincount(some.ids, place, vocabulary)
    return detected, total / np.maximum(detected, 1)
