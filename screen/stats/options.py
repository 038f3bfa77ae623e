"""How effects are judged, whatever they are effects on: options, marks of hits, what a summary says, order of rows."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.empirical_null import typical
from rankshift.screen.stats.arithmetic.false_discovery import SIGNIFICANT
from rankshift.screen.stats.arithmetic.rank_sum import RankSum
from rankshift.screen.stats.observations import Observations

Columns = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How effects are judged; the fields are options of `rankshift stats`.

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


def centre_of(result: RankSum, tested: np.ndarray) -> float:
    """Superiority of the typical gene."""
    return typical(result.superiority, result.error, tested, 0.5)


def identity(seen: Observations) -> Columns:
    """Names of the perturbations, and their cells."""
    return {**seen.names, "cells": seen.count}


def hits_of(run: Run, q: np.ndarray, column: str, size: np.ndarray, *, acts: np.ndarray) -> Columns:
    """Marks of hits by FDR `q` and by the `size` of the mean effect beside the noise floor of the run's `column`.

    acts: bool [G], does the perturbation differ from the others by what it does, and not by what it does not do?
    """
    floor = (run.manifest.get("noise_floor") or {}).get(column, {}).get("p99")
    below = np.zeros(len(q), bool) if floor is None else size < floor
    return {
        "below_noise_floor": pa.nulls(len(q), pa.bool_()) if floor is None else below,
        "hit": (q < SIGNIFICANT) & ~below & acts & (size > 0),
    }


def summary_of(seen: Observations, columns: Columns, judging: Judging) -> dict[str, Any]:
    """What holds for a whole table."""
    return {
        **asdict(judging),
        "perturbations": len(seen.count),
        "rows": len(seen),
        "cells": seen.cells,
        "dropped_rows": seen.dropped,
        "tested": int(columns["enough_cells"].sum()),
        "hits": int(columns["hit"].sum()),
    }


def in_order(columns: Columns, *keys: np.ndarray) -> pa.Table:
    """Rows by rising keys, the first counts most; NaN becomes null."""
    order = pa.array(np.lexsort(keys[::-1]))
    table = pa.table({name: pa.array(c, from_pandas=True) for name, c in columns.items()})
    return table.take(order)
