"""Folders of an object store (s3://, gs://, abfs://) through pyarrow's file systems, each mirrored in a folder of this machine.

Object stores rename nothing, but an object appears whole or not at all: so a file is written here, then put there in one
piece. The store decides what exists; the mirror only saves transfers. Keys that would leave the mirror's folder are refused,
and what lies in a mirror is served only from a folder of this user, with the bytes that were fetched.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pyarrow import NativeFile, fs, memory_map

from rankshift.screen.errors import HIDDEN, InputError, redacted
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.one_line import one_line

_URL = re.compile(r"^(s3|gs|gcs|abfs|abfss):/+(.*)$")  # Path() makes one slash of two
PIECE = 8 << 20  # bytes of an object fetched with one request: 128 MB of memory with CONNECTIONS
CONNECTIONS = 16  # transfers at a time, because a store takes tens of milliseconds to answer
Place = Path | str


def url_of(place: Place) -> str | None:
    """The URL if `place` is one, None for a path of this machine.

    >>> url_of(Path("s3://bucket/run")), url_of("run")
    ('s3://bucket/run', None)
    """
    found = _URL.match(str(place))
    return None if found is None else f"{found[1]}://{found[2]}"


def mirrors() -> Path:
    """Where mirrors are kept: a folder of this user, closed to others, below RANKSHIFT_MIRRORS or the temporary directory.

    It is made where it is missing. One of another user, or a link, is refused: others could put files into it.
    """
    root = Path(os.environ.get("RANKSHIFT_MIRRORS") or tempfile.gettempdir())
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"rankshift-mirrors-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    there = folder.lstat()
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid() or there.st_mode & 0o022:
        raise InputError(
            f"{folder} must be a folder that only you can write to, its owner is {there.st_uid} and its mode "
            f"{stat.S_IMODE(there.st_mode):04o}: remove it, or set RANKSHIFT_MIRRORS to another folder"
        )
    if there.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


@dataclass(frozen=True, kw_only=True, eq=False)
class Mirror:
    """A folder in a store: its url, the file system, its path there, and the local folder that mirrors it.

    url: as it was given, with the keys it may hold, for whoever opens the place again; `shown` is for everybody's eyes.
    """

    url: str
    store: fs.FileSystem
    base: str
    local: Path

    @staticmethod
    def of(place: Place) -> "Mirror | None":
        """The mirror of a URL, None for a path of this machine. Nothing is fetched yet.

        S3 is asked at AWS_ENDPOINT_URL where it is set (MinIO and other stores), with the usual AWS credentials. Options of
        pyarrow may stand behind a question mark, as in s3://bucket/run?region=eu-west-1.
        """
        url = url_of(place)
        if url is None:
            return None
        try:
            store, base = _store(url)
        except (ValueError, OSError, NotImplementedError) as error:
            raise InputError(
                f"{url} cannot be opened ({one_line(error)}): check the address and the credentials"
            ) from error
        return Mirror(url=url, store=store, base=base, local=_folder(url))

    @property
    def shown(self) -> str:
        """The URL without keys, as messages and manifests name it."""
        return redacted(self.url)

    def above(self) -> "Mirror":
        """The folder that holds this place."""
        address, mark, options = self.url.partition("?")
        url = address.rstrip("/").rpartition("/")[0] + mark + options
        base = self.base.rpartition("/")[0]
        return replace(self, url=url, base=base, local=_folder(url))

    def objects(self, folder: str = "") -> dict[str, fs.FileInfo]:
        """What the store says of every object below a folder (size, last change), by its name relative to the mirror."""
        where = f"{self.base}/{folder}" if folder else self.base
        selector = fs.FileSelector(where, allow_not_found=True, recursive=True)
        try:
            found = self.store.get_file_info(selector)
        except OSError as error:
            raise InputError(
                f"{self.shown} cannot be listed ({one_line(error)}): check the bucket and the credentials"
            ) from error
        files = {info.path.removeprefix(f"{self.base}/"): info for info in found if info.type == fs.FileType.File}
        for name in files:
            self._place(name)
        return files

    def read(self, name: str) -> bytes | None:
        """The bytes of an object as they are there now, None where there is none."""
        try:
            with self.store.open_input_stream(f"{self.base}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"{name} of {self.shown} cannot be read ({one_line(error)}): check the credentials"
            ) from error

    def opened(self, name: str) -> NativeFile:
        """An object to be read in parts, at any place."""
        try:
            return self.store.open_input_file(f"{self.base}/{name}")
        except OSError as error:
            raise InputError(
                f"{name} of {self.shown} cannot be read ({one_line(error)}): check the credentials"
            ) from error

    def pull(self, objects: Mapping[str, fs.FileInfo]) -> None:
        """Fetch objects that the mirror lacks or has in another version."""

        def fetch(name: str) -> None:
            with replacing(self._place(name)) as temporary:
                with self.opened(name) as source, temporary.open("wb") as sink:
                    while piece := source.read(PIECE):
                        sink.write(piece)
                note = {"size": objects[name].size, "mtime_ns": objects[name].mtime_ns, "sha256": _sha256(temporary)}
            with replacing(self._note(name)) as temporary:
                temporary.write_text(json.dumps(note))

        wanted = [name for name, info in objects.items() if not self._has(name, info)]
        self._each(fetch, wanted)

    def push(self, names: Iterable[str]) -> None:
        """Put files of the mirror into the store, each whole or not at all. All are there when it returns."""

        def put(name: str) -> None:
            here = self._place(name)
            with self.store.open_output_stream(f"{self.base}/{name}") as stream:
                stream.write(memory_map(str(here)).read_buffer())

        self._each(put, list(names))

    def remove(self, name: str) -> None:
        """Take an object away, here and in the store, if it is there."""
        try:
            if self.store.get_file_info(f"{self.base}/{name}").type == fs.FileType.File:
                self.store.delete_file(f"{self.base}/{name}")
        except OSError as error:
            raise InputError(
                f"{name} of {self.shown} cannot be removed ({one_line(error)}): check the credentials"
            ) from error
        self._place(name).unlink(missing_ok=True)

    def drop(self) -> None:
        """Forget the local copy."""
        shutil.rmtree(self.local, ignore_errors=True)
        shutil.rmtree(self._notes, ignore_errors=True)

    @property
    def _notes(self) -> Path:
        """Beside the mirror: what was fetched of each object, its size, its last change and the sha256 of its bytes."""
        return self.local.with_name(".fetched")

    def _note(self, name: str) -> Path:
        return self._notes / f"{name}.json"

    def _place(self, name: str) -> Path:
        """Where an object lies in the mirror. A key is any text for a store, and `..` in it would lead out of the mirror."""
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
            raise InputError(
                f"{self.shown} holds an object named {name!r}, which no folder can hold: rename or remove it"
            )
        return self.local / path

    def _has(self, name: str, info: fs.FileInfo) -> bool:
        """Is this object here in the version that the store has, byte for byte as it was fetched?"""
        path = self._place(name)
        try:
            note = json.loads(self._note(name).read_text())
            return (note["size"], note["mtime_ns"], note["sha256"]) == (info.size, info.mtime_ns, _sha256(path))
        except (OSError, ValueError, LookupError, TypeError):  # no note, or none that a fetch has written whole
            return False

    def _each(self, work: Callable[[str], None], names: list[str]) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(work, names))


def everywhere(place: Place) -> str:
    """A place as any process of any machine with the same file systems finds it: its URL, or its absolute path."""
    return url_of(place) or str(Path(place).resolve())


def fetched(place: Place) -> Path:
    """A local path with what is at `place`: the path itself, or a mirror of the folder or file at a URL, brought up to date."""
    mirror = Mirror.of(place)
    if mirror is None:
        return Path(place)
    info = mirror.store.get_file_info(mirror.base)
    if info.type == fs.FileType.File:
        above, name = mirror.above(), mirror.base.rpartition("/")[2]
        above.pull({name: info})
        return above.local / name
    objects = mirror.objects()
    if not objects:
        raise InputError(f"{mirror.shown} holds nothing: check the address")
    mirror.pull(objects)
    return mirror.local


def _store(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URL and the path in it.

    An object in S3 begins when its first bytes are there (allow_delayed_open), so that a small one takes one request, not the
    three of an upload in pieces.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url.startswith("s3://"):
        return fs.FileSystem.from_uri(url)
    options = [] if "allow_delayed_open=" in url else ["allow_delayed_open=true"]
    if endpoint and "endpoint_override" not in url:
        if "?" not in url and "@" not in url:
            store = fs.S3FileSystem(endpoint_override=endpoint, allow_delayed_open=True)
            return store, url.removeprefix("s3://").rstrip("/")
        at = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        options += [f"endpoint_override={at.netloc}"] + ([] if "scheme=" in url else [f"scheme={at.scheme}"])
    return fs.FileSystem.from_uri(f"{url}{'&' if '?' in url else '?'}{'&'.join(options)}" if options else url)


def _folder(url: str) -> Path:
    """The local folder of a place, the same whatever keys lead there; its name is that of the place where it can be."""
    address = redacted(url).replace(f"{HIDDEN}@", "")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    name = address.partition("?")[0].rstrip("/").rpartition("/")[2]
    folder = mirrors() / hashlib.sha256(f"{endpoint} {address}".encode()).hexdigest()[:24]
    return folder / (name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name) else "objects")


@cache
def _sha256_of(path: Path, version: tuple[int, int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(path: Path) -> str:
    """sha256 of a file, computed once for each version of it that this process meets."""
    there = path.stat()
    return _sha256_of(path, (there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns))
