"""A training in this process, without a gang: a progress bar, and Ctrl-C as a question asked between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rankshift.jobs.training.gang import Report
from rankshift.screen.progress import Step, progress


class _Bar:
    def __init__(self, step: Step, stopped: Callable[[], bool]) -> None:
        self._step, self.stopped = step, stopped

    def __call__(self, n: int, note: str = "") -> None:
        self._step(n, note)


@contextmanager
def alone(what: str, total: int) -> Iterator[Report]:
    """A report that shows progress towards `total` on the terminal, and hears Ctrl-C."""
    with stop_flag() as stopped, progress(what, total) as step:
        yield _Bar(step, stopped)


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed; a second one interrupts at once, as usual.

    Outside the main thread nothing can be caught, and the answer stays no.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
