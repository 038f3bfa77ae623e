"""What every executor offers: work is mapped over its workers, a function is called where they are, a training gets them all.

It is never asked which device its workers have: what depends on the device is decided by a function that `call` runs there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar

from rankshift.jobs.executor.fan_out import CallWork, Crew, Done, FanOut, Work
from rankshift.jobs.training.gang import Rank, Report

Train = Callable[[Rank, Any, Report], dict[str, Any]]
Say = Callable[[str], None]
A = TypeVar("A")
B = TypeVar("B")


class Executor(ABC):
    """Workers that compute for one command. Nothing is started before the first work, and all of it ends with the block.

    workers: how many at most. what: a word for whoever looks at who holds workers. say: hears what is waited for.
    """

    def __init__(self, workers: int, *, what: str = "", say: Say = lambda line: None) -> None:
        self.workers, self.what, self.say = workers, what, say

    def __enter__(self) -> "Executor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def map(self, work: Work, done: Done = lambda n: None) -> None:
        """Compute every piece of some work; `done` is told of steps as workers report them.

        Raises what a piece raised, and Interrupted where one lost too many workers.
        """
        with self.crew() as crew:
            FanOut(crew, work, say=self.say).drive(done)

    def call(self, function: Callable[[A], B], argument: A) -> B:
        """`function(argument)` on one worker, on its device. Function and argument are pickled, so the function is a module's.

        It runs again where its worker dies, so it must leave nothing half done.
        """
        work = CallWork(function, argument)
        with self.crew() as crew:
            FanOut(crew, work, say=self.say).drive()
        return work.result  # type: ignore[return-value]  # set by the one piece, or an error was raised

    @abstractmethod
    def crew(self) -> AbstractContextManager[Crew]:
        """Workers for the loop of `fan_out`, given back when the block ends."""

    @abstractmethod
    def train(self, train: Train, job: Any, total: int) -> dict[str, Any]:
        """Run a training `train(rank, job, report)` on as many workers as there are, all at once; returns rank 0's result.

        total: how many cells will be reported in all, for the bar. Raises Stopped when Ctrl-C was pressed, after the training
        has saved itself, and WorkerGone when a worker died.
        """

    @abstractmethod
    def close(self) -> None:
        """End what was started for this command alone."""
