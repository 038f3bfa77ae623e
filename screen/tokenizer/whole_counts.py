"""Whole counts of cells that were divided by their depth, told from the smallest step of each cell.

Division rounds, and rounding breaks the ties of small counts another way than the counts do, so ranks of divided counts differ
from those of the counts. A cell whose values are no whole numbers of any step (corrected, logged) is left as it is.

Legend: R cells, E stored counts.
"""

import numpy as np

# What two products in float32 and a quotient of two such values are off by, relative, is 4 of its half steps; twice that.
ROUNDING = 8 * 2.0**-24
MOST = 1e5  # steps: beyond, a value of that rounding may be another whole number
SMALLEST = (1, 2, 3)  # counts that a cell's smallest value may stand for


def whole_counts(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, int]:
    """The counts (E,) of R cells, data[offsets[r]:offsets[r + 1]] of cell r, and how many cells were told from their step.

    Data without a fraction, and data that hold no steps, come back as they are.

    >>> whole_counts(np.float32([2, 4, 6]) / np.float32(7), np.array([0, 3]))
    (array([1., 2., 3.], dtype=float32), 1)
    """
    if data.dtype.kind != "f" or not len(data):
        return data, 0
    broken = data != np.rint(data)
    if not broken.any():
        return data, 0
    length = np.diff(offsets)
    filled = np.flatnonzero(length > 0)
    # Cells with a fraction. Empty ones are left out, of which reduceat makes nonsense.
    rows = filled[np.maximum.reduceat(broken, offsets[filled])]
    places = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows])
    values, ends = data[places].astype(np.float64), np.cumsum(length[rows])
    starts = ends - length[rows]
    step = np.minimum.reduceat(np.where(values > 0, values, np.inf), starts)
    steps = values / np.repeat(step, length[rows])
    counts, told = np.empty_like(values), np.zeros(len(rows), bool)
    for smallest in SMALLEST:
        near = np.rint(steps * smallest)
        off = (np.abs(steps * smallest - near) > ROUNDING * near) | (near > MOST)
        fits = ~np.maximum.reduceat(off, starts) & ~told
        here = np.repeat(fits, length[rows])
        counts[here] = near[here]
        told |= fits
    if not told.any():
        return data, 0
    here = np.repeat(told, length[rows])
    whole = data.copy()
    whole[places[here]] = counts[here]
    return whole, int(told.sum())
