"""Checksums of the files of a run: taken when they are written, held against the files when they are read.

A process reads each file once for it, and again only where it has changed. Runs of before checksums were kept have none to hold
against; of them only what is missing or has other rows than its marker says is found.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import marker_path, part_path
from rankshift.screen.runs.markers import Marker, Stamp, committed_names, read_marker
from rankshift.screen.runs.writing import sweep_all

FILES = "files"  # entry of a manifest and of a marker: {name within the run: its sum}
THREADS = 4
QUICK = 1 << 30  # bytes of a run that are read again for a query: a second; of larger runs only sizes are compared
REMEMBERED = 200_000  # files; some 40 MB
_known: dict[str, tuple[Stamp, str, int]] = {}
_told: dict[str, tuple[Stamp, str]] = {}  # what another process found, see `trust`


def sum_of(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def sums_of(run: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Sums of files by their names within a run."""
    return {name: sum_of(run / name) for name in names}


def stamp_of(path: Path) -> Stamp:
    """What changes with any writing to a file."""
    state = os.stat(path)
    return state.st_ino, state.st_mtime_ns, state.st_size


def trust(run: Path, found: Mapping[str, tuple[Stamp, str]]) -> None:
    """Take over what a process found that read these files: stamp and sha256 by name. It counts while the stamp is the same."""
    if len(_told) > REMEMBERED:
        _told.clear()
    _told.update({os.path.realpath(run / name): one for name, one in found.items()})


def read_before(run: Path, names: Iterable[str]) -> dict[str, tuple[Stamp, str]]:
    """Stamp and sha256 of those of these files that this process has read, or trusts."""
    found = {}
    for name in names:
        key = os.path.realpath(run / name)
        if key in _known:
            found[name] = _known[key][:2]
        elif key in _told:
            found[name] = _told[key]
    return found


def damage(
    run: Path,
    files: Mapping[str, Any],
    part: str | None = None,
    rows: int | None = None,
    *,
    sizes: bool = False,
    anew: bool = False,
) -> str | None:
    """The first file of `files` that is not as it was written, and how; None if all are. part: the one that has `rows` rows.

    sizes: compare these alone. anew: trust no other process, read what this one has not read.
    """
    for name in {*files, *([] if part is None else [part])}:
        recorded = files.get(name)
        if sizes and isinstance(recorded, Mapping):
            if not (run / name).is_file() or (run / name).stat().st_size != recorded.get("bytes"):
                return f"{name} is gone or does not have its recorded size"
            continue
        try:
            digest, there = _read_once(run / name, part == name, anew)
        except (OSError, pa.ArrowException) as error:
            return f"{name} is gone or cannot be read ({type(error).__name__})"
        if isinstance(recorded, Mapping) and digest != recorded.get("sha256"):
            return f"{name} does not have its recorded sha256"
        if part == name and there != rows:
            return f"{name} has {there} rows, its marker says {rows}"
    return None


def of_marker(run: Path, name: str, marker: Marker, *, sizes: bool = False, anew: bool = False) -> str | None:
    """What is wrong with what a marker stands for, None if nothing is."""
    files = marker.get(FILES, {})
    if not isinstance(files, dict):
        return f"the marker of {name} is damaged"
    return damage(run, files, part_path(Path(), name).as_posix(), marker["rows"], sizes=sizes, anew=anew)


def check_run(run: Path, files: Any, markers: Mapping[str, Marker], *, whole: bool = False) -> None:
    """Refuse a run in which a file is not as it was written. files: what its manifest says of those beside the parts.

    Of a run of more than QUICK bytes sizes are compared, unless the `whole` of it shall be read.
    """
    sizes = (
        not whole
        and recorded_bytes(files) + sum(recorded_bytes(marker.get(FILES)) for marker in markers.values()) > QUICK
    )
    if isinstance(files, dict) and (found := damage(run, files, sizes=sizes, anew=whole)) is not None:
        raise InputError(f"{run} is damaged ({found}): copy it again from where it was computed")

    def check(name: str) -> str | None:
        return of_marker(run, name, markers[name], sizes=sizes, anew=whole)

    with ThreadPoolExecutor(THREADS) as threads:
        for name, found in zip(markers, threads.map(check, markers), strict=True):
            if found is not None:
                raise InputError(f"{run} is damaged ({found}): go on with --resume, which computes {name} again")


def mend(run: Path) -> dict[str, str]:
    """Take back the markers of shards that are not as they were committed, so that they are computed again: {shard: why}.

    Temporary files of writers that died are cleared away.
    """
    sweep_all(run)
    found = {}
    for name in sorted(committed_names(run)):
        place = marker_path(run, name)
        try:
            why = of_marker(run, name, read_marker(place))
        except InputError as error:
            why = str(error)
        if why is not None:
            found[name] = why
            for lost in (place, part_path(run, name)):
                _remove(lost)
    return found


def recorded_bytes(files: Any) -> int:
    """Recorded bytes of files, 0 of a record that is none."""
    sums = files.values() if isinstance(files, dict) else ()
    return sum(one["bytes"] for one in sums if isinstance(one, dict) and isinstance(one.get("bytes"), int))


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        place.rename(place.with_name(f".{place.name}.was-a-folder"))
    else:
        place.unlink(missing_ok=True)


def _read_once(path: Path, table: bool, anew: bool) -> tuple[str, int]:
    """sha256 of a file, and the rows of a table (-1 of others)."""
    stamp = stamp_of(path)
    key = os.path.realpath(path)
    before = _known.get(key)
    told = None if table or anew else _told.get(key)
    if before is None and told is not None and told[0] == stamp:
        return told[1], -1
    if before is None or before[0] != stamp:
        rows = pq.read_metadata(path).num_rows if table else -1
        before = (stamp, str(sum_of(path)["sha256"]), rows)
        if len(_known) > REMEMBERED:
            _known.clear()
        _known[key] = before
    return before[1], before[2]
