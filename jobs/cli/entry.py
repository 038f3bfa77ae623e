"""The command `rankshift`. Exit codes: 0 done, 1 failed, 2 bad usage or input (one line), 3 stopped, resumable.

Here is what becomes of the errors of the verbs.
"""

import errno
import os
import signal
import sys
import traceback
from types import TracebackType

import typer

from rankshift.jobs.cli import (  # noqa: F401 (registers the verbs)
    cluster,
    data,
    demo,
    embed,
    exploring,
    finetuning,
    pretraining,
    screens,
    study,
)
from rankshift.jobs.cli.app import app, say
from rankshift.jobs.cli.stopping import bear_impatience, end_when_asked, terminated
from rankshift.jobs.pool.connection import exit_where_ray_was
from rankshift.screen.errors import InputError, Interrupted, Stopped, TrainingFailed
from rankshift.screen.extras import said

STOPPED = "stopped; the same command with --resume goes on where it was"
INTERRUPTED = 128 + 2  # what typer makes of Ctrl-C
WAYS = {
    errno.EACCES: "give a place that you may read and write, or change its rights",
    errno.EPERM: "give a place that you may read and write, or change its rights",
    errno.EROFS: "the disk is read-only: give a place on another one, or make it writable and continue with --resume",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "check the path; a file that was there may have been moved or removed meanwhile",
    errno.EEXIST: "it is in the way and no folder: give another place",
    errno.ENOTDIR: "a part of the path is a file: give another place",
    errno.EISDIR: "it is a folder, a file is needed: give another path",
    errno.ELOOP: "its links lead in a circle: mend them",
    errno.EMLINK: "the file system takes no more links there: give another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EAGAIN: "another process holds it: wait until it has ended",
    errno.EBUSY: "another process holds it: wait until it has ended",
    errno.ETXTBSY: "another process holds it: wait until it has ended",
    errno.EDQUOT: "your quota is used up: free some space, then continue with --resume",
}


def main() -> None:
    """The entry point of the command."""
    signal.signal(signal.SIGTERM, terminated)
    sys.excepthook = _unexpected
    code = run_command(sys.argv[1:])
    exit_where_ray_was(code)
    end_when_asked(code)
    sys.exit(code)


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of ours, with its trace, but without the keys of URLs."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip())


def run_command(arguments: list[str]) -> int:
    """Run one command line and turn what happened into an exit code; unexpected errors are raised."""
    bear_impatience()
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        with said():
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
    except BrokenPipeError:  # whoever read what was printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        return _fail(_fault(e), 2)
    except Exception as e:
        if not hasattr(e, "exit_code"):
            raise
        if type(e).__name__ == "NoArgsIsHelpError":  # of click, which typer may carry under another name
            print(e.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            return e.exit_code
        return _fail(e.format_message(), e.exit_code)  # type: ignore[attr-defined]  # a usage error of the command line itself


def _fault(error: OSError) -> str:
    """What the system refused, in a line: the file, the reason, the way out."""
    if error.errno == errno.ENOSPC:
        return f"the disk is full ({error}): free some space, then continue with --resume"
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    shown = " and ".join(name if len(name) < 200 else f"{name[:60]}…{name[-60:]}" for name in names)
    reason = (error.strerror or f"{error}" or type(error).__name__).splitlines()[0][:300]
    way = WAYS.get(error.errno or 0, "check the path and the disk")
    return f"{shown}: {reason}: {way}" if shown else f"{reason}: {way}"


def _fail(message: str, code: int) -> int:
    say(f"rankshift: {' '.join(message.split())}")
    return code
