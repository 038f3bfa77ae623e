"""Ctrl-C and SIGTERM: one stop, however often they come, and no trace when all is done."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rankshift.jobs.cli import stopping


@pytest.fixture
def handlers() -> Iterator[None]:
    """What signals do comes back after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_second_signal_is_the_same_stop(sent, ignored, handlers, monkeypatch):
    monkeypatch.setattr(stopping, "AGAIN", 3600.0)
    monkeypatch.setattr(stopping, "_where_ignored", stopping.OneStop())
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    signal.signal(signal.SIGTERM, stopping.terminated)
    stopping.bear_impatience()
    stops = 0
    for _ in range(3):
        try:
            signal.raise_signal(sent)
        except KeyboardInterrupt:
            stops += 1
    assert stops == (0 if ignored and sent == signal.SIGINT else 1)


def test_who_asks_again_later_or_of_another_command_is_heard(handlers, monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stopping.bear_impatience()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    stopping.bear_impatience()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(stopping, "AGAIN", 0.0)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_the_caller_stays(handlers):
    signal.signal(signal.SIGINT, own := lambda number, frame: None)
    stopping.bear_impatience()
    assert signal.getsignal(signal.SIGINT) is own


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_a_signal_while_the_interpreter_ends_shows_no_trace(sent):
    code = (
        "import atexit, signal; from rankshift.jobs.cli import entry\n"
        f"atexit.register(lambda: signal.raise_signal(signal.{sent}))\n"
        "entry.run_command = lambda arguments: 3\n"
        "entry.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
