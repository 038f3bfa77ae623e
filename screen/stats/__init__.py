"""Statistics of a run: the published tables, and what they lack. `statistics(run, "goal").table()`."""

from rankshift.screen.stats.options import StatOptions
from rankshift.screen.stats.statistics import MODES, Statistics, record, statistics

Judging = StatOptions  # the name that callers of earlier versions import

__all__ = ["MODES", "Judging", "StatOptions", "Statistics", "record", "statistics"]
