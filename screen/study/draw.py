"""Which cells of a cohort are judged and which are learnt from, drawn by a seed.

Every donor gives the same number of analysis cells of a label where it has them, so that none decides by its size. What
remains is the training pool, capped per donor.
"""

from dataclasses import dataclass

import numpy as np

from rankshift.screen.errors import InputError

ANALYSIS, POOL = "analysis", "pool"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """row: int64 [m], cells of the cohort in rising order; role: str [m], ANALYSIS or POOL."""

    row: np.ndarray
    role: np.ndarray


def draw(label: np.ndarray, donor: np.ndarray, *, cells_per_donor: int, pool_per_donor: int, seed: int) -> Draw:
    """Draw from cells with texts of label [n] and donor [n]; cells without label (None) are left out.

    Of every donor and label, `cells_per_donor` analysis cells, or half of what there is where that is less (rounded up: a
    donor of one cell is judged, not learnt from); then at most `pool_per_donor` for the pool. A donor's draw depends on the
    seed, its own cells and its name, so that adding a donor changes no other donor's cells.
    """
    for name, value in (("cells-per-donor", cells_per_donor), ("pool-per-donor", pool_per_donor)):
        if value < 1:
            raise InputError(f"--{name} is {value}: give at least 1")
    known = np.flatnonzero(np.array([text is not None for text in label], bool))
    pairs = np.array([f"{label[i]}\0{donor[i]}" for i in known], dtype=str)
    names, number = np.unique(pairs, return_inverse=True)
    order = known[np.argsort(number, kind="stable")]
    rows, roles = [], []
    for name, own in zip(names.tolist(), np.split(order, np.cumsum(np.bincount(number))[:-1]), strict=True):
        mixed = np.random.default_rng([seed, *name.encode()]).permutation(own)
        judged = min(cells_per_donor, (len(own) + 1) // 2)
        taken = mixed[: judged + pool_per_donor]
        rows.append(taken)
        roles += [ANALYSIS] * judged + [POOL] * (len(taken) - judged)
    if not rows:
        raise InputError("no cell has a label: there is nothing to draw from")
    row = np.concatenate(rows)
    order = np.argsort(row)
    return Draw(row=row[order].astype(np.int64), role=np.array(roles, dtype=object)[order])
