"""Progress for people: a bar with rate and time left on a terminal or in a notebook, a line now and then elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY = 30.0  # seconds between lines where there is no terminal


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f}/s")


class Step(Protocol):
    """Told how many steps were done, and perhaps a word to show beside them."""

    def __call__(self, n: int, note: str = "") -> None:
        """Count n steps."""


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Step]:
    """Show how `total` steps go by; the function it gives is told how many were done."""
    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=console, speed_estimate_period=120) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda n, note="": bar.update(task, advance=n, description=f"{what} {note}".rstrip())
        return
    began = last = perf_counter()
    count = done

    def step(n: int, note: str = "") -> None:
        nonlocal count, last
        count += n
        now = perf_counter()
        if now - last >= LINE_EVERY:
            last = now
            rate = (count - done) / (now - began)
            left = f", {(total - count) / rate:.0f} s left" if rate else ""
            noted = f", {note}" if note else ""
            print(f"{what}: {count}/{total}, {rate:.1f}/s{left}{noted}", file=sys.stderr, flush=True)

    yield step
