"""Entries of a JSON object that anyone may have written, taken by name and kind; what does not fit is said in a few words."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args

Entries = Mapping[str, Any]
_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class Unfit(ValueError):
    """An entry that cannot be."""


_NEEDED = object()


def take(found: Entries, name: str, kind: type, otherwise: Any = _NEEDED) -> Any:
    """The value of an entry, if it is of a kind; `otherwise` where it is missing or null."""
    value = found.get(name)
    if value is not None:
        return _checked(value, name, kind)
    if otherwise is _NEEDED:
        raise Unfit(f"it has no {name}")
    return otherwise


def all_of(values: list[Any], name: str, kind: type) -> list[Any]:
    """The values of a list, if all are of a kind."""
    return [_checked(value, name, kind) for value in values]


def _checked(value: Any, name: str, kind: type) -> Any:
    fits = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise Unfit(f"{name} is {short(value)}, {_NAMES[kind]} is needed")
    return value


def typed(made: Any, found: Entries, name: str) -> Any:
    """An entry that is an object, as a dataclass of plain fields; those with a default may be missing."""
    entry = take(found, name, dict)
    taken = {}
    for f in fields(made):
        kind: Any = get_args(f.type)[0] if get_args(f.type) else f.type  # str of `str | None`
        taken[f.name] = take(entry, f.name, kind, _NEEDED if f.default is MISSING else f.default)
    return made(**taken)


def short(value: Any) -> str:
    """A value for a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
