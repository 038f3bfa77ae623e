"""Names of runs on the page, which are also their schemas in SQL, and of the tables that the page keeps of each run."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from rankshift.screen.errors import InputError
from rankshift.screen.runs.views import quoted

SCHEMA = quoted("rankshift explore")  # names of runs and tables have no space, so none can be called that


def kept(what: str, number: int) -> str:
    """The table `what` that the page keeps of the run with this number, as SQL.

    >>> kept("means", 0)
    '"rankshift explore"."means 0"'
    """
    return f"{SCHEMA}.{quoted(f'{what} {number}')}"


def named_places(given: Iterable[str]) -> Mapping[str, str]:
    """{name: place} of NAME=PLACE or PLACE alone, which is named like its folder, in letters that SQL takes.

    Raises InputError where a name is given twice.

    >>> named_places(["runs/zero-hours", "up=runs/up", "other/zero-hours"])
    {'zero_hours': 'runs/zero-hours', 'up': 'runs/up', 'zero_hours_2': 'other/zero-hours'}
    """
    out: dict[str, str] = {}
    for text in given:
        name, sign, place = text.partition("=")
        if sign and re.fullmatch(r"\w+", name):
            if name in out:
                raise InputError(f"{name!r} names two runs: give each a name of its own, NAME=RUN")
            out[name] = place
        else:
            stem = re.sub(r"\W+", "_", Path(text).resolve().name, flags=re.ASCII).strip("_") or "run"
            stem = f"run_{stem}" if stem[0].isdecimal() else stem
            name, number = stem, 2
            while name in out:
                name, number = f"{stem}_{number}", number + 1
            out[name] = text
    return out
