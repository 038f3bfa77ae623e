"""Steps of a study: each is announced with its number and its time, and left out where its result is there already."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from rankshift.screen.errors import Stopped

Say = Callable[[str], None]


class Steps:
    """Announces steps and their time. count: how many there will be."""

    def __init__(self, say: Say, count: int) -> None:
        self._say, self.count, self._number = say, count, 0

    def tell(self, text: object) -> None:
        """Say something about the step under way."""
        for line in str(text).splitlines():
            self._say(f"      {line}")

    def __call__(self, title: str, result: Path | bool, make: Callable[[], object]) -> None:
        """Do a step unless its result, a file that appears whole or what was found out about it, is there."""
        self._number += 1
        name = f"[{self._number}/{self.count}] {title}"
        if result.exists() if isinstance(result, Path) else result:
            self._say(f"{name}: there already")
            return
        began = perf_counter()
        self._say(name)
        try:
            make()
        except (Stopped, KeyboardInterrupt):
            self.tell("stopped: the same command with --resume goes on from here")
            raise
        self.tell(f"{perf_counter() - began:.1f} s")
