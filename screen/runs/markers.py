"""Markers of committed shards as readers see them. A process reads each marker once, and again only where its file has changed.

What is committed now is asked of the folder every time: only what the markers say is remembered.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from rankshift.screen.errors import InputError
from rankshift.screen.files.json_file import read_object
from rankshift.screen.runs.layout import COMMITS

Marker: TypeAlias = dict[str, Any]
Stamp: TypeAlias = tuple[int, int, int]  # inode, time of the last change, size: a marker written again has another one

FIX = "go on with --resume, which computes that shard again"
FOLDERS = 8  # runs whose markers are remembered; 100,000 markers take some 50 MB
_remembered: OrderedDict[str, dict[str, tuple[Stamp, Marker]]] = OrderedDict()


def stamped(run: Path) -> dict[str, tuple[Stamp, Marker]]:
    """Stamp and marker of every committed shard, by shard name, in the order of the shards."""
    folder = _folder(run)
    known = _remembered.pop(folder, {})
    found: dict[str, tuple[Stamp, Marker]] = {}
    for name, path, stamp in _listed(folder):
        before = known.get(name)
        found[name] = before if before is not None and before[0] == stamp else (stamp, read_marker(Path(path)))
    _keep(folder, found)
    return {name: found[name] for name in in_order(found)}


def committed(run: Path) -> dict[str, Marker]:
    """Marker of every committed shard, by shard name, in the order of the shards."""
    return {name: marker for name, (_, marker) in stamped(run).items()}


def remember(run: Path, markers: dict[str, tuple[Stamp, Marker]]) -> None:
    """Take markers from a file that holds many; each counts only while its own file has the stamp."""
    folder = _folder(run)
    if folder not in _remembered:
        _keep(folder, markers)


def _folder(run: Path) -> str:
    return os.path.realpath(run / COMMITS)


def _keep(folder: str, markers: dict[str, tuple[Stamp, Marker]]) -> None:
    _remembered[folder] = markers
    while len(_remembered) > FOLDERS:
        _remembered.popitem(last=False)


def committed_names(run: Path) -> set[str]:
    """Names of the committed shards, without reading their markers. Temporary files of writers that died do not match."""
    try:
        with os.scandir(run / COMMITS) as entries:
            return {entry.name.removesuffix(".json") for entry in entries if _is_marker(entry.name)}
    except FileNotFoundError:
        return set()


def notes(markers: Iterable[Marker]) -> list[str]:
    """What a reader should know of how the rows were computed, a sentence each.

    >>> notes([{"gpu": "A100", "wider_rows": 0}, {"gpu": "H100", "wider_rows": 7}])  # doctest: +NORMALIZE_WHITESPACE
    ['computed by A100, H100: rows of different devices agree to rounding, not to the bit',
     '7 rows overflowed 16 bits and were computed again in float32']
    """
    found, wider = set[str](), 0
    for marker in markers:
        found.add(str(marker.get("gpu", marker.get("device", ""))))
        wider += marker.get("wider_rows", 0)
    said = []
    if len(found) > 1:
        said.append(
            f"computed by {', '.join(sorted(found))}: rows of different devices agree to rounding, not to the bit"
        )
    if wider:
        said.append(f"{wider:,} rows overflowed 16 bits and were computed again in float32")
    return said


def in_order(names: Iterable[str]) -> list[str]:
    """Names of shards in the order of the shards: a number of seven digits comes after all of six.

    >>> in_order({"shard-1000000", "shard-999999", "shard-100001"})
    ['shard-100001', 'shard-999999', 'shard-1000000']
    """
    return sorted(names, key=lambda name: (len(name), name))


def _is_marker(name: str) -> bool:
    return name.startswith("shard-") and name.endswith(".json")


def _listed(folder: str) -> Iterator[tuple[str, str, Stamp]]:
    """Name, path and stamp of every marker there is."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if _is_marker(entry.name):
                try:
                    state = entry.stat()
                except FileNotFoundError as error:
                    raise InputError(f"{entry.path} is a link to nothing: {FIX}") from error
                yield entry.name.removesuffix(".json"), entry.path, (state.st_ino, state.st_mtime_ns, state.st_size)


def read_marker(path: Path) -> Marker:
    """What a marker says; raises InputError where it is none, or does not say how many rows there are."""
    marker: Marker = read_object(path, FIX)
    rows, seconds = marker.get("rows"), marker.get("encode_seconds", 0.0)
    timed = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < math.inf
    if type(rows) is not int or rows < 0 or not timed:
        raise InputError(f"{path} is damaged ({rows!r} rows, {seconds!r} seconds): {FIX}")
    return marker
