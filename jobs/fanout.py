"""Fan-out: the driver's loop that gives missing shards to leased workers until all are committed.

The commit on disk decides whether a shard is done, never a return value; a worker that died goes back to the pool, which
lends it again when it answers, and a shard that lost three workers ends the run.
"""

from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rankshift.jobs.lease import Grant, Lease, cause
from rankshift.jobs.worker import StaleLease
from rankshift.screen.remote import everywhere
from rankshift.screen.screening import Screener, missing

TRIES = 3
POLL = 0.5  # seconds between looks at progress
Done = Callable[[int], None]


def fan_out(screener: Screener, bundle: Path | str, lease: Lease, done: Done = lambda n: None) -> None:
    """Compute the missing shards of a run, and its noise floor, on the workers of a lease; `done` is told rows as they come."""
    FanOut(screener, bundle, lease).drive(done)
    if "noise_floor" not in screener.run.manifest:
        screener.run.record(noise_floor=_noise_floor(screener, bundle, lease))


class FanOut:
    """Shards to do and workers to do them. A worker opens the run first, then computes one shard after the other."""

    def __init__(self, screener: Screener, bundle: Path | str, lease: Lease) -> None:
        self._screener, self._lease = screener, lease
        self._run, self._bundle = screener.run.place, everywhere(bundle)
        self._weights = lease.weights(screener.run.manifest["bundle"]["weights_sha256"])
        self._todo = deque(shard.index for shard in missing(screener))
        self._tries: Counter[int] = Counter()
        self._busy: dict[
            Any, tuple[Grant, int | None]
        ] = {}  # call -> its worker, and the shard unless it opens the run

    def drive(self, done: Done = lambda n: None) -> None:
        """The loop; it returns when every shard is committed."""
        asking = self._lease.ask() if self._todo else None
        while self._todo or self._shards_under_way():
            calls = [*self._busy] if asking is None else [asking, *self._busy]
            ready, _ = ray.wait(calls, num_returns=1, timeout=POLL)
            for call in ready:
                if call == asking:
                    for grant in self._lease.granted(call):
                        self._open(grant)
                    asking = self._lease.ask() if self._todo else None
                else:
                    self._finish(call)
            self._report(done)
        for grant, _ in self._busy.values():
            self._lease.give(grant, suspect=True)  # still opening a run that is done

    def _shards_under_way(self) -> bool:
        return any(shard is not None for _, shard in self._busy.values())

    def _open(self, grant: Grant) -> None:
        call = grant.handle.ready.remote(grant.epoch, self._run, self._bundle, self._weights)
        self._busy[call] = grant, None

    def _finish(self, call: Any) -> None:
        """A call has ended: give its worker the next shard, or back to the pool."""
        grant, shard = self._busy.pop(call)
        try:
            ray.get(call)
        except StaleLease:
            self._lost(grant, shard)
        except RayActorError as error:
            self._lost(grant, shard)
            self._count(shard, error)
        except RayTaskError as error:
            raise cause(error) from error
        else:
            if self._todo and not self._lease.recalled():
                shard = self._todo.popleft()
                self._busy[grant.handle.compute.remote(grant.epoch, self._run, shard)] = grant, shard
            else:
                self._lease.give(grant)

    def _lost(self, grant: Grant, shard: int | None) -> None:
        """A worker is no longer ours: its shard is done again, unless it was committed."""
        self._lease.give(grant, suspect=True)
        if shard is not None and self._screener.shards[shard].name not in self._screener.run.done:
            self._todo.append(shard)

    def _count(self, shard: int | None, error: RayActorError) -> None:
        key = -1 if shard is None else shard
        self._tries[key] += 1
        if self._tries[key] >= TRIES:
            name = "" if shard is None else self._screener.shards[shard].name
            what = f"{name} lost its worker" if name else "workers die while they open the run"
            raise RuntimeError(
                f"{what}, {TRIES} times ({error}): see Ray's logs, then continue with --resume"
            ) from error

    def _report(self, done: Done) -> None:
        calls = [grant.handle.told.remote() for grant, _ in self._busy.values()]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=POLL) if calls else ([], [])
        for call in ready:
            try:
                steps, _ = ray.get(call)
            except RayActorError:
                continue
            if steps:
                done(steps)


def _noise_floor(screener: Screener, bundle: Path | str, lease: Lease) -> dict:
    """From a worker: it has the device, the driver may have none."""
    run = screener.run.place
    for _ in range(TRIES):
        for grant in lease.wait():
            try:
                ray.get(grant.handle.ready.remote(grant.epoch, run, everywhere(bundle), []))
                floor = ray.get(grant.handle.noise_floor.remote(grant.epoch, run))
                lease.give(grant)
                return dict(floor)
            except (RayActorError, StaleLease):
                lease.give(grant, suspect=True)
            except RayTaskError as error:
                raise cause(error) from error
    raise RuntimeError("no worker was left to measure the noise floor: run again with --resume")
