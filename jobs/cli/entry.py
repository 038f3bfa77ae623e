"""The command `rankshift`. Exit codes: 0 done, 1 failed, 2 bad usage or input (one line), 3 stopped, resumable.

Here is what becomes of the errors of the verbs.
"""

import errno
import signal
import sys

import typer

from rankshift.jobs.cli import (  # noqa: F401 (registers the verbs)
    cluster,
    data,
    demo,
    embed,
    finetuning,
    pretraining,
    screens,
)
from rankshift.jobs.cli.app import app, say
from rankshift.screen.errors import InputError, Interrupted, Stopped, TrainingFailed

STOPPED = "stopped; the same command with --resume goes on where it was"
INTERRUPTED = 128 + 2  # what typer makes of Ctrl-C


def main() -> None:
    """The entry point of the command."""
    # A job that is stopped, or a machine that is taken away, sends SIGTERM: the same as Ctrl-C to us.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line and turn what happened into an exit code; unexpected errors are raised."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        code = app(arguments, prog_name="rankshift", standalone_mode=False) or 0
        return _fail(STOPPED, 3) if code == INTERRUPTED else code
    except InputError as e:
        return _fail(str(e), 2)
    except Interrupted as e:
        return _fail(str(e), 3)
    except TrainingFailed as e:
        return _fail(str(e), 1)
    except (Stopped, KeyboardInterrupt, typer.Abort):
        return _fail(STOPPED, 3)
    except typer.Exit as e:
        return e.exit_code
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        return _fail(f"the disk is full ({e}): free some space, then continue with --resume", 2)
    except Exception as e:
        if not hasattr(e, "exit_code"):
            raise
        if type(e).__name__ == "NoArgsIsHelpError":  # of click, which typer may carry under another name
            print(e.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            return e.exit_code
        return _fail(e.format_message(), e.exit_code)  # type: ignore[attr-defined]  # a usage error of the command line itself


def _fail(message: str, code: int) -> int:
    say(f"rankshift: {' '.join(message.split())}")
    return code
