"""How much of each gene the cells of two states have, from the rank lists alone: the baseline a screen has to beat.

The score of a gene in a cell of n genes is 1 - (rank - 1) / n, from 1 at the top to 1 / n, and 0 where the list lacks it. No
model is asked.
"""

import numpy as np
import pyarrow as pa

from rankshift.screen.cells.cells import CellTable, blocks
from rankshift.screen.cells.ragged import places_of
from rankshift.screen.cells.select import select
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame

SAMPLE = 10_000  # cells of a state at most: their mean score is good to 0.005
BLOCK = 2_000  # cells scored at a time


def rank_score(place: np.ndarray, genes: np.ndarray | int) -> np.ndarray:
    """Score of the gene at `place` (0 the top) of a list of `genes` genes, in the floating type of `place` / `genes`.

    >>> rank_score(np.array([0, 1, 3]), 4).tolist()
    [1.0, 0.75, 0.25]
    """
    return np.asarray(1 - place / genes)


def scores(ids: np.ndarray, size: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell int64, token and score float64 of every gene in lists `ids`, one after the other, of `size` [n] tokens each.

    >>> scores(np.array([7, 5, 9]), np.array([2, 1]), PLAIN)[2].tolist()
    [1.0, 0.5, 1.0]
    """
    cell = np.repeat(np.arange(len(size)), size)
    place = places_of(size)
    if frame.size:
        gene = frame.holds_gene(place, size[cell])
        cell, place, ids = cell[gene], place[gene], ids[gene]
    return cell, ids, rank_score(frame.rank(place) - 1, frame.room(size[cell]))


def state_scores(
    cells: CellTable, vocab_size: int, *, state_key: str, start: str, goal: str, where: str | None = None
) -> pa.Table | None:
    """Per token that occurs: mean score in start and goal cells, and the correlation of the score with being a goal cell.

    Columns token int32, start_score, goal_score, state_correlation float64. None where the table lacks one of the states.
    """
    count, total, square = [], [], []
    for state in (start, goal):
        try:
            rows = select(cells, where=where, state_key=state_key, start=state, max_cells=SAMPLE)
        except InputError:
            return None
        summed = np.zeros((2, vocab_size))
        for some in blocks(cells, rows, BLOCK):
            _, token, score = scores(some.ids, some.lengths, cells.frame)
            summed[0] += np.bincount(token, weights=score, minlength=vocab_size)
            summed[1] += np.bincount(token, weights=score**2, minlength=vocab_size)
        count.append(len(rows))
        total.append(summed[0])
        square.append(summed[1])
    n, share = sum(count), count[1] / sum(count)
    mean = (total[0] + total[1]) / n
    variance = (square[0] + square[1]) / n - mean**2
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (total[1] / n - share * mean) / np.sqrt(variance * share * (1 - share))
    there = np.flatnonzero(mean > 0)
    return pa.table(
        {
            "token": there.astype(np.int32),
            "start_score": (total[0] / count[0])[there],
            "goal_score": (total[1] / count[1])[there],
            "state_correlation": np.where(variance > 1e-12, correlation, np.nan)[there],
        }
    )
