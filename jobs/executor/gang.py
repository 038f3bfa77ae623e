"""One training on all workers of a gang lease: seats are handed out, progress is passed on, and whoever fails is named."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rankshift.jobs.pool.cluster import lent
from rankshift.jobs.pool.lease import Grant, Lease, cause
from rankshift.jobs.pool.worker import StaleLease
from rankshift.jobs.training.alone import alone
from rankshift.jobs.training.gang import Report, Seat, WorkerGone
from rankshift.screen.errors import Interrupted

POLL = 0.5  # seconds between looks at progress
GRACE = 120.0  # seconds the others have to notice that a worker is gone, and to save

Train = Callable[[Seat, Any, Report], dict[str, Any]]


def launcher(workers: int) -> Callable[[Train, Any, int], dict[str, Any]]:
    """A function that runs a training `train(seat, job, report)` on a gang of so many workers and returns rank 0's result.

    Its other arguments are the job and how many cells will be reported in all, for the bar. Ctrl-C stops the gang.
    """

    def launch(train: Train, job: Any, total: int) -> dict[str, Any]:
        with (
            lent(workers, gang=True, what=f"{train.__module__.rsplit('.', 1)[-1]}") as lease,
            alone("cells", total) as report,
        ):
            return train_on(lease, train, job, report)

    return launch


def train_on(lease: Lease, train: Train, job: Any, report: Report) -> dict[str, Any]:
    """Run a training on the gang of a lease; returns the result of rank 0. The weights stay warm on the workers.

    train: a function of a module, because the workers import it. A worker that dies ends the training with WorkerGone, after
    the others had time to save. KeyboardInterrupt is raised when the training stopped because it was asked to.
    """
    function = f"{train.__module__}:{train.__qualname__}"
    grants = lease.wait()
    seats = _seats(grants)
    calls = {
        grant.handle.train.remote(grant.epoch, seat, function, job): seat.rank
        for grant, seat in zip(grants, seats, strict=True)
    }
    results: dict[int, dict] = {}
    failures: dict[int, Exception] = {}
    asked, steps = False, 0
    while calls:
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=GRACE if failures else POLL)
        if failures and not ready:
            break
        for call in ready:
            rank = calls.pop(call)
            try:
                results[rank] = ray.get(call)
            except (RayActorError, RayTaskError) as error:
                failures[rank] = error
        steps = _pass_on(grants[0], report, steps)
        if report.stopped() and not asked:
            asked = True
            for grant in grants:
                grant.handle.stop.remote(grant.epoch)
    if failures:
        _raise(failures, grants)
    if any(result.get("stopped") for result in results.values()):
        if asked:
            raise KeyboardInterrupt
        raise Interrupted("the pool took the workers back from the training: continue it with --resume")
    _keep(lease, grants, results[0])
    return results[0]


def _seats(grants: list[Grant]) -> list[Seat]:
    """Ranks in the workers' order. They meet on rank 0's node, by the loopback if all are on it."""
    if len(grants) == 1:
        return [Seat()]
    places = ray.get([grant.handle.place.remote() for grant in grants])
    host = "127.0.0.1" if len({node for node, _ in places}) == 1 else places[0][0]
    meeting = f"tcp://{host}:{places[0][1]}"
    return [Seat(rank=rank, world=len(grants), meeting=meeting) for rank in range(len(grants))]


def _pass_on(first: Grant, report: Report, known: int) -> int:
    """Pass on what rank 0 has told beyond the steps known; returns the steps known now."""
    try:
        steps, note = ray.get(first.handle.told.remote(), timeout=POLL)
    except (RayActorError, ray.exceptions.GetTimeoutError):
        return known
    if steps > known:
        report(steps - known, note)
    return max(steps, known)


def _raise(failures: dict[int, Exception], grants: list[Grant]) -> None:
    """Raise what explains the others: a worker that died, else what the lowest rank raised."""
    for rank, error in sorted(failures.items()):
        if isinstance(error, RayActorError):
            for other in failures.values():
                if isinstance(other, RayTaskError) and isinstance(other.cause, WorkerGone):
                    raise other.cause from error
            who = f"the worker of rank {rank} ({grants[rank].worker}) is gone"
            raise WorkerGone(f"{who}: continue the training with --resume") from error
    first = failures[min(failures)]
    if isinstance(first, StaleLease):
        raise Interrupted("the pool took the workers back from the training: continue it with --resume") from first
    assert isinstance(first, RayTaskError)
    raise cause(first) from first


def _keep(lease: Lease, grants: list[Grant], result: dict) -> None:
    """The trained weights stay on the workers, by the name of the bundle; the first one publishes them to the others."""
    bundle = result.get("bundle")
    if bundle is None:
        return
    calls = [grant.handle.keep.remote(grant.epoch, str(bundle), i == 0) for i, grant in enumerate(grants)]
    published = ray.get(calls)[0]
    if published:
        lease.publish(grants[0], *published)
