"""Fan-out: the driver's loop that gives missing shards to workers until all are committed.

The commit on disk decides whether a shard is done, never a return value; a worker that died is left alone until it
answers again, and a shard that failed three times ends the run.
"""

from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import ray
from ray.exceptions import RayActorError, RayTaskError

from rankshift.jobs import worker
from rankshift.screen.errors import InputError
from rankshift.screen.screening import Screener, missing

TRIES = 3
POLL = 0.5  # seconds between looks at progress


def fan_out(screener: Screener, bundle: Path, workers: int, done: Callable[[int], None] = lambda n: None) -> None:
    """Compute the missing shards of a run, and its noise floor, on `workers` Ray workers; `done` is told rows as they come."""
    handles = worker.start(workers, screener.run.path, bundle)
    try:
        drive(screener, handles, done)
        if "noise_floor" not in screener.run.manifest:
            screener.run.record(noise_floor=_noise_floor(handles))
    finally:
        for handle in handles:
            ray.kill(handle)


def _noise_floor(handles: list) -> dict:
    """From the first worker that answers: it has the device and the encoder, the driver may have neither."""
    for handle in handles:
        try:
            return ray.get(handle.noise_floor.remote())
        except RayActorError:
            continue
    raise RuntimeError("no worker was left to measure the noise floor: run again with --resume")


def drive(screener: Screener, handles: list, done: Callable[[int], None] = lambda n: None) -> None:
    """The loop itself, on workers that were started for this run; it returns when every shard is committed."""
    todo = deque(shard.index for shard in missing(screener))
    tries: Counter[int] = Counter()
    probes = {handle.process.remote(): handle for handle in handles}  # a worker works once it has answered
    running: dict = {}
    idle: list = []
    while todo or running:
        ready, _ = ray.wait([*probes, *running], num_returns=1, timeout=POLL)
        for ref in ready:
            handle, shard = (probes.pop(ref), None) if ref in probes else running.pop(ref)
            try:
                ray.get(ref)
                idle.append(handle)
            except RayTaskError as e:
                raise _cause(e) from e
            except RayActorError as e:
                probes[handle.process.remote()] = handle
                _lost(screener, shard, tries, todo, e)
        while todo and idle:
            shard, handle = todo.popleft(), idle.pop()
            running[handle.compute.remote(shard)] = handle, shard
        _report(handles, done)


def _lost(screener: Screener, shard: int | None, tries: Counter[int], todo: deque[int], error: RayActorError) -> None:
    """A worker died while it started (shard None) or computed: give the shard out again unless it is committed."""
    if shard is not None and screener.shards[shard].name in screener.run.committed:
        return
    key = -1 if shard is None else shard
    tries[key] += 1
    if tries[key] >= TRIES:
        what = "workers die before they answer" if shard is None else f"{screener.shards[shard].name} lost its worker"
        raise RuntimeError(f"{what}, {TRIES} times ({error}): see Ray's logs, then continue with --resume") from error
    if shard is not None:
        todo.append(shard)


def _report(handles: list, done: Callable[[int], None]) -> None:
    for handle in handles:
        try:
            done(ray.get(handle.rows.remote(), timeout=POLL))
        except (RayActorError, ray.exceptions.GetTimeoutError):
            continue


def _cause(error: RayTaskError) -> Exception:
    cause = error.cause if isinstance(error.cause, Exception) else error
    return cause if isinstance(cause, InputError | OSError) else error
