"""What a run found, in the one form that all figures and the page read: the table of statistics, and which column decides.

Numbers come from `rankshift.screen.stats` and nothing is tested here a second time.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.runs.layout import SIMILARITY, shift_column
from rankshift.screen.runs.manifest import NoiseFloor
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import quoted
from rankshift.screen.stats.effects import goal_effects, similarity_effects
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.options import StatOptions

GROUPING = ("donor", "individual", "patient", "subject", "participant", "sample", "replicate", "mouse", "animal")


def goal_of(run: Run) -> str | None:
    """The goal state of the run's route; None for a run without, whose similarities are judged."""
    route = run.manifest.route
    return None if route is None else route.goal


def judged_column(run: Run) -> str:
    """Column of the view `shifts` that is judged."""
    goal = goal_of(run)
    return SIMILARITY if goal is None else shift_column(goal)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Findings:
    """Statistics of a run, a row per perturbation, the strongest first: hits, then those tested, each by size of the effect.

    measure: "shift" towards the goal of the run's route, or "similarity" where a run has none. goal: that state.
    table, summary: as `rankshift stats` gives them. judging: minimum of cells, groups, resamples.
    """

    run: Run
    judging: StatOptions
    measure: str
    goal: str | None
    table: pa.Table
    summary: dict[str, Any]

    @staticmethod
    def read(run: Run, judging: StatOptions | None = None) -> "Findings":
        """Judge the committed rows of a run; raises InputError when there are none, or the groups do not fit."""
        judging = judging or StatOptions()
        goal = goal_of(run)
        if goal is not None:
            table, summary = goal_effects(run, judging)
            return Findings._sorted(run, judging, "shift", goal, table, summary)
        seen = Observations.read(run, [SIMILARITY])
        if len(seen.count) > 1:
            table, summary = similarity_effects(run, judging)
        else:  # one perturbation has no others to be held against
            table, summary = _alone(seen, judging)
        return Findings._sorted(run, judging, "similarity", None, table, summary)

    @staticmethod
    def _sorted(
        run: Run, judging: StatOptions, measure: str, goal: str | None, table: pa.Table, summary: dict[str, Any]
    ) -> "Findings":
        found = Findings(run=run, judging=judging, measure=measure, goal=goal, table=table, summary=summary)
        size = np.nan_to_num(np.abs(found.effect))
        order = np.lexsort((-size, ~found.marked("enough_cells"), ~found.hit))
        return replace(found, table=table.take(pa.array(order)))

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> np.ndarray:
        """A numeric column as float64 [G], NaN where it is empty or the table has none of that name."""
        if name not in self.table.column_names:
            return np.full(len(self), np.nan)
        return self.table[name].cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)

    def marked(self, name: str) -> np.ndarray:
        """A column of yes or no as bool [G], False where it is empty or missing."""
        return np.nan_to_num(self.column(name)) > 0

    def strings(self, name: str) -> list[str]:
        """A column of names."""
        return self.table[name].to_pylist()

    @property
    def decides(self) -> str:
        """Column of the false discovery rate by which hits are called."""
        return "fdr" if self.judging.by is None else "balanced_fdr"

    @property
    def mean(self) -> np.ndarray:
        """float64 [G]: mean over cells, or over groups with `by`."""
        return self.column(f"{self.measure}_mean" if self.judging.by is None else "balanced_mean")

    @property
    def effect(self) -> np.ndarray:
        """float64 [G]: mean shift towards the goal, or 1 minus the mean similarity; what the figures show."""
        return self._from_zero(self.mean)

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of `effect`, low and high, float64 [G]; NaN where there is none."""
        low, high = (self._from_zero(self.column(f"{self.measure}_{end}")) for end in ("low", "high"))
        return (low, high) if self.goal is not None else (high, low)

    def _from_zero(self, values: np.ndarray) -> np.ndarray:
        return values if self.goal is not None else 1 - values

    @property
    def fdr(self) -> np.ndarray:
        """float64 [G]: false discovery rate that decides, NaN where nothing was tested."""
        return self.column(self.decides)

    @property
    def hit(self) -> np.ndarray:
        """bool [G]."""
        return self.marked("hit")

    @property
    def floor(self) -> NoiseFloor | None:
        """The noise floor of the judged column, as the run measured it."""
        return (self.run.manifest.noise_floor or {}).get(judged_column(self.run))

    @property
    def axis(self) -> str:
        """What `effect` is, for an axis or a table."""
        return "1 − mean similarity" if self.goal is None else f"mean shift towards {self.goal}"

    @property
    def ungrouped(self) -> list[str]:
        """Columns that look like donors and were not counted as such: their cells are not independent."""
        if self.judging.by is not None:
            return []
        names = [n for n in self.run.sql("SELECT * FROM cells LIMIT 0").column_names if n.lower().startswith(GROUPING)]
        counts = ", ".join(f"count(DISTINCT {quoted(n)})" for n in names)
        several = self.run.sql(f"SELECT {counts} FROM cells").to_pylist()[0].values() if names else ()
        return [n for n, count in zip(names, several, strict=True) if count > 1]


def _alone(seen: Observations, judging: StatOptions) -> tuple[pa.Table, dict[str, Any]]:
    values = seen.values[SIMILARITY]
    columns: dict[str, Any] = {
        **seen.names,
        "cells": seen.count,
        "enough_cells": seen.count >= judging.min_cells,
        "similarity_mean": seen.mean(values),
        "similarity_sd": [float(values.std(ddof=1)) if len(values) > 1 else None],
    }
    summary = {
        "by": None, "min_cells": judging.min_cells, "perturbations": 1, "rows": len(seen), "cells": seen.cells,
        "dropped_rows": seen.dropped, "tested": 0, "hits": 0,
    }  # fmt: skip
    return pa.table({name: pa.array(c, from_pandas=True) for name, c in columns.items()}), summary
