"""Adaptive screens on the workers of an executor; the way from predictions to answers is in `rankshift.screen.adaptive`."""

from pathlib import Path

from rankshift.jobs.executor.executor import Executor
from rankshift.jobs.executor.round_work import PredictionWork, RoundWork
from rankshift.jobs.executor.shard_work import ShardJob, measure_noise_floor
from rankshift.screen.adaptive.plans import Plan
from rankshift.screen.engine.screener import Screener
from rankshift.screen.progress import progress


class Workers:
    """Hands of an executor's workers, which find the bundle where the driver was told it is."""

    def __init__(self, bundle: Path | str, there: Executor) -> None:
        self._bundle, self._there = bundle, there

    def predict(self, screener: Screener) -> None:
        """Write the predictions that the run lacks."""
        work = PredictionWork(screener, self._bundle)
        if work.todo:
            with progress("predictions", screener.run.manifest.lists or 0, 0) as done:
                self._there.map(work, done)

    def measure(self, screener: Screener, plans: list[Plan]) -> int:
        """Commit the shards of rounds that the run lacks; returns how many rows they have."""
        works = [RoundWork(screener, self._bundle, plan) for plan in plans]
        rows, fresh = sum(len(plan.cell) for plan in plans), sum(work.left for work in works)
        if fresh:
            with progress("perturbations", rows, rows - fresh) as done:
                for work in works:
                    if work.todo:
                        self._there.map(work, done)
        return fresh

    def floor(self, screener: Screener) -> None:
        """Record the noise floor of a run that has all rows."""
        job = ShardJob(screener, self._bundle)
        screener.run.record(noise_floor=self._there.call(measure_noise_floor, job))
