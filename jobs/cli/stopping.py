"""What Ctrl-C and SIGTERM do to a command: they stop it once, however often they come, and when all is done they end it."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

AGAIN = 2.0  # seconds in which another Ctrl-C is the same one: a command that stops ends its cluster, and says so


class OneStop:
    """A handler that raises KeyboardInterrupt, once for all signals that come within AGAIN seconds."""

    def __init__(self) -> None:
        self._last = -AGAIN

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Stop, unless that has begun."""
        now = time.monotonic()
        if now - self._last >= AGAIN:
            self._last = now
            raise KeyboardInterrupt


_where_ignored = OneStop()


def terminated(number: int, frame: FrameType | None) -> None:
    """A job that is stopped, or a machine that is taken away, sends SIGTERM: the same as Ctrl-C to us.

    Also where Ctrl-C is ignored, because a script's `&` has started the command.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        _where_ignored(number, frame)
    else:
        signal.raise_signal(signal.SIGINT)


def bear_impatience() -> None:
    """A command begins: let a second Ctrl-C not cut short what the first one began. Other handlers than Python's stay."""
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler or isinstance(before, OneStop)
    if ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, OneStop())


def end_when_asked(code: int) -> None:
    """A command has ended with this code: let a signal end the process at once, whatever the interpreter still tidies up."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it is gone
            stream.flush()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os._exit(code))
