"""Texts of files and of other people on a terminal: what would tell it to do something is shown instead."""


def printable(text: str, keep: str = "") -> str:
    r"""A text whose control characters stand as escapes, but for those in `keep`.

    >>> printable("up\x1b[2J\n")
    'up\\x1b[2J\\n'
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
