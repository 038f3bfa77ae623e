"""The one exception a user can mend: it names the value, the limit and the fix, and ends a command with exit code 2."""


class InputError(ValueError):
    """Bad usage or bad input. The message is one line: the value, the limit, the fix."""
