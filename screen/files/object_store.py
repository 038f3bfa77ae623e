"""Folders of an object store (s3://, gs://, abfs://) through pyarrow's file systems, each mirrored in a folder of this machine.

Object stores rename nothing, but an object appears whole or not at all: so a file is written here, then put there in one
piece. The store decides what exists; the mirror only saves transfers.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pyarrow import fs

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing

_URL = re.compile(r"^(s3|gs|gcs|abfs|abfss):/+(.*)$")  # Path() makes one slash of two
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
    """Where mirrors are kept: RANKSHIFT_MIRRORS, or a folder of the user in the temporary directory."""
    named = os.environ.get("RANKSHIFT_MIRRORS")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"rankshift-mirrors-{os.getuid()}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Mirror:
    """A folder in a store: its url, the file system, its path there, and the local folder that mirrors it."""

    url: str
    store: fs.FileSystem
    base: str
    local: Path

    @staticmethod
    def of(place: Place) -> "Mirror | None":
        """The mirror of a URL, None for a path of this machine. Nothing is fetched yet.

        S3 is asked at AWS_ENDPOINT_URL where it is set (MinIO and other stores), with the usual AWS credentials.
        """
        url = url_of(place)
        if url is None:
            return None
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        try:
            if url.startswith("s3://") and endpoint and "endpoint_override" not in url:
                base = url.removeprefix("s3://").rstrip("/")
                store: fs.FileSystem = fs.S3FileSystem(endpoint_override=endpoint)
            else:
                store, base = fs.FileSystem.from_uri(url)
        except (ValueError, OSError, NotImplementedError) as error:
            raise InputError(
                f"{url} cannot be opened ({_line(error)}): check the address and the credentials"
            ) from error
        return Mirror(url=url, store=store, base=base, local=mirrors() / sha256(url.encode()).hexdigest()[:24])

    def objects(self, folder: str = "") -> dict[str, fs.FileInfo]:
        """What the store says of every object below a folder (size, last change), by its name relative to the mirror."""
        where = f"{self.base}/{folder}" if folder else self.base
        selector = fs.FileSelector(where, allow_not_found=True, recursive=True)
        try:
            found = self.store.get_file_info(selector)
        except OSError as error:
            raise InputError(
                f"{self.url} cannot be listed ({_line(error)}): check the bucket and the credentials"
            ) from error
        return {info.path.removeprefix(f"{self.base}/"): info for info in found if info.type == fs.FileType.File}

    def read(self, name: str) -> bytes | None:
        """The bytes of an object as they are there now, None where there is none."""
        try:
            with self.store.open_input_stream(f"{self.base}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{self.url}/{name} cannot be read ({_line(error)}): check the credentials") from error

    def pull(self, objects: Mapping[str, fs.FileInfo]) -> None:
        """Fetch objects that the mirror lacks or has in another version."""

        def fetch(name: str) -> None:
            with replacing(self.local / name) as temporary:
                fs.copy_files(f"{self.base}/{name}", str(temporary), source_filesystem=self.store)
                os.utime(temporary, ns=(objects[name].mtime_ns, objects[name].mtime_ns))

        wanted = [name for name, info in objects.items() if not _has(self.local / name, info)]
        self._each(fetch, wanted)

    def push(self, names: Iterable[str]) -> None:
        """Put files of the mirror into the store, each whole or not at all. All are there when it returns."""

        def put(name: str) -> None:
            with self.store.open_output_stream(f"{self.base}/{name}") as stream:
                stream.write((self.local / name).read_bytes())

        self._each(put, list(names))

    def drop(self) -> None:
        """Forget the local copy."""
        shutil.rmtree(self.local, ignore_errors=True)

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
        parent, name = mirror.url.rsplit("/", 1)
        above = Mirror.of(parent)
        assert above is not None
        above.pull({name: info})
        return above.local / name
    objects = mirror.objects()
    if not objects:
        raise InputError(f"{mirror.url} holds nothing: check the address")
    mirror.pull(objects)
    return mirror.local


def _has(path: Path, info: fs.FileInfo) -> bool:
    if not path.is_file():
        return False
    there = path.stat()
    return there.st_size == info.size and there.st_mtime_ns == info.mtime_ns


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
