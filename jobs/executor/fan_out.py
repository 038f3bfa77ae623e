"""Fan-out: the driver's loop that gives pieces of work to leased workers until all are done.

A worker that died goes back to where it came from, which lends it again when it answers; its pieces are given to others, and
a piece that lost three workers ends the loop. No worker is asked anything between two pieces: steps come with results, and
a worker that would have to wait for the loop has its next piece already. What the pieces are is the business of the `Work`,
where the workers are that of the `Crew`: the loop knows neither Ray nor threads.
"""

import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from rankshift.jobs.pool.model_cache import ModelCache
from rankshift.jobs.pool.worker import Compute, Count, Fetch, Grant, HeldBack, Job, StaleLease, WorkerDied
from rankshift.screen.errors import Interrupted

HUNG = 45.0  # seconds without an answer after which a worker is taken to hang; one that computes answers at once
OPENING = 4  # times as long for one that opens its job: libraries and a large model may hold the interpreter
TRIES = 3
POLL = 0.5  # seconds that the loop waits for a call to end
LOOK = 2.0  # seconds between questions for progress, for which results are not waited
SHARE = 20  # and they take no more of the loop's time than one part in so many, however many workers there are
Done = Callable[[int], None]
Call = Any  # a call under way, as its crew knows it; it can be a key


class Crew(Protocol):
    """The workers of a lease, as the loop sees them. ahead: pieces that a worker has at once, one computed, others waiting."""

    ahead: int

    def ask(self) -> Call:
        """Ask for more workers. One question is open at a time: asked again, it gives the same call."""

    def granted(self, call: Call) -> list[Grant]:
        """The workers that came of an `ask` that ended; perhaps none, then ask again."""

    def open(self, grant: Grant, key: str, job: Job) -> Call:
        """Begin to open a job on a worker, under a key."""

    def compute(self, grant: Grant, key: str, piece: Any) -> Call:
        """Begin to compute a piece on a worker that has opened the job."""

    def wait(self, calls: Collection[Call], seconds: float) -> list[Call]:
        """Calls that have ended, in the order of `calls`: as soon as there is one, or none after so many seconds."""

    def result(self, call: Call) -> Any:
        """What an ended call gave, of a piece an Answer. Raises HeldBack, StaleLease, WorkerDied, or what the work raised."""

    def progress(self, grants: Iterable[Grant]) -> dict[Grant, int]:
        """Steps of workers since they opened their job, of those that have answered by now. It never waits for one."""

    def gone(self, grant: Grant) -> bool:
        """Has the host of a worker vanished?"""

    def release(self, grant: Grant, *, suspect: bool = False) -> None:
        """Give a worker back; a suspect one (it died, or may hang) is lent again only after it has answered."""

    def should_yield(self, grant: Grant) -> bool:
        """Should this worker, which ended a piece, be given back, because another lease waits for its share?"""


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
    """The loop over some work with a crew. say: hears of workers that hang; hung: seconds after which one does."""

    def __init__(
        self, crew: Crew, work: Work, *, say: Callable[[str], None] = lambda line: None, hung: float = HUNG
    ) -> None:
        self._say, self._hung = say, hung
        self._unheard: dict[Grant, float] = {}  # since when a worker that is asked has not answered
        self._crew, self._work, self._key = crew, work, uuid.uuid4().hex
        self._tries: Counter[int | None] = Counter()
        self._heard: dict[Grant, int] = {}  # steps of a worker, as far as heard
        self._fresh: set[Grant] = set()  # workers heard since the last look
        self._held: dict[Grant, dict[Call, int | None]] = {}  # by worker: calls and their pieces, None while it opens
        self._owner: dict[Call, Grant] = {}
        self._next_look = time.monotonic() + LOOK

    def drive(self, done: Done = lambda n: None) -> None:
        """Until every piece is done; `done` is told the steps that workers report."""
        crew, todo = self._crew, self._work.todo
        asking = None
        while todo or self._under_way():
            if asking is None and todo:  # perhaps again: the last piece may have lost the last worker
                asking = crew.ask()
            calls = self._owner if asking is None else [asking, *self._owner]
            for call in crew.wait(calls, POLL):
                if call == asking:
                    asking = None
                    for grant in crew.granted(call):
                        self._begin(grant, crew.open(grant, self._key, self._work.job), None)
                elif call in self._owner:  # else it was forgotten with its worker, which another call has lost
                    self._finish(call, done)
            self._look(done)
        for grant in self._held:
            crew.release(grant, suspect=True)  # still opening what is done

    def _under_way(self) -> bool:
        return any(piece is not None for calls in self._held.values() for piece in calls.values())

    def _begin(self, grant: Grant, call: Call, piece: int | None) -> None:
        self._held.setdefault(grant, {})[call] = piece
        self._owner[call] = grant

    def _finish(self, call: Call, done: Done) -> None:
        """A call has ended: give its worker the next piece, or back."""
        grant = self._owner[call]
        try:
            answer = self._crew.result(call)
        except HeldBack:
            self._work.todo.appendleft(self._ended(call))  # type: ignore[arg-type]  # only pieces are held back
        except StaleLease:
            self._lost(grant)
            return
        except WorkerDied as error:
            if again := self._lost(grant):
                self._count(again[0], error)  # the others were only waiting behind it
            return
        else:
            piece = self._ended(call)
            if piece is not None:
                self._told(grant, answer.steps, done)
                self._work.keep(piece, answer.result)
        self._go_on(grant)

    def _ended(self, call: Call) -> int | None:
        return self._held[self._owner.pop(call)].pop(call)

    def _go_on(self, grant: Grant) -> None:
        """Send a worker what it has room for. Pieces wait at a worker only while there are enough of them for everybody."""
        todo, mine = self._work.todo, self._held[grant]
        staying = not todo or not self._crew.should_yield(grant)
        while staying and todo and len(mine) < (self._crew.ahead if len(todo) >= len(self._held) else 1):
            number = todo.popleft()
            self._begin(grant, self._crew.compute(grant, self._key, self._work.piece(number)), number)
        if not mine:
            del self._held[grant]
            self._crew.release(grant)

    def _lost(self, grant: Grant) -> list[int | None]:
        """A worker is no longer ours: its pieces are done again, unless they survived. Returns those, [None] if it opened."""
        pieces = list(self._held.pop(grant).items())
        for call, _ in pieces:
            del self._owner[call]
        self._crew.release(grant, suspect=True)
        again = [piece for _, piece in pieces if piece is None or not self._work.survived(piece)]
        self._work.todo.extend(piece for piece in again if piece is not None)
        return again

    def _count(self, piece: int | None, error: WorkerDied) -> None:
        self._tries[piece] += 1
        if self._tries[piece] >= TRIES:
            what = "workers die while they open it" if piece is None else f"{self._work.name(piece)} lost its worker"
            raise Interrupted(
                f"{what}, {TRIES} times ({error}): see the logs of the workers, then continue with --resume"
            ) from error

    def _look(self, done: Done) -> None:
        """Now and then, ask workers that have been silent how far they are."""
        began = time.monotonic()
        if began < self._next_look:
            return
        silent = [grant for grant in self._held if grant not in self._fresh]
        self._fresh.clear()
        for grant in silent:
            self._unheard.setdefault(grant, began)
        for grant, steps in self._crew.progress(silent).items():
            # While it opens the job, the steps may be those of the job before.
            self._told(grant, 0 if self._opening(grant) else steps, done)
        self._give_up(began)
        spent = time.monotonic() - began
        self._next_look = began + max(LOOK, SHARE * spent)

    def _give_up(self, now: float) -> None:
        """Pieces of workers that hang, or whose host has vanished, go to others; where they came from, they are restarted."""
        for grant, since in list(self._unheard.items()):
            limit = self._hung * (OPENING if self._opening(grant) else 1)
            if now - since > limit:
                del self._unheard[grant]
                if grant in self._held:
                    self._say(f"{grant.worker} has not answered for {limit:.0f} s: its work is given to others")
                    self._lost(grant)
        for grant in [grant for grant in self._held if self._crew.gone(grant)]:
            self._say(f"the host of {grant.worker} does not answer: its work is given to others")
            self._lost(grant)

    def _opening(self, grant: Grant) -> bool:
        return None in self._held.get(grant, {}).values()

    def _told(self, grant: Grant, steps: int, done: Done) -> None:
        """Tell `done` of steps that a worker made since it was last heard."""
        self._fresh.add(grant)
        self._unheard.pop(grant, None)
        more = steps - self._heard.get(grant, 0)
        if more > 0:
            self._heard[grant] = steps
            done(more)


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
