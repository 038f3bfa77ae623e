"""Files of text as bytes and as characters: UTF-8, or whatever their byte order mark says; anything else is refused."""

import codecs
from pathlib import Path

from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import one_line

# Marks in front of a text and what it is written in; the longer ones first, because UTF-32 begins like UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def is_file(path: Path) -> bool:
    """Is there a file at the path? A name that no file can have has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than a name may be, or with a zero byte in it
        return False


def readable(path: Path) -> Path:
    """`path` if it is a file with content of its own; a Git LFS pointer is not."""
    if not is_file(path):
        raise InputError(f"{path} does not exist or is not a file: check the path")
    try:
        with path.open("rb") as file:
            start = file.read(40)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its rights") from error
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
    return path


def read_text(path: Path) -> str:
    """The characters of a text file, without a byte order mark; raises InputError where it is no text that we can tell."""
    try:
        raw = readable(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its rights") from error
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({one_line(error)}): save it as UTF-8") from error
    if not text and not encoding.startswith("utf-8"):
        raise InputError(f"{path} is not UTF-8 text (a mark of {encoding} and nothing behind it): copy it again")
    if "\x00" in text:
        raise InputError(f"{path} is no text, it holds zero bytes: save it as UTF-8 text")
    return text
