"""What went wrong, in one line: errors of libraries span several, and a user is shown one."""

LONGEST = 200  # characters of a message that is put whole into one line


def first_line(error: BaseException) -> str:
    """The first line of what another library had to say; its further lines are details."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def one_line(error: object, longest: int = LONGEST) -> str:
    """All of what was said, cut to `longest` characters; the name of an error that says nothing.

    >>> one_line(ValueError("two" + chr(10) + "  lines"))
    'two lines'
    """
    return " ".join(str(error).split())[:longest] or type(error).__name__
