"""The shards of a run as work for workers. The commit decides whether a shard is done, never a return value."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankshift.jobs.executor.compacting import Compacting
from rankshift.jobs.executor.executor import Executor
from rankshift.jobs.executor.fan_out import Done
from rankshift.jobs.pool.model_cache import ModelCache
from rankshift.jobs.pool.worker import Compute, Count, Fetch
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.screener import Screener, missing
from rankshift.screen.files.object_store import everywhere, fetched
from rankshift.screen.runs.manifest import NoiseFloor
from rankshift.screen.runs.shards import Shard


def fan_out(
    screener: Screener,
    bundle: Path | str,
    executor: Executor,
    done: Done = lambda n: None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Compute the missing shards of a run, and its noise floor, by an executor; `done` is told rows as they come.

    A run of many parts is compacted meanwhile.
    """
    with Compacting(screener.run, say) as compacting:
        work = ShardWork(screener, bundle, compacting.told)
        executor.map(work, done)
    if screener.run.manifest.noise_floor is None:
        screener.run.record(noise_floor=executor.call(measure_noise_floor, work.job))


class ShardJob:
    """What a worker needs to know of a run. In the driver's own process its screener is used; it does not travel."""

    def __init__(self, screener: Screener, bundle: Path | str) -> None:
        self._run, self._bundle = screener.run.place, everywhere(bundle)
        self._screener: Screener | None = screener
        self.weights_sha256: str | None = screener.run.screened.bundle.weights_sha256

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_screener": None}

    def opened(self) -> tuple[Screener, Bundle]:
        """The run and its bundle, checked to be the one it was prepared with."""
        bundle = Bundle.open(fetched(self._bundle))
        screener = self._screener or Screener.open(self._run, bundle, whole=False)
        bundle.check(screener.run.screened.bundle.weights_sha256)
        return screener, bundle

    def open(self, models: ModelCache, fetch: Fetch) -> Compute:
        """Open the run and make its encoder warm."""
        screener, bundle = self.opened()
        encoder = models.encoder(bundle, screener.run.screened.dtype, fetch)

        def compute(shard: Shard, count: Count) -> int:
            return screener.compute(shard, encoder, count)

        return compute


class ShardWork:
    """The shards that a run misses, by their index."""

    def __init__(
        self, screener: Screener, bundle: Path | str, committed: Callable[[int], None] = lambda rows: None
    ) -> None:
        self._screener, self.job, self._committed = screener, ShardJob(screener, bundle), committed
        self.todo = deque(shard.index for shard in missing(screener))

    def piece(self, number: int) -> Any:
        """The shard says it all: a worker need not know the others."""
        return self._screener.shards[number]

    def keep(self, number: int, result: Any) -> None:
        """Nothing to keep: the shard is on disk, with so many rows."""
        self._committed(result)

    def survived(self, number: int) -> bool:
        """Is the shard committed?"""
        return self.name(number) in self._screener.run.done

    def name(self, number: int) -> str:
        """The shard's name."""
        return self._screener.shards[number].name


def measure_noise_floor(job: ShardJob) -> dict[str, NoiseFloor]:
    """The noise floor of a finished run, measured where the device is, because the driver may have none."""
    screener, bundle = job.opened()
    return screener.noise_floor(bundle)
