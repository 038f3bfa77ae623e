"""A run is compacted while it is computed: a process beside the driver sorts what has come, once it is worth new files.

The markers stay the truth, so it does not matter when that process is killed, nor whether it fails: the screen goes on.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rankshift.screen.runs.compacted import generations
from rankshift.screen.runs.compaction import clear
from rankshift.screen.runs.markers import committed_names
from rankshift.screen.runs.run import Run

VARIABLE = "RANKSHIFT_COMPACT"  # 0: parts are not compacted unless `rankshift compact` is asked
PARTS = 1000  # that are worth being compacted: opening them takes a query some 0.3 s
ROWS = 1 << 24  # the same of rows, where parts are large: a sorted file of 200 MB


class Compacting:
    """Compacts a run while the block lasts. One process at a time; what is left is sorted when the block ends well.

    Small runs are left as they are, and so are those in an object store, and all where RANKSHIFT_COMPACT is 0.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self._path, self._say = run.path.resolve(), say
        self._wanted = run.mirror is None and os.environ.get(VARIABLE, "1") != "0"
        self._process: subprocess.Popen[bytes] | None = None
        self._parts = self._rows = 0
        self._begun = False  # was it ever worth it?

    def __enter__(self) -> Self:
        if self._wanted:
            there = {name for one in generations(self._path) for name in one.shards}
            self._parts = len(committed_names(self._path) - there)
        return self

    def told(self, rows: int) -> None:
        """A part with so many rows is committed."""
        self._parts, self._rows = self._parts + 1, self._rows + rows
        if self._worth() and (self._process is None or self._process.poll() is not None):
            self._end()
            if self._wanted:
                self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._process is not None:
            self._process.kill()  # no reader sees anything of what it had begun
            self._process.communicate()
            clear(self._path)
        elif kind is None and self._begun:
            self._end()
            self._rest()

    def _rest(self) -> None:
        """Sort the parts that have come since."""
        if self._parts and self._wanted:
            self._begin()
            self._end()

    def _worth(self) -> bool:
        return self._wanted and (self._parts >= PARTS or self._rows >= ROWS)

    def _begin(self) -> None:
        """Start the process; what comes from now on counts for the next."""
        self._parts, self._rows, self._begun = 0, 0, True
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rankshift", "compact", str(self._path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the driver, which ends it
        )

    def _end(self) -> None:
        """Wait for the process, and say why it failed, if it did. Then this run is not compacted any more."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            said = process.communicate()[1]
        except BaseException:  # as of Ctrl-C
            process.kill()
            process.communicate()
            clear(self._path)
            raise
        if process.returncode:
            lines = said.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
            self._say(f"parts are not compacted ({lines[-1]}): queries read them as they are")
            self._wanted = False
