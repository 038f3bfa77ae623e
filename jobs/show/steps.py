"""Steps of a long verb: each is announced with its number and its time, and left out where its result is there already."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from rankshift.screen.errors import InputError, Stopped

Say = Callable[[str], None]


class Steps:
    """Announces steps and their time. count: how many there will be; again: what goes on from a step that was stopped."""

    def __init__(self, say: Say, count: int, *, again: str = "the same command with --resume") -> None:
        self._say, self.count, self._number, self._again = say, count, 0, again

    def tell(self, text: object) -> None:
        """Say something about the step under way."""
        for line in str(text).splitlines():
            self._say(f"      {line}")

    def __call__(
        self,
        title: str,
        result: Path | bool,
        make: Callable[[], object],
        *,
        check: Callable[[], object] | None = None,
    ) -> None:
        """Do a step unless its result, a file that appears whole or what was found out about it, is there.

        `check` raises InputError when the result is there but damaged.
        """
        self._number += 1
        name = f"[{self._number}/{self.count}] {title}"
        if result.exists() if isinstance(result, Path) else result:
            self._say(f"{name}: there already")
            if check is not None:
                try:
                    check()
                except InputError as error:
                    raise InputError(f"{error}. Here: remove {result} and start again") from error
            return
        began = perf_counter()
        self._say(name)
        try:
            make()
        except (Stopped, KeyboardInterrupt):
            self.tell(f"stopped: {self._again} goes on from here")
            raise
        self.tell(f"{perf_counter() - began:.1f} s")
