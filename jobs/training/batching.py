"""Batches of cells of like length, anew in every epoch: seeded, and the same whoever trains.

It knows neither masks nor labels.
"""

import math
from functools import cached_property

import numpy as np

MEGA = 50  # batches that are sorted by length together: padding falls from 42 % to 1.4 % (TS 2.4)


class EpochBatches:
    """The batches of every epoch, by number of rows in a table; those of the epoch under way are kept.

    rows: of the table. lengths: of all its cells. tokens: places of a batch at most. seed: the epoch is added to it.
    epochs: the last may be a part of one, whose first batches are taken.
    """

    def __init__(
        self, rows: np.ndarray, lengths: np.ndarray, tokens: int, seed: tuple[int, ...], epochs: float
    ) -> None:
        self._rows, self._lengths, self._tokens, self._seed, self._epochs = rows, lengths, tokens, seed, epochs
        self._epoch, self._batches = -1, list[np.ndarray]()

    @cached_property
    def steps(self) -> list[int]:
        """Batches of each epoch.

        >>> EpochBatches(np.arange(10), np.full(10, 5), 10, (0,), 1.5).steps
        [5, 3]
        """
        shares = [min(1.0, self._epochs - epoch) for epoch in range(math.ceil(self._epochs))]
        return [math.ceil(share * len(self.of(epoch))) for epoch, share in enumerate(shares)]

    def batch(self, epoch: int, index: int) -> np.ndarray:
        """The rows of a batch."""
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self.of(epoch)
        return self._batches[index]

    def of(self, epoch: int) -> list[np.ndarray]:
        """All batches of an epoch."""
        return length_batches(self._rows, self._lengths, self._tokens, (*self._seed, epoch))


def length_batches(rows: np.ndarray, lengths: np.ndarray, tokens: int, seed: tuple[int, ...]) -> list[np.ndarray]:
    """All `rows` in random batches of at most `tokens` places (at least one cell) with little padding; the longest first.

    Stretches of MEGA batches of a random order are sorted by length and cut, then the batches are shuffled. The longest
    comes first because it needs the most memory. lengths [cells].

    >>> [sorted(b.tolist()) for b in length_batches(np.arange(4), np.array([5, 9, 5, 9]), 18, (0,))]
    [[1, 3], [0, 2]]
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    stretch = max(1, int(MEGA * tokens / lengths[rows].mean()))
    batches = []
    for first in range(0, len(order), stretch):
        some = order[first : first + stretch]
        some = some[np.argsort(-lengths[some], kind="stable")]
        while len(some):
            fit = max(1, tokens // int(lengths[some[0]]))
            batches.append(some[:fit])
            some = some[fit:]
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i][0]])
    rest = [i for i in rng.permutation(len(batches)) if i != longest]
    return [batches[i] for i in (longest, *rest)]
