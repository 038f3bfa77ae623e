"""Fan-out: the driver's loop that gives pieces of work to leased workers until all are done.

A worker that died goes back to where it came from, which lends it again when it answers; its piece is given to another, and
a piece that lost three workers ends the loop. What the pieces are is the business of the `Work`, where the workers are that
of the `Crew`: the loop knows neither Ray nor threads.
"""

import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from rankshift.jobs.pool.model_cache import ModelCache
from rankshift.jobs.pool.worker import Compute, Count, Fetch, Grant, Job, StaleLease, WorkerDied
from rankshift.screen.errors import Interrupted

TRIES = 3
POLL = 0.5  # seconds between looks at progress
Done = Callable[[int], None]
Call = Any  # a call under way, as its crew knows it; it can be a key


class Crew(Protocol):
    """The workers of a lease, as the loop sees them."""

    def ask(self) -> Call:
        """Ask for more workers. One question is open at a time: asked again, it gives the same call."""

    def granted(self, call: Call) -> list[Grant]:
        """The workers that came of an `ask` that ended; perhaps none, then ask again."""

    def open(self, grant: Grant, key: str, job: Job) -> Call:
        """Begin to open a job on a worker, under a key."""

    def compute(self, grant: Grant, key: str, piece: Any) -> Call:
        """Begin to compute a piece on a worker that has opened the job."""

    def wait(self, calls: list[Call], seconds: float) -> list[Call]:
        """Calls that have ended: as soon as there is one, or none after so many seconds."""

    def result(self, call: Call) -> Any:
        """What an ended call gave. Raises StaleLease, WorkerDied, or what went wrong in the work itself."""

    def progress(self, grants: Iterable[Grant]) -> dict[Grant, int]:
        """Steps of each worker since it opened its job; without those that do not answer at once."""

    def release(self, grant: Grant, *, suspect: bool = False) -> None:
        """Give a worker back; a suspect one (it died, or may hang) is lent again only after it has answered."""

    def should_yield(self) -> bool:
        """Should a worker that ended a piece be given back, because another lease waits for its share?"""


class Work(Protocol):
    """Pieces of work by number, as the driver sees them."""

    todo: deque[int]

    @property
    def job(self) -> Job:
        """What every worker opens before its first piece."""

    def piece(self, number: int) -> Any:
        """What travels to the worker that computes a piece."""

    def keep(self, number: int, result: Any) -> None:
        """Take the result of a piece."""

    def survived(self, number: int) -> bool:
        """Is a piece done although its worker died before it said so?"""

    def name(self, number: int) -> str:
        """A piece in words, for errors."""


class FanOut:
    """The loop over some work with a crew."""

    def __init__(self, crew: Crew, work: Work) -> None:
        self._crew, self._work, self._key = crew, work, uuid.uuid4().hex
        self._tries: Counter[int | None] = Counter()
        self._heard: dict[Grant, int] = {}  # steps of a worker, as far as heard
        self._busy: dict[Call, tuple[Grant, int | None]] = {}  # call -> its worker, and the piece, None while it opens

    def drive(self, done: Done = lambda n: None) -> None:
        """Until every piece is done; `done` is told the steps that workers report."""
        crew, todo = self._crew, self._work.todo
        asking = None
        while todo or self._under_way():
            if asking is None and todo:  # perhaps again: the last piece may have lost the last worker
                asking = crew.ask()
            calls = [*self._busy] if asking is None else [asking, *self._busy]
            for call in crew.wait(calls, POLL):
                if call == asking:
                    asking = None
                    for grant in crew.granted(call):
                        self._busy[crew.open(grant, self._key, self._work.job)] = grant, None
                else:
                    self._finish(call, done)
            self._hear((grant for grant, piece in self._busy.values() if piece is not None), done)
        for grant, _ in self._busy.values():
            crew.release(grant, suspect=True)  # still opening what is done

    def _under_way(self) -> bool:
        return any(piece is not None for _, piece in self._busy.values())

    def _finish(self, call: Call, done: Done) -> None:
        """A call has ended: give its worker the next piece, or back."""
        grant, piece = self._busy.pop(call)
        try:
            result = self._crew.result(call)
        except StaleLease:
            self._lost(grant, piece)
        except WorkerDied as error:
            self._lost(grant, piece)
            self._count(piece, error)
        else:
            if piece is not None:
                self._hear([grant], done)
                self._work.keep(piece, result)
            if self._work.todo and not self._crew.should_yield():
                number = self._work.todo.popleft()
                self._busy[self._crew.compute(grant, self._key, self._work.piece(number))] = grant, number
            else:
                self._crew.release(grant)

    def _lost(self, grant: Grant, piece: int | None) -> None:
        """A worker is no longer ours: its piece is done again, unless it survived."""
        self._crew.release(grant, suspect=True)
        if piece is not None and not self._work.survived(piece):
            self._work.todo.append(piece)

    def _count(self, piece: int | None, error: WorkerDied) -> None:
        self._tries[piece] += 1
        if self._tries[piece] >= TRIES:
            what = "workers die while they open it" if piece is None else f"{self._work.name(piece)} lost its worker"
            raise Interrupted(
                f"{what}, {TRIES} times ({error}): see the logs of the workers, then continue with --resume"
            ) from error

    def _hear(self, grants: Iterable[Grant], done: Done) -> None:
        """Tell `done` of steps that workers made since they were last heard."""
        for grant, steps in self._crew.progress(grants).items():
            fresh = steps - self._heard.get(grant, 0)
            if fresh > 0:
                self._heard[grant] = steps
                done(fresh)


class FunctionCall:
    """One call of a function, as a job: what `Executor.call` sends."""

    weights_sha256: str | None = None

    def __init__(self, function: Callable[[Any], Any], argument: Any) -> None:
        self._function, self._argument = function, argument

    def open(self, models: ModelCache, fetch: Fetch) -> Compute:
        """Nothing to read."""

        def compute(piece: Any, count: Count) -> Any:
            return self._function(self._argument)

        return compute


class CallWork:
    """One call of a function, as work of one piece. It is done again where its worker dies, so it must bear that."""

    def __init__(self, function: Callable[[Any], Any], argument: Any) -> None:
        self.job, self.todo, self.result = FunctionCall(function, argument), deque([0]), None
        self._name = function.__name__

    def piece(self, number: int) -> None:
        """The job says it all."""

    def keep(self, number: int, result: Any) -> None:
        """What the function returned."""
        self.result = result

    def survived(self, number: int) -> bool:
        """A return value that did not come back is lost."""
        return False

    def name(self, number: int) -> str:
        """The function."""
        return f"the call of {self._name}"
