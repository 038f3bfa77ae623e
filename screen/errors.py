"""Exceptions that end a command with one line: what the user can mend, and what goes on by itself when asked again."""


class InputError(ValueError):
    """Bad usage or bad input: exit code 2. The message is one line: the value, the limit, the fix."""


class Interrupted(RuntimeError):
    """Work that machines cut short and that `--resume` continues: exit code 3. The message is one line that says so."""


class Stopped(Exception):
    """Work that ended early because it was asked to, after it had saved itself: exit code 3. `--resume` continues it."""


class TrainingFailed(RuntimeError):
    """A training that cannot go on although its input was fine: exit code 1. The message is one line with the way out."""
