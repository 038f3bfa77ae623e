"""The statistics of our own tables, a file each; MEASURES is the list of them and the order of their columns.

A new statistic is a file here that declares a `Measure`, and its line in the list. What several compute from is in `evidence`.
"""

from rankshift.screen.stats.measure import Measure
from rankshift.screen.stats.measures import (
    adjusted,
    alternatives,
    balanced,
    baselines,
    hit,
    identity,
    impact,
    interaction,
    matched,
    mean,
    rank,
    rank_sum,
    shrunken,
)

MEASURES: tuple[Measure, ...] = (
    identity.MEASURE,
    hit.MEASURE,
    mean.MEASURE,
    shrunken.MEASURE,
    rank.MEASURE,
    rank.TIES,
    rank_sum.MEASURE,
    alternatives.MEASURE,
    matched.MEASURE,
    adjusted.MEASURE,
    balanced.MEASURE,
    impact.MEASURE,
    mean.DIFFERENCE,
    interaction.MEASURE,
    baselines.MEASURE,
)
