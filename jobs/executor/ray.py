"""Fan-out: the driver's loop that gives pieces of work to leased workers until all are done.

A worker that died goes back to the pool, which lends it again when it answers; its piece is given to another, and a piece
that lost three workers ends the loop. What the pieces are is the business of the `Work`.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayTaskError

from rankshift.jobs.pool.lease import Grant, Lease, cause
from rankshift.jobs.pool.worker import StaleLease
from rankshift.screen.errors import Interrupted

TRIES = 3
POLL = 0.5  # seconds between looks at progress
Done = Callable[[int], None]


class Work(Protocol):
    """Pieces of work by number, and the calls that do them."""

    todo: deque[int]

    def open(self, grant: Grant) -> "ray.ObjectRef":
        """Make a worker ready for any piece."""

    def start(self, grant: Grant, piece: int) -> "ray.ObjectRef":
        """Give a piece to a worker that is ready."""

    def keep(self, piece: int, result: Any) -> None:
        """Take the result of a piece."""

    def survived(self, piece: int) -> bool:
        """Is a piece done although its worker died before it said so?"""

    def name(self, piece: int) -> str:
        """A piece in words, for errors."""


class FanOut:
    """The loop over some work on the workers of a lease."""

    def __init__(self, lease: Lease, work: Work) -> None:
        self._lease, self._work = lease, work
        self._tries: Counter[int | None] = Counter()
        self._told: dict[Grant, int] = {}  # steps of a worker, as far as heard
        self._busy: dict[Any, tuple[Grant, int | None]] = {}  # call -> its worker, and the piece, None while it opens

    def drive(self, done: Done = lambda n: None) -> None:
        """Until every piece is done; `done` is told the steps that workers report."""
        todo = self._work.todo
        asking = self._lease.ask() if todo else None
        while todo or self._under_way():
            calls = [*self._busy] if asking is None else [asking, *self._busy]
            ready, _ = ray.wait(calls, num_returns=1, timeout=POLL)
            for call in ready:
                if call == asking:
                    for grant in self._lease.granted(call):
                        self._busy[self._work.open(grant)] = grant, None
                    asking = self._lease.ask() if todo else None
                else:
                    self._finish(call)
            self._report(done)
        for grant, _ in self._busy.values():
            self._lease.give(grant, suspect=True)  # still opening what is done

    def _under_way(self) -> bool:
        return any(piece is not None for _, piece in self._busy.values())

    def _finish(self, call: Any) -> None:
        """A call has ended: give its worker the next piece, or back to the pool."""
        grant, piece = self._busy.pop(call)
        try:
            result = ray.get(call)
        except StaleLease:
            self._lost(grant, piece)
        except RayActorError as error:
            self._lost(grant, piece)
            self._count(piece, error)
        except RayTaskError as error:
            raise cause(error) from error
        else:
            if piece is not None:
                self._work.keep(piece, result)
            if self._work.todo and not self._lease.recalled():
                piece = self._work.todo.popleft()
                self._busy[self._work.start(grant, piece)] = grant, piece
            else:
                self._lease.give(grant)

    def _lost(self, grant: Grant, piece: int | None) -> None:
        """A worker is no longer ours: its piece is done again, unless it survived."""
        self._lease.give(grant, suspect=True)
        if piece is not None and not self._work.survived(piece):
            self._work.todo.append(piece)

    def _count(self, piece: int | None, error: RayActorError) -> None:
        self._tries[piece] += 1
        if self._tries[piece] >= TRIES:
            what = "workers die while they open it" if piece is None else f"{self._work.name(piece)} lost its worker"
            raise Interrupted(
                f"{what}, {TRIES} times ({error}): see Ray's logs, then continue with --resume"
            ) from error

    def _report(self, done: Done) -> None:
        """Tell `done` of steps that workers made since they were last heard."""
        calls = {grant.handle.told.remote(): grant for grant, piece in self._busy.values() if piece is not None}
        ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=POLL) if calls else ([], [])
        for call in ready:
            try:
                steps, _ = ray.get(call)
            except RayActorError:
                continue
            fresh = steps - self._told.get(calls[call], 0)
            if fresh > 0:
                self._told[calls[call]] = steps
                done(fresh)
