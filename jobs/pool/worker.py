"""A worker: it keeps models warm, opens jobs and computes their pieces for whoever holds it by a lease. It knows no Ray.

Every call that computes carries the epoch of its lease; one of an older epoch is refused, and one that is running when
the worker changes hands stops at its next sign of progress. What a job means is the job's own business.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rankshift.jobs.pool.model_cache import ModelCache, Weights
    from rankshift.jobs.training.gang import Rank

Count = Callable[[int], None]
Compute = Callable[[Any, Count], Any]
Fetch = Callable[[str], "Weights | None"]


class StaleLease(Exception):
    """A call of a lease that no longer holds the worker. What it wanted is for the present holder to do."""


class HeldBack(Exception):
    """A piece that waited on a worker was not begun, because its driver should give workers back. Nobody failed."""


class WorkerDied(Exception):
    """The process or thread of a worker ended before its call did. What it had committed stays."""


class Job(Protocol):
    """Work that a worker opens once and then computes piece by piece. It is pickled on its way to another process."""

    weights_sha256: str | None  # of the model it computes with, None where it needs none or does not say

    def open(self, models: "ModelCache", fetch: Fetch) -> Compute:
        """Read what all pieces need; returns compute(piece, count), where count(n) tells of n steps done.

        fetch: weights by their sha256 as another worker published them, None where nobody has.
        """


@dataclass(frozen=True, slots=True)
class Grant:
    """A worker that a lease holds. Its calls carry the epoch. handle: what calls it, the business of whoever granted it.

    host: address and port of Ray's process there; None for a thread of this process.
    """

    worker: str
    handle: Any = field(compare=False)
    epoch: int
    host: tuple[str, int] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a piece. steps: of the worker since it opened the job, so that nobody has to ask for them."""

    steps: int
    result: Any


class Progress:
    """Steps since a job was opened or a training began, and the last word beside them. Counted and read by two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps, self._note = 0, ""

    def restart(self) -> None:
        """Count from zero."""
        with self._lock:
            self._steps, self._note = 0, ""

    def add(self, steps: int, note: str = "") -> None:
        """Count steps; an empty note leaves the one before."""
        with self._lock:
            self._steps += steps
            self._note = note or self._note

    def read(self) -> tuple[int, str]:
        """Steps and note."""
        with self._lock:
            return self._steps, self._note


class Worker:
    """Pieces of a job, or a rank of a training. It knows neither pool nor driver."""

    def __init__(self, name: str, threads: int | None = None) -> None:
        # Here and not above: the pool's own process imports this module, and needs neither torch nor its memory.
        import torch

        from rankshift.jobs.pool.model_cache import ModelCache

        if threads is not None:
            torch.set_num_threads(threads)
        self.name, self.device = name, "cuda" if torch.cuda.is_available() else "cpu"
        self.models = ModelCache()
        self._job: tuple[str, Compute] | None = None
        self._trained: Mapping | None = None
        self._epoch, self._stopping, self._turn = 0, 0, 0
        self._holder: tuple[str, int, bool] | None = None
        self._progress = Progress()

    # ---- control: answered at any time

    def fence(self, epoch: int, holder: tuple[str, int, bool] | None) -> None:
        """The worker changed hands: calls below this epoch end. holder: lease, its number of workers, is it a gang."""
        if epoch >= self._epoch:
            self._epoch, self._holder = epoch, holder

    def hold(self, epoch: int, turn: int) -> None:
        """Begin no piece of this epoch that was sent before a turn; the one that is computed now goes on."""
        if epoch == self._epoch:
            self._turn = turn

    def stop(self, epoch: int) -> None:
        """Ask the training of this epoch to save itself and stop."""
        self._stopping = max(self._stopping, epoch)

    def progress(self) -> tuple[int, str]:
        """Steps since the job was opened or the training began, and the last word beside them. A lost answer loses nothing."""
        return self._progress.read()

    def status(self) -> dict[str, Any]:
        """What it is, who holds it, and what it keeps: process, device, epoch, holder, models, loads."""
        return {
            "process": os.getpid(),
            "device": self.device,
            "epoch": self._epoch,
            "holder": self._holder,
            "models": self.models.models,
            "loads": list(self.models.loads),
        }

    # ---- compute: one call at a time

    def drain(self, epoch: int) -> dict[str, Any]:
        """Answered when everything before it has ended."""
        self._enter(epoch)
        return self.status()

    def open(self, epoch: int, key: str, job: Job, fetch: Fetch = lambda sha256: None) -> None:
        """Open a job under a key that `compute` calls name; it takes the place of the job before."""
        self._enter(epoch)
        self._progress.restart()
        self._job, self._turn = None, 0
        self._job = key, job.open(self.models, fetch)

    def compute(self, epoch: int, key: str, piece: Any, turn: int = 0) -> Answer:
        """Compute a piece of the job that was opened under the key. turn: of its driver when it was sent (see `hold`)."""
        self._enter(epoch)
        if turn < self._turn:
            raise HeldBack(f"{self.name} is to be given back")
        if self._job is None or self._job[0] != key:
            raise StaleLease(f"{self.name} does not have {key} open: it was restarted")

        def count(steps: int) -> None:
            if self._epoch > epoch:
                raise StaleLease(f"{self.name} was lent to another")
            self._progress.add(steps)

        result = self._job[1](piece, count)
        return Answer(self._progress.read()[0], result)

    def train(self, epoch: int, rank: "Rank", function: str, job: Any) -> dict:
        """Take a rank in a training, `module:function` called as function(rank, job, report); returns its result.

        The result's "weights", {name: tensor}, stay here for `keep`. Raises Stopped where it was asked to stop.
        """
        self._enter(epoch)
        self.models.drop_encoders()
        self._job = None
        self._progress.restart()
        module, name = function.split(":")
        report = _Report(self._progress.add, lambda: self._epoch > epoch or self._stopping >= epoch)
        result = dict(getattr(import_module(module), name)(rank, job, report))
        self._trained = result.pop("weights", None)
        return result

    def keep(self, epoch: int, bundle: str) -> str | None:
        """Keep the weights of the training just done as those of the bundle it wrote; returns their sha256, None without."""
        # Here and not above, for the pool's process.
        from rankshift.screen.bundle.bundle import Bundle
        from rankshift.screen.files.object_store import fetched

        self._enter(epoch)
        if self._trained is None:
            return None
        sha256 = Bundle.open(fetched(bundle)).weights_sha256
        self.models.keep(sha256, self._trained)
        self._trained = None
        return sha256

    def _enter(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise StaleLease(f"{self.name} was lent again: epoch {epoch} is over, {self._epoch} is now")
        self._epoch = epoch


class _Report:
    """A training's line to its driver: what it tells is kept until the driver asks."""

    def __init__(self, add: Callable[[int, str], None], stopped: Callable[[], bool]) -> None:
        self._add, self.stopped = add, stopped

    def __call__(self, n: int, note: str = "") -> None:
        self._add(n, note)
