"""Exceptions that end a command with one line: what the user can mend, and what goes on by itself when asked again.

Their messages, like everything that is recorded or printed, go through `redacted`: keys in URLs are for the store alone.
"""

import re
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

# s3://KEY:SECRET@bucket. A secret may hold slashes, so it ends at the last @ of the word; Path() makes one slash of two.
_USER = re.compile(r"""\b([a-z][a-z0-9+.-]*:/+)[^\s/@:?'",]*:[^\s'",]*@""", re.IGNORECASE)
_SECRET = "(?:key|secret|token|signature|sig|password|credential)"
_OPTION = re.compile(rf"""([?&][^\s=&'",]*{_SECRET}[^\s=&'",]*=)[^\s&'",]*""", re.IGNORECASE)
HIDDEN = "***"


def redacted(text: object) -> str:
    """A place, a command line or a message without the keys and secrets of the URLs in it. Doing it twice changes nothing.

    >>> redacted("screen s3://KEY:SECRET@bucket/cells.parquet --out run")
    'screen s3://***@bucket/cells.parquet --out run'
    >>> redacted("s3://bucket/run?region=eu-west-1&secret_key=SECRET")
    's3://bucket/run?region=eu-west-1&secret_key=***'
    """
    return _OPTION.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", str(text)))


# Options that are given or not, and have no value.
SWITCHES = frozenset(
    (
        "resume",
        "gene_shifts",
        "per_cell",
        "refill",
        "reference_overflow",
        "reference_names",
        "keep_uncropped",
        "bottom",
        "confounded",
        "despite_gate",
        "dry_run",
    )
)
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)(?: ([\w.]+)$)?")

P = ParamSpec("P")
R = TypeVar("R")


def python_words(text: str) -> str:
    """A message that names options of the command line, in the keywords of Python; commands in backticks stay.

    >>> python_words("run exists: continue it with --resume, or give another --out")
    'run exists: continue it with resume=True, or give another out'
    >>> python_words("column 'index' holds symbols, give --gene-column index")
    "column 'index' holds symbols, give gene_column='index'"
    """

    def keyword(found: re.Match[str]) -> str:
        name, value = found.group(1).replace("-", "_"), found.group(2)
        if name in SWITCHES:
            return f"{name}=True" + (f" {value}" if value else "")
        return name if value is None else f"{name}={value!r}"

    parts = text.split("`")
    parts[::2] = [_FLAG.sub(keyword, part) for part in parts[::2]]
    return "`".join(parts)


@cache
def in_python(function: Callable[P, R]) -> Callable[P, R]:
    """The function as Python offers it: what it refuses is said in `python_words`."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (InputError, Interrupted) as error:
            error.args = (python_words(str(error)), *error.args[1:])
            raise

    return called


class InputError(ValueError):
    """Bad usage or bad input: exit code 2. The message is one line: the value, the limit, the fix."""

    def __init__(self, message: object) -> None:
        super().__init__(redacted(message))


class Interrupted(RuntimeError):
    """Work that machines cut short and that `--resume` continues: exit code 3. The message is one line that says so."""

    def __init__(self, message: object) -> None:
        super().__init__(redacted(message))


class Stopped(Exception):
    """Work that ended early because it was asked to, after it had saved itself: exit code 3. `--resume` continues it."""


class TrainingFailed(RuntimeError):
    """A training that cannot go on although its input was fine: exit code 1. The message is one line with the way out."""
