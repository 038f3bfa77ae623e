"""Which test over donors a study has: signed ranks of one value per donor, or ranks between two groups of donors."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from rankshift.screen.study import exact

DRAWS = 4000  # studies drawn to find the power of a test: known to 0.5 %
STEPS = 14
FAR = 40.0  # standard deviations; what even such an effect does not reach cannot be reached


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Design:
    """other: bool [D], donors of the second group, with whose effects those of the first are compared; None for one group.

    Everything here is of values float64 [G, D], NaN where a donor has none.
    """

    other: np.ndarray | None = None

    def p(self, values: np.ndarray) -> np.ndarray:
        """Exact two-sided p [G]."""
        return exact.signed_rank(values) if self.other is None else exact.rank_between(values, self.other)

    def effect(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hodges-Lehmann effect [G] and the ends of its exact 95 % interval."""
        return exact.centre(values) if self.other is None else exact.centre_between(values, self.other)

    def counts(self, values: np.ndarray) -> np.ndarray:
        """int64 [G, 2]: donors with a value in either group; of one group the second is zero."""
        there = np.isfinite(values)
        other = np.zeros(values.shape[1], bool) if self.other is None else self.other
        return np.stack([there[:, ~other].sum(1), there[:, other].sum(1)], axis=1)

    def floor(self, counts: np.ndarray) -> np.ndarray:
        """The smallest p [G] that so many donors can give."""
        return np.array([self._floor(*pair) for pair in counts.tolist()])

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Standard deviation over donors [G], within groups; NaN for fewer than two donors."""
        other = np.zeros(values.shape[1], bool) if self.other is None else self.other
        squares, freedom = np.zeros(len(values)), np.zeros(len(values))
        for side in (~other, other):
            part = values[:, side]
            count = np.isfinite(part).sum(1)
            mean = np.where(count > 0, np.nansum(part, 1) / np.maximum(count, 1), 0.0)
            squares += np.nansum((part - mean[:, None]) ** 2, 1)
            freedom += np.maximum(count - 1, 0)
        return np.sqrt(squares / np.where(freedom > 0, freedom, np.nan))

    def detectable(self, counts: np.ndarray, level: float, power: float) -> np.ndarray:
        """Effect [G], in standard deviations over donors, that is found at `level` with this power; infinite where none is."""
        return np.array([_size(*pair, level, power, self.other is not None) for pair in counts.tolist()])

    def _floor(self, first: int, second: int) -> float:
        return exact.signed_rank_floor(first) if self.other is None else exact.between_floor(first, second)


@cache
def _size(first: int, second: int, level: float, power: float, between: bool) -> float:
    """By drawn studies of normal donors, the same for every size, so that power rises with it."""
    drawn = np.random.default_rng(0).normal(size=(DRAWS, first + second))
    other = np.arange(first + second) >= first
    design = Design(other=other if between else None)

    def found(size: float) -> bool:
        return bool((design.p(drawn + size * ~other) <= level).mean() >= power)

    low, high = 0.0, FAR
    if not first or (between and not second) or not found(high):
        return np.inf
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high
