"""State vectors: one embedding per cell state, read from states.json or computed from the cells of each state."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rankshift.screen.cells.labels import label_meant
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.json_file import read_json

KINDS = (pa.array([], pa.float64()), pa.array([], pa.bool_()))  # columns whose values have several spellings


def read_states(path: Path, width: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """{state: float32 [D]} from a states.json, in the order of `names` (all of the file when None).

    Raises InputError when the file is no such mapping, lacks a named state, or its vectors are not as wide as the model.
    """
    found = read_json(Path(path), "make one with rankshift embed … --by COLUMN")
    if not isinstance(found, dict) or not found:
        raise InputError(
            f"states file {path} must hold {{state: [numbers]}}: make one with rankshift embed … --by COLUMN"
        )
    names = list(found) if names is None else names
    out = {}
    # A file may say 1.0 or True where the cells say 1 or true.
    same = {label_meant(kind, key): key for kind in KINDS for key in found} | {key: key for key in found}
    missing = [name for name in names if name not in same]
    if missing:
        there = ", ".join(map(repr, found))
        raise InputError(f"state {missing[0]!r} is not in {path}, which has {there}: name one of those")
    for name in names:
        try:
            vector = np.asarray(found[same[name]], np.float32).reshape(-1)
        except (TypeError, ValueError, OverflowError) as e:
            raise InputError(
                f"state {name!r} in {path} is not a list of numbers: make the file with rankshift embed"
            ) from e
        if len(vector) != width:
            raise InputError(
                f"state {name!r} has {len(vector)} dimensions, the model {width}: embed the states with its bundle"
            )
        if not np.isfinite(vector).all():
            raise InputError(f"state {name!r} in {path} has values that are not finite: embed the states again")
        out[name] = vector
    return out


def write_states(states: Mapping[str, np.ndarray], path: Path) -> None:
    """Write {state: [numbers]} as JSON; float32 values survive the round trip exactly."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps({name: [float(x) for x in vector] for name, vector in states.items()}))


def check_summary(summary: str) -> None:
    """Refuse a summary that is not computed."""
    if summary not in ("mean", "median"):
        raise InputError(f"summary {summary!r} is unknown: use mean or median")


def summarise(embeddings: np.ndarray, labels: Sequence[str], summary: str = "mean") -> dict[str, np.ndarray]:
    """One vector per label over its cells, per dimension, float32; states in order of first appearance.

    The median is the lower middle value for an even count, as the published code's exact_median (PS 3.7).
    """
    check_summary(summary)
    named = np.asarray(labels, dtype=object)
    out = {}
    for name in dict.fromkeys(labels):
        rows = embeddings[named == name]
        out[name] = rows.mean(0, dtype=np.float32) if summary == "mean" else np.sort(rows, 0)[(len(rows) - 1) // 2]
    return out


def check_route(start: str, goal: str, alternatives: Sequence[str]) -> list[str]:
    """The states of a run in their order: start, goal, alternatives. They must all differ."""
    route = [start, goal, *alternatives]
    for i, name in enumerate(route):
        if name in route[:i]:
            raise InputError(f"state {name!r} is named twice: start, goal and alternatives must all differ")
    return route
