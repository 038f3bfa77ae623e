"""Files that appear whole or not at all: written beside the target, synced, renamed. Nothing is edited in place."""

import os
import platform
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rankshift.screen.errors import InputError

DAY = 86_400.0  # seconds: nobody writes one file for longer
_stuck: list[Path] = []  # files of this process that a read-only disk has kept
_TEMPORARY = re.compile(r"^\..*\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.(tmp|scratch|old)$")


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, *, folders: bool = False, within: Path | None = None) -> Iterator[Path]:
    """A temporary path in the folder of `path`; what was written there becomes `path` when the block ends well.

    On an exception nothing is left behind, also where the folder was moved meanwhile, and an older `path` stays as it was.
    folders: a folder may take the place of one that holds something; without it that is an error, because two may be
    writing. within: a file that stands for the folder it is in, as the manifest of a run: where it is gone, the folder was
    moved or removed, is not made again, and MovedAway is raised.
    """
    _remove_stuck()
    if within is not None:
        check_there(within)
    temporary = _beside(path, "tmp", within)
    folder = os.open(temporary.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield temporary
        sync(temporary)
        if within is not None:
            check_there(within)
        if folders and temporary.is_dir() and path.exists():
            _swap(temporary, path)
        else:
            os.replace(temporary, path)
        os.fsync(folder)
    except BaseException as error:
        try:
            _remove(temporary.name, folder)
        except OSError:  # of a disk that became read-only; what went wrong before is what is told
            _stuck.append(temporary)
        if within is not None and isinstance(error, FileNotFoundError):
            check_there(within)
        raise
    finally:
        os.close(folder)


class MovedAway(InputError):
    """The folder that is written into was moved or removed."""


def check_there(within: Path) -> None:
    """Raise MovedAway where the file that stands for its folder is gone."""
    if not within.exists():
        raise MovedAway(
            f"{within.parent} was moved or removed while it was written: put it back, then continue with --resume"
        )


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """An empty folder in the folder of `beside`, on its disk, that is gone when the block ends."""
    folder = _beside(beside, "scratch")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove(name: str, folder: int) -> None:
    """Remove a file or folder by its name in an open folder, wherever that is by now."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # what unlink says of a folder depends on the system
        shutil.rmtree(name, dir_fd=folder)


def _remove_stuck() -> None:
    """Remove what this process could not remove before, for nobody else takes its files for left over while it lives."""
    for path in list(_stuck):
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            _stuck.remove(path)


def _beside(path: Path, ending: str, within: Path | None = None) -> Path:
    if within is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif path.parent != within.parent:
        try:
            path.parent.mkdir(exist_ok=True)
        except FileNotFoundError:
            check_there(within)
            raise
    return path.with_name(f".{path.name[:64]}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{ending}")


def sweep(folder: Path) -> None:
    """Remove temporary files that a process of this machine has left in `folder` and that is gone; others after a day."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        made = _TEMPORARY.search(entry.name)
        if made is None:
            continue
        try:
            left = not _alive(int(made["pid"])) if made["machine"] == _machine() else _age(entry) > DAY
            if left and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif left:
                os.unlink(entry.path)
        except OSError:  # somebody else was faster, or may and we may not
            continue


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _age(entry: os.DirEntry[str]) -> float:
    return time.time() - entry.stat(follow_symlinks=False).st_mtime


def _swap(folder: Path, path: Path) -> None:
    """Put `folder` where the folder `path` is, which comes back where that fails."""
    old = _beside(path, "old")
    path.rename(old)
    try:
        folder.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
