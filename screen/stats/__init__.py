"""Statistics of a run: the published tables, and what they lack. `statistics(run, "goal").table()`."""

from rankshift.screen.stats.options import Judging
from rankshift.screen.stats.statistics import MODES, Statistics, record, statistics

__all__ = ["MODES", "Judging", "Statistics", "record", "statistics"]
