"""Exceptions that end a command with one line: what the user can mend, and what goes on by itself when asked again.

Their messages, like everything that is recorded or printed, go through `redacted`: keys in URLs are for the store alone.
"""

import re

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
