"""The shards of a run as work for leased workers. The commit decides whether a shard is done, never a return value."""

from collections import deque
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rankshift.jobs.executor.ray import TRIES, Done, FanOut
from rankshift.jobs.pool.lease import Grant, Lease, cause
from rankshift.jobs.pool.worker import StaleLease
from rankshift.screen.engine.screener import Screener, missing
from rankshift.screen.errors import Interrupted
from rankshift.screen.files.object_store import everywhere


def fan_out(screener: Screener, bundle: Path | str, lease: Lease, done: Done = lambda n: None) -> None:
    """Compute the missing shards of a run, and its noise floor, on the workers of a lease; `done` is told rows as they come."""
    work = ShardWork(screener, bundle, lease)
    FanOut(lease, work).drive(done)
    if "noise_floor" not in screener.run.manifest:
        screener.run.record(noise_floor=_noise_floor(work, lease))


class ShardWork:
    """The shards that a run misses."""

    def __init__(self, screener: Screener, bundle: Path | str, lease: Lease) -> None:
        self._screener, self.run, self._bundle = screener, screener.run.place, everywhere(bundle)
        self._weights = lease.weights(screener.run.manifest["bundle"]["weights_sha256"])
        self.todo = deque(shard.index for shard in missing(screener))

    def open(self, grant: Grant) -> "ray.ObjectRef":
        """Open the run and make its encoder warm."""
        return grant.handle.ready.remote(grant.epoch, self.run, self._bundle, self._weights)

    def start(self, grant: Grant, piece: int) -> "ray.ObjectRef":
        """Compute and commit a shard."""
        return grant.handle.compute.remote(grant.epoch, self.run, piece)

    def keep(self, piece: int, result: Any) -> None:
        """Nothing to keep: the shard is on disk."""

    def survived(self, piece: int) -> bool:
        """Is the shard committed?"""
        return self.name(piece) in self._screener.run.done

    def name(self, piece: int) -> str:
        """The shard's name."""
        return self._screener.shards[piece].name


def _noise_floor(work: ShardWork, lease: Lease) -> dict:
    """From a worker: it has the device, the driver may have none."""
    for _ in range(TRIES):
        for grant in lease.wait():
            try:
                ray.get(work.open(grant))
                floor = ray.get(grant.handle.noise_floor.remote(grant.epoch, work.run))
                lease.give(grant)
                return dict(floor)
            except (RayActorError, StaleLease):
                lease.give(grant, suspect=True)
            except RayTaskError as error:
                raise cause(error) from error
    raise Interrupted("no worker was left to measure the noise floor: run again with --resume")
