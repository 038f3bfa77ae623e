"""Work in this process: the same workers, lent out by the same ledger as a pool's, each in a thread instead of an actor.

It is what computes where no Ray is asked for, and the place to see the fan-out fail, retry, yield and stop without a
cluster. It refuses a training of several ranks: those need processes.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from rankshift.jobs.executor.executor import Executor, Train
from rankshift.jobs.pool.ledger import FREE, QUARANTINE, Ledger, Slot
from rankshift.jobs.pool.worker import Grant, Job, Worker, WorkerDied
from rankshift.jobs.training.alone import alone
from rankshift.jobs.training.gang import Rank
from rankshift.screen.errors import InputError


class Local(Executor):
    """This process: one worker, or as many as were asked for."""

    def __init__(self, workers: int, *, what: str = "", say: Callable[[str], None] = lambda line: None) -> None:
        super().__init__(workers, what=what, say=say)
        self._threads: Threads | None = None

    def close(self) -> None:
        """Wait until the workers have noticed that they are not needed any more."""
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    @contextmanager
    def crew(self) -> Iterator["ThreadCrew"]:
        """See `Executor.crew`."""
        if self._threads is None:
            self._threads = Threads(max(1, self.workers))
        with self._threads.lease(max(1, self.workers)) as crew:
            yield crew

    def train(self, train: Train, job: Any, total: int) -> dict[str, Any]:
        """See `Executor.train`; in the calling thread, because that one hears Ctrl-C."""
        if self.workers > 1:
            raise InputError(
                f"a training by {self.workers} workers needs processes of its own: use Ray, or --workers 0"
            )
        with alone("cells", total) as report:
            return train(Rank(), job, report)


class Threads:
    """Workers in threads, and who holds them. A worker that raises WorkerDied is replaced by one that knows nothing."""

    def __init__(self, count: int) -> None:
        self._lock = threading.RLock()
        self._ledger = Ledger(math.inf)  # a lease cannot outlive its driver here
        self._workers, self._threads = {}, {}
        self._asking: dict[str, Future] = {}  # by lease: its open question
        self._leases = 0
        for i in range(count):
            name = f"thread-{i}"
            self._workers[name] = Worker(name)
            self._threads[name] = ThreadPoolExecutor(1, thread_name_prefix=name)
            self._ledger.slots[name] = Slot(epoch=0)

    @contextmanager
    def lease(self, want: int) -> Iterator["ThreadCrew"]:
        """Up to `want` workers until the block ends."""
        with self._lock:
            self._leases += 1
            name = f"lease-{self._leases}"
            self._ledger.open(name, want, False, time.monotonic())
        try:
            yield ThreadCrew(self, name)
        finally:
            with self._lock:
                self._asking.pop(name, None)
                for worker in sorted(self._ledger.leases[name].held):
                    self._retire(worker, suspect=True)  # it may still be computing
                del self._ledger.leases[name]
                self._hand_out()

    def close(self) -> None:
        """Wait for what runs."""
        for thread in self._threads.values():
            thread.shutdown()

    def ask(self, lease: str) -> Future:
        """The open question of a lease, which ends when workers are granted."""
        with self._lock:
            asked = self._asking.setdefault(lease, Future())
            self._hand_out()
            return asked

    def call(self, worker: str, method: str, *arguments: Any) -> Future:
        """Begin a method of a worker in its thread."""
        return self._threads[worker].submit(self._run, worker, method, arguments)

    def progress(self, worker: str) -> int:
        """Steps of a worker."""
        return self._workers[worker].progress()[0]

    def release(self, lease: str, grant: Grant, suspect: bool) -> None:
        """Take a worker back from its holder."""
        with self._lock:
            if self._ledger.holds(lease, grant.worker, grant.epoch):
                self._retire(grant.worker, suspect)
                self._hand_out()

    def recall(self, lease: str) -> int:
        """How many workers a lease should give back."""
        with self._lock:
            return self._ledger.recall(lease, time.monotonic())

    def _run(self, name: str, method: str, arguments: tuple) -> Any:
        try:
            return getattr(self._workers[name], method)(*arguments)
        except WorkerDied:
            self._workers[name] = Worker(name)
            raise

    def _retire(self, name: str, suspect: bool) -> None:
        epoch = self._ledger.take_back(name, QUARANTINE if suspect else FREE)
        self._workers[name].fence(epoch, None)
        if suspect:
            self.call(name, "drain", epoch).add_done_callback(lambda answer: self._answered(name))

    def _answered(self, name: str) -> None:
        """A suspect worker has ended whatever it did."""
        with self._lock:
            self._ledger.slots[name].state = FREE
            self._hand_out()

    def _hand_out(self) -> None:
        """Grant free workers to the leases that ask."""
        now = time.monotonic()
        for lease in list(self._asking):
            granted = self._ledger.grant(lease, now)
            if granted:
                for worker, epoch in granted:
                    self._workers[worker].fence(epoch, (lease, self._ledger.leases[lease].want, False))
                self._asking.pop(lease).set_result([Grant(worker, None, epoch) for worker, epoch in granted])


class ThreadCrew:
    """The workers of a lease for the fan-out loop. A thread takes its next piece at once, so it needs none ahead."""

    ahead = 1

    def __init__(self, threads: Threads, name: str) -> None:
        self._threads, self._name = threads, name

    def ask(self) -> Future:
        """See `Crew.ask`."""
        return self._threads.ask(self._name)

    def granted(self, call: Future) -> list[Grant]:
        """See `Crew.granted`."""
        return list(call.result())

    def open(self, grant: Grant, key: str, job: Job) -> Future:
        """See `Crew.open`. The job stays in this process, so it is not pickled."""
        return self._threads.call(grant.worker, "open", grant.epoch, key, job)

    def compute(self, grant: Grant, key: str, piece: Any) -> Future:
        """See `Crew.compute`."""
        return self._threads.call(grant.worker, "compute", grant.epoch, key, piece)

    def wait(self, calls: Collection[Future], seconds: float) -> list[Future]:
        """See `Crew.wait`."""
        done = wait(calls, seconds, FIRST_COMPLETED).done
        return [call for call in calls if call in done]

    def result(self, call: Future) -> Any:
        """See `Crew.result`."""
        return call.result()

    def progress(self, grants: Iterable[Grant]) -> dict[Grant, int]:
        """See `Crew.progress`."""
        return {grant: self._threads.progress(grant.worker) for grant in grants}

    def gone(self, grant: Grant) -> bool:
        """See `Crew.gone`. Threads are where the loop is."""
        return False

    def release(self, grant: Grant, *, suspect: bool = False) -> None:
        """See `Crew.release`."""
        self._threads.release(self._name, grant, suspect)

    def should_yield(self, grant: Grant) -> bool:
        """See `Crew.should_yield`."""
        return bool(self._threads.recall(self._name))
