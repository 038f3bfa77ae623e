"""Found by the Python of every process that a test starts: where a test has set a mark, the process stops itself.

It is stopped, as by SIGSTOP, just before it gives a file its name, so a test that kills or interrupts something finds it in a
state that no fast machine leaves before the test has looked. A note beside the mark, named after the process, says who
stands there. `support.Halt` sets the marks.
"""

import os
import signal
import sys
import time
from typing import Any

MARKS = os.environ.get("RANKSHIFT_TEST_HALTS", "")


def _halt(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "os.rename" or not isinstance(arguments[1], str | os.PathLike):
        return
    mark = os.path.join(MARKS, os.fsdecode(arguments[1]).replace(os.sep, "%"))
    if os.path.exists(mark):
        note = f"{mark}.{os.getpid()}"
        with open(note, "w"):
            pass
        os.kill(os.getpid(), signal.SIGSTOP)
        while os.path.exists(mark):  # another thread may take the signal, and this one run on for a moment
            time.sleep(0.01)
        os.remove(note)


if MARKS:
    sys.addaudithook(_halt)
