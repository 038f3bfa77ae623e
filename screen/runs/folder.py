"""The run folder: manifest, cells, perturbations, committed parts. Readers see committed parts only; nothing is asked of it
in SQL here (module `run`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rankshift.screen.errors import InputError
from rankshift.screen.files.object_store import Mirror
from rankshift.screen.runs.compacted import files, generations
from rankshift.screen.runs.layout import ANSWERS, CELLS, COMMITS, EMPTY_PART, MANIFEST
from rankshift.screen.runs.manifest import Manifest, Screened
from rankshift.screen.runs.markers import Marker, committed, committed_names
from rankshift.screen.runs.sums import FILES, check_run
from rankshift.screen.runs.writing import writing


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A run on disk. `path` is the folder, `manifest` what run.json says; `mirror` is set where the folder mirrors a URL."""

    path: Path
    manifest: Manifest
    mirror: Mirror | None = None

    @classmethod
    def open(cls, place: Path | str) -> Self:
        """Open the run at a path or a URL; raises InputError when it is none or was written by another schema.

        A URL's manifest and perturbations are fetched at once, its cells and parts when `committed` is asked.
        """
        mirror = Mirror.of(place)
        if mirror is not None:
            _fetch(mirror)
        path = Path(place) if mirror is None else mirror.local
        return cls(path, Manifest.read(path), mirror)

    @property
    def place(self) -> str:
        """Where the run is, for any process of any machine: its URL, or its absolute path."""
        return str(self.path.resolve()) if self.mirror is None else self.mirror.url

    def share(self, *names: str) -> None:
        """Put files just written to the run's folder where the run is, in this order. No effect for a local folder."""
        if self.mirror is not None:
            for name in names:
                self.mirror.push([name])

    def fetch(self, folder: str) -> None:
        """Bring what the store has below a folder of the run to its mirror. No effect for a local folder."""
        if self.mirror is not None:
            self.mirror.pull(self.mirror.objects(folder))

    def remove(self, name: str) -> None:
        """Take a file of the run away, if it is there."""
        if self.mirror is not None:
            self.mirror.remove(name)
        (self.path / name).unlink(missing_ok=True)

    def record(self, **changes: Any) -> Self:
        """The run with typed values of its manifest replaced, written at once."""
        manifest = self.manifest.replace(**changes)
        with writing(self.path, self.path / MANIFEST) as temporary:
            temporary.write_text(manifest.text())
        self.share(MANIFEST)
        return type(self)(self.path, manifest, self.mirror)

    @property
    def screened(self) -> Screened:
        """What only a screen with a model has; raises InputError where there was none."""
        if self.manifest.screened is None:
            raise InputError(f"{self.path} was made without a model: give the --out of a screen")
        return self.manifest.screened

    @property
    def states(self) -> list[str]:
        """State names in the order of their columns."""
        return list(self.manifest.states)

    @property
    def committed(self) -> dict[str, dict]:
        """Marker of every committed shard by name; their parts are at hand, and as they were written (InputError if not)."""
        if self.mirror is not None:
            objects = self.mirror.objects()
            done = {Path(name).stem for name in objects if name.startswith(f"{COMMITS}/")}
            self.mirror.pull({n: info for n, info in objects.items() if n.count("/") == 0 or Path(n).stem in done})
            found = {name: marker for name, marker in committed(self.path).items() if name in done}
        else:
            generations(self.path)  # an index of a compaction spares reading its markers one by one
            found = committed(self.path)
        check_run(self.path, self.manifest.more.get(FILES), found)
        return found

    @property
    def queried(self) -> dict[str, dict]:
        """As `committed`, for readers of `files`: parts of which a compaction has all rows are not held against their sums."""
        if self.mirror is not None:
            return self.committed
        told, found = generations(self.path), committed(self.path)
        left = dict(found)
        for one in told:
            if one.stands(self.path, found):
                for name in one.shards:
                    left.pop(name, None)
        check_run(self.path, self.manifest.more.get(FILES), left)
        return found

    def files(self, folder: str, markers: Mapping[str, Marker], *, compacted: bool = True) -> list[Path]:
        """Files of `folder` (shifts or genes) that hold every row of the shards of these markers once.

        compacted: those of a compaction instead of the parts they were made from, where there was one. The order of their
        rows is another then.
        """
        told = generations(self.path) if compacted and self.mirror is None else []
        return files(self.path, folder, markers, told)

    @property
    def done(self) -> set[str]:
        """Names of the committed shards, without reading them."""
        if self.mirror is not None:
            return {Path(name).stem for name in self.mirror.objects(COMMITS)}
        return committed_names(self.path)

    @property
    def complete(self) -> bool:
        """Are all shards committed? Of an adaptive screen: has it ended?"""
        if self.partial:
            return (self.path / ANSWERS).exists()
        return len(self.done) == self.manifest.shards

    @property
    def partial(self) -> bool:
        """Were rows left out by choice, so that a gene may be finished, estimated or untested?"""
        adaptive = self.manifest.adaptive
        return adaptive is not None and not adaptive.continued

    def check_whole(self, what: str) -> None:
        """Refuse `what` of an adaptive screen: the genes that it measured were chosen for their values."""
        if self.manifest.adaptive is None:
            return
        if self.partial:
            raise InputError(
                f"{self.path} is adaptive, {what} need every gene's rows: ask its view answers, or measure the rest with "
                f"rankshift resume {self.path} --continue-full"
            )
        if not self.complete:
            raise InputError(
                f"{self.path} goes on from an adaptive screen, {what} need every gene's rows: finish it with rankshift resume"
            )

    def holds(self, path: Path) -> bool:
        """Would a file at `path` lie in the run folder, whatever links lead there?"""
        own, there = self.path.resolve(), Path(path).resolve()
        return own == there or own in there.parents


def _fetch(mirror: Mirror) -> None:
    """Bring manifest and names of a run to its mirror; a mirror of another run that was there before is dropped."""
    manifest, here = mirror.read(MANIFEST), mirror.local / MANIFEST
    if manifest is None:
        raise InputError(f"{mirror.shown} is not a run (no {MANIFEST}): give the --out of a screen")
    if here.exists() and _id(here.read_bytes()) != _id(manifest):
        mirror.drop()
    objects = mirror.objects()
    wanted = (name for name in objects if (name.count("/") == 0 and name != CELLS) or Path(name).stem == EMPTY_PART)
    mirror.pull({name: objects[name] for name in wanted})
    if ANSWERS not in objects:  # more was asked since they were fetched
        (mirror.local / ANSWERS).unlink(missing_ok=True)


def _id(manifest: bytes) -> Any:
    """The id in the text of a run.json; of a damaged one the text itself, so that it is like no other."""
    try:
        found = json.loads(manifest)
    except (ValueError, RecursionError):
        return manifest
    return found.get("id") if isinstance(found, dict) else manifest
