"""JSON that anyone may have written or damaged, read in one way: a value, an object, or one line that says what is wrong."""

import json
from pathlib import Path
from typing import Any

from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.text_file import read_text


def read_json(path: Path, fix: str = "repair it") -> Any:
    """The value in a JSON file; raises InputError, which ends in `fix`, where it holds none."""
    return parsed(read_text(path), path, fix)


def read_object(path: Path, fix: str = "repair it") -> dict[str, Any]:
    """The object in a JSON file; raises InputError for anything else."""
    content = read_json(path, fix)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not an object: {fix}")
    return content


def parsed(text: str | bytes, where: object, fix: str) -> Any:
    """The value of JSON text; where: what holds it, for the message."""
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{where} is not JSON that can be read: it is nested too deeply: {fix}") from None
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {first_line(error)}: {fix}") from error
