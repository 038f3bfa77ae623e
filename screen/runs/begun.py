"""What is done of a shard that is not committed yet: whoever stops or dies in the midst of it loses seconds, not the shard.

Blocks of rows are kept in small files, each with a checksum of its own, until the shard is committed. Nothing needs them: what
is damaged, or was computed by another device or version, counts as not there and is computed again.
"""

import json
import os
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from rankshift.screen.runs.layout import BEGUN
from rankshift.screen.runs.writing import writing

EVERY = 5.0  # seconds between two files: with a block's own time, what a kill costs at most
Block = Mapping[str, np.ndarray]
_MADE_BY = "made_by"  # entry of a file, beside those of its blocks


class Begun:
    """The blocks of one shard, known by a key (what they belong to) and their number under it.

    made_by: all that their bits depend on beside the run. A reader finds those that were made by the same.
    """

    def __init__(self, run: Path, shard: str, made_by: Mapping[str, str]) -> None:
        self._run, self._shard = run, shard
        self._made_by = json.dumps(dict(made_by), sort_keys=True)
        self._there = self._read()
        self._waiting: dict[tuple[str, int], Callable[[], Block]] = {}
        self._last = time.monotonic()

    def blocks(self, key: str) -> list[Block]:
        """Those of a key that were kept, from the first on, without a gap."""
        found: list[Block] = []
        while (key, len(found)) in self._there:
            found.append(self._there.pop((key, len(found))))
        return found

    def add(self, key: str, number: int, block: Callable[[], Block]) -> None:
        """A block is done. It is asked for when a file is written, and forgotten then.

        What the disk does not take now is tried again with the next: no shard fails for what it does not need.
        """
        self._waiting[key, number] = block
        if time.monotonic() - self._last >= EVERY:
            with suppress(OSError):
                self.save()

    def save(self) -> None:
        """Write what was not written yet."""
        self._last = time.monotonic()
        if not self._waiting:
            return
        arrays = {
            f"{number}/{key}/{name}": array
            for (key, number), block in self._waiting.items()
            for name, array in block().items()
        }
        arrays[_MADE_BY] = np.array(self._made_by)
        path = self._folder / f"{self._shard}.{uuid.uuid4().hex[:8]}.npz"
        with writing(self._run, path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # no array has the name of an option
        self._waiting.clear()

    def clear(self) -> None:
        """The shard is committed, by whomever: nothing of it is begun any more."""
        self._waiting.clear()
        for path in self._files():
            path.unlink(missing_ok=True)
        with suppress(OSError):  # others' shards, or none at all
            self._folder.rmdir()

    @property
    def _folder(self) -> Path:
        return self._run / BEGUN

    def _files(self) -> list[Path]:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        return [self._folder / name for name in names if name.startswith(f"{self._shard}.")]

    def _read(self) -> dict[tuple[str, int], Block]:
        found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        for path in self._files():
            # A file that another process removes, because it commits the shard, is a file that is not there.
            with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                with np.load(path, allow_pickle=False) as file:
                    if str(file[_MADE_BY]) != self._made_by:
                        continue
                    arrays = {name: file[name] for name in file.files if name != _MADE_BY}
                for name, array in arrays.items():
                    number, key, column = name.split("/")
                    found.setdefault((key, int(number)), {})[column] = array
        return dict(found)


@contextmanager
def begun(run: Path, shard: str, made_by: Mapping[str, str]) -> Iterator[Begun]:
    """The block that computes a shard and commits it. If it fails or is stopped, what is done is kept."""
    kept = Begun(run, shard, made_by)
    try:
        yield kept
    except BaseException:
        with suppress(
            Exception
        ):  # a full disk, a run that is gone, a device that failed: the first error is what is told
            kept.save()
        raise
    kept.clear()
