"""The compacted copy of a run's parts, as readers find it: generations of sorted files, and the shards that each one replaces.

The markers stay the truth. A generation counts while every shard in it has the marker it was made from and its files are
there; where it does not count, readers take the parts, which are never removed. Module `compaction` writes generations.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import COMPACTED, GENES, SHIFTS
from rankshift.screen.runs.markers import Marker, Stamp, remember
from rankshift.screen.runs.sums import QUICK, damage, recorded_bytes, trust

INDEX = "index.json"
INDEX_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Files that hold the rows of some shards. shards: stamp and marker by name; files: names by folder (shifts, genes).

    sums: of the files, by their names; none in an index of before they were taken.
    """

    shards: Mapping[str, tuple[Stamp, Marker]]
    files: Mapping[str, tuple[str, ...]]
    sums: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of its shifts."""
        return sum(int(marker["rows"]) for _, marker in self.shards.values())

    def stands(self, run: Path, markers: Mapping[str, Marker]) -> bool:
        """Does it hold what these markers say, in files that are as they were written?"""
        if any(markers.get(name) != marker for name, (_, marker) in self.shards.items()):
            return False
        there = all((run / COMPACTED / name).is_file() for names in self.files.values() for name in names)
        return there and self.damage(run) is None

    def damage(self, run: Path, *, whole: bool = False) -> str | None:
        """The first file that is not as it was written, and how. whole: read all, where else sizes of many bytes do."""
        sizes = not whole and recorded_bytes(self.sums) > QUICK
        return damage(run / COMPACTED, self.sums, sizes=sizes, anew=whole)


def generations(run: Path) -> tuple[Generation, ...]:
    """The generations that the index of a run names, oldest first. Where markers have not changed, none need be read again."""
    place = run / COMPACTED / INDEX
    try:
        state = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    told, read = _parsed(place, (state.st_ino, state.st_mtime_ns, state.st_size))
    remember(run, {name: shard for one in told for name, shard in one.shards.items()})
    trust(run, read)
    return told


@lru_cache(maxsize=8)
def _parsed(place: Path, stamp: Stamp) -> tuple[tuple[Generation, ...], dict[str, tuple[Stamp, str]]]:
    """Generations, and stamps and sums of files that were read; stamp: of the index, which is parsed again if that changed."""
    try:
        found = json.loads(place.read_bytes())
        if found["version"] != INDEX_VERSION:
            raise ValueError(f"version {found['version']}, this one reads {INDEX_VERSION}")
        told = tuple(
            Generation(
                shards={
                    name: ((stamp[0], stamp[1], stamp[2]), marker) for name, (stamp, marker) in one["shards"].items()
                },
                files={folder: tuple(one["files"][folder]) for folder in one["files"]},
                sums={name: dict(found) for name, found in one.get("sums", {}).items()},
            )
            for one in found["generations"]
        )
        read = {name: ((at[0], at[1], at[2]), str(sha)) for name, (at, sha) in found.get("read", {}).items()}
        return told, read
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{place} cannot be read ({error}): remove {place.parent}, the parts have all rows") from error


def files(run: Path, folder: str, markers: Mapping[str, Marker], told: Iterable[Generation]) -> list[Path]:
    """Files of a folder (shifts or genes) that together hold every row of these shards once: generations, then parts."""
    assert folder in (SHIFTS, GENES)
    whole = run.resolve()
    found, left = [], dict(markers)
    for one in told:
        # Generations share no shard; were one named twice, its rows would still come once.
        if one.shards.keys() <= left.keys() and one.stands(run, markers):
            found += [whole / COMPACTED / name for name in one.files.get(folder, ())]
            for name in one.shards:
                del left[name]
    return found + [whole / folder / f"{name}.parquet" for name in left]
