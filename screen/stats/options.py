"""The options of the tests, which are those of `rankshift stats`; nothing is tested here."""

from dataclasses import dataclass
from typing import Any

from rankshift.screen.errors import InputError

Columns = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatOptions:
    """How effects are tested; the fields are options of `rankshift stats`.

    by: obs column whose values (donors, samples) count once each. min_cells: fewer are not tested; below 10 a rank-sum's
    normal approximation is rough. bootstrap: resamples, 0 for no intervals; 200 give a 95 % end to about a tenth of its
    distance. seed: of everything drawn.
    """

    by: str | None = None
    min_cells: int = 10
    bootstrap: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("min_cells", 1), ("bootstrap", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: give at least {least}")
