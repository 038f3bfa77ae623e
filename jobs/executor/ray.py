"""Work on Ray workers: those of the running pool, or of a private one that ends with the command."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rankshift.jobs.executor.executor import Executor, Train
from rankshift.jobs.executor.fan_out import POLL
from rankshift.jobs.pool.cluster import borrowed_pool, pool_size
from rankshift.jobs.pool.connection import READ, answered
from rankshift.jobs.pool.lease import Lease, cause
from rankshift.jobs.pool.worker import Grant, Job, StaleLease, WorkerDied
from rankshift.jobs.training.alone import alone
from rankshift.jobs.training.gang import Rank, Report, WorkerGone
from rankshift.screen.errors import Interrupted, Stopped

GRACE = 120.0  # seconds that the others of a gang have to notice that a worker is gone, and to save
HOST = ", its host does not answer"


class OnRay(Executor):
    """Workers of a Ray cluster. It connects when it is first used. pool: to lend from, by default the one of the cluster."""

    def __init__(
        self, workers: int, *, what: str = "", say: Callable[[str], None] = lambda line: None, pool: Any = None
    ) -> None:
        super().__init__(workers, what=what, say=say)
        self._stack, self._pool = ExitStack(), pool

    def close(self) -> None:
        """End the private pool and the connection, where this command began them."""
        self._pool = None
        self._stack.close()

    @contextmanager
    def lease(self, *, gang: bool = False, what: str = "") -> Iterator[Lease]:
        """A lease on the workers; a gang is exactly as many, all at once."""
        if self._pool is None:
            self._pool = self._stack.enter_context(borrowed_pool(self.workers))
        want = self.workers or pool_size(self._pool)
        with Lease(self._pool, want, gang=gang, what=what or self.what, say=self.say) as lease:
            yield lease

    @contextmanager
    def crew(self) -> Iterator["RayCrew"]:
        """See `Executor.crew`."""
        with self.lease() as lease:
            yield RayCrew(lease)

    def train(self, train: Train, job: Any, total: int) -> dict[str, Any]:
        """See `Executor.train`."""
        with self.lease(gang=True, what=train.__module__.rsplit(".", 1)[-1]) as lease, alone("cells", total) as report:
            return train_on(lease, train, job, report)


class RayCrew:
    """The workers of a lease for the fan-out loop: its calls are Ray's, its errors are not.

    A worker has two pieces at once, so that it never waits for the driver. When workers are to be given back, the pieces
    that were not begun come back at once, and what a worker computes is the last that the other lease waits for.
    """

    ahead = 2

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._weights: dict[str, list] = {}  # by key of a job: references to what was published of it, or []
        self._looks: dict[Grant, ray.ObjectRef] = {}  # questions for progress that are open
        self._sent: dict[Grant, int] = {}  # the turn in which a worker was sent its last piece
        self._turn = 0
        self._recall: ray.ObjectRef | None = None  # the question how many workers to give back
        self._due, self._leaving = 0, set[Grant]()  # how many are to be chosen, and those chosen
        self._quiet = 0.0  # a pool that is being restarted is not asked before
        self.ask, self.granted, self.gone = lease.ask, lease.granted, lease.gone

    def open(self, grant: Grant, key: str, job: Job) -> "ray.ObjectRef":
        """The job travels with a reference to its weights, where a worker has published them."""
        if key not in self._weights:
            self._weights[key] = [] if job.weights_sha256 is None else self._lease.weights(job.weights_sha256)
        return grant.handle.open_job.remote(grant.epoch, key, job, self._weights[key])

    def compute(self, grant: Grant, key: str, piece: Any) -> "ray.ObjectRef":
        """See `Crew.compute`."""
        self._sent[grant] = self._turn
        return grant.handle.compute.remote(grant.epoch, key, piece, self._turn)

    def wait(self, calls: Collection, seconds: float) -> list:
        """See `Crew.wait`. All that have ended, because each look costs time for every call under way."""
        self._lease.check()
        if self._recall is None and time.monotonic() > self._quiet:
            self._recall = self._lease.recalled(len(self._leaving) + self._due)
        watched = [*calls] if self._recall is None else [self._recall, *calls]
        ended, _ = ray.wait(watched, num_returns=len(watched), timeout=0)
        if not ended:
            ended, _ = ray.wait(watched, num_returns=1, timeout=seconds)
        if self._recall in ended:
            ended.remove(self._recall)
            self._take_recall()
        return ended

    def _take_recall(self) -> None:
        """The pool has said how many workers to give back: all keep the piece they compute, none begins another."""
        try:
            self._due += ray.get(self._recall)
        except RayActorError:
            self._quiet = time.monotonic() + 1.0
        self._recall = None
        if self._due:
            self._turn += 1
            for grant in self._sent:
                grant.handle.hold.remote(grant.epoch, self._turn)

    def release(self, grant: Grant, *, suspect: bool = False) -> None:
        """See `Crew.release`."""
        for known in (self._sent, self._looks):
            known.pop(grant, None)
        self._leaving.discard(grant)
        self._lease.release(grant, suspect=suspect)

    def should_yield(self, grant: Grant) -> bool:
        """See `Crew.should_yield`."""
        if self._due and grant not in self._leaving:
            self._due -= 1
            self._leaving.add(grant)
        return grant in self._leaving

    def result(self, call: "ray.ObjectRef") -> Any:
        """See `Crew.result`."""
        try:
            return ray.get(call)
        except RayActorError as error:
            raise WorkerDied(str(error)) from error
        except RayTaskError as error:
            raise cause(error) from error

    def progress(self, grants: Iterable[Grant]) -> dict[Grant, int]:
        """See `Crew.progress`. Answers are those to the question before; a worker that never answers is asked once."""
        for grant in grants:
            if grant not in self._looks:
                self._looks[grant] = grant.handle.progress.remote()
        asked = {call: grant for grant, call in self._looks.items()}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
        found = {}
        for call in ready:
            grant = asked[call]
            del self._looks[grant]
            with suppress(RayActorError):
                found[grant], _ = ray.get(call)
        return found


def train_on(lease: Lease, train: Train, job: Any, report: Report) -> dict[str, Any]:
    """Run a training on the gang of a lease; returns the result of rank 0. The weights stay warm on the workers.

    train: a function of a module, because the workers import it. A worker that dies, or whose host vanishes, ends the training
    with WorkerGone, after the others had time to save. Stopped is raised when the training stopped because it was asked to.
    """
    function = f"{train.__module__}:{train.__qualname__}"
    grants = lease.wait()
    ranks = _ranks(lease, grants)
    calls = {
        grant.handle.train.remote(grant.epoch, rank, function, job): rank.number
        for grant, rank in zip(grants, ranks, strict=True)
    }
    results: dict[int, dict] = {}
    failures: dict[int, Exception] = {}
    stopped: list[Stopped] = []
    asked, steps, over = False, 0, 0.0
    while calls:
        lease.check()
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=POLL)
        for call in ready:
            number = calls.pop(call)
            try:
                results[number] = ray.get(call)
            except RayTaskError as error:
                if isinstance(error.cause, Stopped):
                    stopped.append(error.cause)
                else:
                    failures[number] = error
            except RayActorError as error:
                failures[number] = error
        for call, number in list(calls.items()):
            if lease.gone(grants[number]):
                failures[number] = _gone(grants[number], number, HOST)
                del calls[call]
        if failures:
            if not over:
                _stop(grants)  # those who still wait for the others before the first step
            over = over or time.monotonic() + GRACE
            if time.monotonic() > over:
                break
            continue
        steps = _pass_on(grants[0], report, steps)
        if report.stopped() and not asked:
            asked = True
            _stop(grants)
    if failures:
        _raise(failures, grants)
    if stopped:
        if asked:
            raise stopped[0]
        raise Interrupted("the pool took the workers back from the training: continue it with --resume")
    _keep(lease, grants, results[0])
    return results[0]


def _ranks(lease: Lease, grants: list[Grant]) -> list[Rank]:
    """Ranks in the workers' order. They meet on rank 0's node, by the loopback if all are on it."""
    if len(grants) == 1:
        return [Rank()]

    def check() -> None:
        lease.check()
        for number, grant in enumerate(grants):
            if lease.gone(grant):
                raise _gone(grant, number, HOST)

    calls = [grant.handle.rendezvous.remote() for grant in grants]
    places = [answered(call, g.worker, check=check) for call, g in zip(calls, grants, strict=True)]
    host = "127.0.0.1" if len({node for node, _ in places}) == 1 else places[0][0]
    rendezvous = f"tcp://{host}:{places[0][1]}"
    return [Rank(number=number, world=len(grants), rendezvous=rendezvous) for number in range(len(grants))]


def _pass_on(first: Grant, report: Report, known: int) -> int:
    """Pass on what rank 0 has reported beyond the steps known; returns the steps known now."""
    try:
        steps, note = ray.get(first.handle.progress.remote(), timeout=POLL)
    except (RayActorError, ray.exceptions.GetTimeoutError):
        return known
    if steps > known:
        report(steps - known, note)
    return max(steps, known)


def _stop(grants: list[Grant]) -> None:
    """Ask all of a gang to save and stop."""
    for grant in grants:
        grant.handle.stop.remote(grant.epoch)


def _gone(grant: Grant, rank: int, why: str = "") -> WorkerGone:
    return WorkerGone(f"the worker of rank {rank} ({grant.worker}) is gone{why}: continue the training with --resume")


def _raise(failures: dict[int, Exception], grants: list[Grant]) -> None:
    """Raise what explains the others: a worker that died or vanished, else what the lowest rank raised."""
    for rank, error in sorted(failures.items()):
        if isinstance(error, RayActorError | WorkerGone):
            for other in failures.values():
                if isinstance(other, RayTaskError) and isinstance(other.cause, WorkerGone):
                    raise other.cause from error
            if isinstance(error, WorkerGone):
                raise error
            raise _gone(grants[rank], rank) from error
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
    calls = [grant.handle.keep.remote(grant.epoch, str(bundle)) for grant in grants]
    sha256, *_ = [
        answered(call, g.worker, seconds=READ, check=lease.check) for call, g in zip(calls, grants, strict=True)
    ]
    if sha256 is not None:
        first = grants[0]
        put = first.handle.publish.remote(first.epoch, sha256)
        lease.publish(first, sha256, answered(put, first.worker, seconds=READ, check=lease.check))
