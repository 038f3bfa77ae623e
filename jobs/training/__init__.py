"""Training that knows neither masks nor labels: the loop, its schedule, its metrics and its unfinished state on disk.

`Trainer` is what pretraining and fine-tuning share; its module says what it needs.
"""

from rankshift.jobs.training.recipe import Recipe
from rankshift.jobs.training.step import Step
from rankshift.jobs.training.trainer import Trainer, mean_loss, rank_slices

__all__ = ["Recipe", "Step", "Trainer", "mean_loss", "rank_slices"]
