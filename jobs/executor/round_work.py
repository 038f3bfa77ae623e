"""The predictions and the rounds of an adaptive screen as work for workers. What is on disk decides whether a piece is done."""

from collections import deque
from pathlib import Path
from typing import Any

from rankshift.jobs.executor.shard_work import ShardJob, ShardWork
from rankshift.jobs.pool.model_cache import ModelCache
from rankshift.jobs.pool.worker import Compute, Count, Fetch
from rankshift.screen.adaptive.plans import Plan, read_plan
from rankshift.screen.adaptive.rows_of_run import predict_part, predicted_path, unpredicted
from rankshift.screen.engine.screener import Screener


class PredictionJob(ShardJob):
    """Predictions are computed in float32, whatever the run's dtype."""

    def open(self, models: ModelCache, fetch: Fetch) -> Compute:
        """Open the run and make an encoder in float32 warm."""
        screener, bundle = self.opened()
        encoder = models.encoder(bundle, "float32", fetch)

        def compute(part: int, count: Count) -> int:
            done = predict_part(screener, part, encoder)
            count(done)
            return done

        return compute


class PredictionWork(ShardWork):
    """The files of predictions that a run lacks, by number."""

    def __init__(self, screener: Screener, bundle: Path | str) -> None:
        self._screener, self.job = screener, PredictionJob(screener, bundle)
        self.todo = deque(unpredicted(screener))

    def piece(self, number: int) -> int:
        """The number of the file says it all."""
        return number

    def keep(self, number: int, result: Any) -> None:
        """Nothing to keep: the file is on disk."""

    def survived(self, number: int) -> bool:
        """Is the file there?"""
        return number not in unpredicted(self._screener)

    def name(self, number: int) -> str:
        """The file's name."""
        return f"prediction {predicted_path(self._screener.run, number).stem}"


class RoundJob(ShardJob):
    """What a worker needs to know of a round: its number, by which it finds the plan in the run."""

    def __init__(self, screener: Screener, bundle: Path | str, number: int) -> None:
        super().__init__(screener, bundle)
        self._number = number

    def open(self, models: ModelCache, fetch: Fetch) -> Compute:
        """Open the run and the plan, and make the encoder warm."""
        screener, bundle = self.opened()
        encoder = models.encoder(bundle, screener.run.screened.dtype, fetch)
        plan = read_plan(screener.run, self._number)
        shards = plan.shards

        def compute(index: int, count: Count) -> int:
            return screener.compute(shards[index], encoder, count, plan.lists_of(shards[index]))

        return compute


class RoundWork(ShardWork):
    """The shards that a round lacks, by their place in the plan."""

    def __init__(self, screener: Screener, bundle: Path | str, plan: Plan) -> None:
        self._screener, self.job, self._shards = screener, RoundJob(screener, bundle, plan.number), plan.shards
        there = screener.run.done
        self.todo = deque(i for i, shard in enumerate(self._shards) if shard.name not in there)

    def piece(self, number: int) -> int:
        """The place in the plan, which the worker has read."""
        return number

    def keep(self, number: int, result: Any) -> None:
        """Nothing to keep: the shard is on disk. Rounds have few parts, and are not compacted as they go."""

    @property
    def left(self) -> int:
        """Rows that are still to be measured."""
        return sum(self._shards[index].lists for index in self.todo)

    def name(self, number: int) -> str:
        """The shard's name."""
        return self._shards[number].name
