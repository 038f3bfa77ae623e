"""Steps of a training: one rank's work in each, and where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One rank's work in a step. cells, tokens: of the whole batch, all ranks, padding not counted.

    passes: one batch a pass, in the form the loss takes; None where this rank has nothing to do. As many on every rank.
    """

    cells: int
    tokens: int
    passes: Sequence[Any]


class Source(Protocol):
    """Where the steps come from. What a step holds depends on the epoch and its number alone, never on what was before."""

    def steps(self) -> Sequence[int]:
        """Steps of each epoch."""

    def step(self, epoch: int, index: int) -> Step:
        """Step `index` of `epoch`, both from 0: this rank's share of it, on the device."""
