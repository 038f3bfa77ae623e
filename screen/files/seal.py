"""A file that carries its own checksum: taken when it is written, held against its bytes when it is read.

For Parquet, Arrow and safetensors, in whose metadata the seal stands as a text of fixed length: the CRC-32 of the file, in
which the seal itself counts as BLANK, and its size. It finds damage; it keeps nobody from forging a file.

A program that reads a sealed table and writes another one may copy the metadata, and the seal with it. Its size says that it
is not that file's, and the copy counts as a table without a seal.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.errors import InputError

KEY = "rankshift.seal"  # of the entry in the metadata
BLANK = f"crc32:{0:08x} bytes:{0:016d}"
_SEAL = re.compile(r"crc32:([0-9a-f]{8}) bytes:(\d{16})")
FRONT = 1 << 20  # bytes in which Arrow and safetensors have their metadata
END = 1 << 24  # bytes in which Parquet has it: thousands of row groups of many columns
AT_ONCE = 1 << 20  # bytes that are summed at a time


@contextmanager
def sealed_parquet(path: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """A writer of a Parquet file that is sealed when the block ends well."""
    with pq.ParquetWriter(path, schema, **options) as writer:
        yield writer
        writer.add_key_value_metadata({KEY: BLANK})
    seal(path)


def seal(path: Path) -> None:
    """Put the checksum of a file that was just written where its metadata holds BLANK."""
    at = _place(path, BLANK)
    if at is None:
        raise ValueError(f"{path} holds no blank seal")
    text = f"crc32:{_checksum(path, at):08x} bytes:{path.stat().st_size:016d}"
    with path.open("r+b") as file:
        file.seek(at)
        file.write(text.encode())


def check_seal(path: Path, metadata: Mapping[Any, Any] | None, fix: str) -> None:
    """Raise InputError, which ends in `fix`, where the bytes of `path` are not as they were sealed.

    metadata: of the file, with keys and values as text or bytes. Without a seal in it nothing is checked.
    """
    held = metadata or {}
    text = held.get(KEY, held.get(KEY.encode()))
    if text is None:
        return
    found = _SEAL.fullmatch(text.decode(errors="replace") if isinstance(text, bytes) else str(text))
    if found is not None and int(found[2]) != path.stat().st_size:
        return  # copied from another file
    if found is None or not _holds(path, found[0], int(found[1], 16)):
        raise InputError(f"{path} is damaged (its bytes do not have their recorded checksum): {fix}")


def _holds(path: Path, text: str, checksum: int) -> bool:
    at = _place(path, text)
    return at is not None and _checksum(path, at) == checksum


def _place(path: Path, text: str) -> int | None:
    """Where the seal begins; None where it is at neither end of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for begin, length in ((0, FRONT), (max(0, size - END), END)):
            file.seek(begin)
            if (at := file.read(length).rfind(text.encode())) >= 0:
                return begin + at
    return None


def _checksum(path: Path, at: int) -> int:
    """CRC-32 of a file whose seal begins at `at`. Read through, not mapped: a table may be larger than memory."""
    checksum, place = 0, 0
    with path.open("rb") as file:
        while block := file.read(AT_ONCE):
            begin, end = max(at - place, 0), min(at + len(BLANK) - place, len(block))
            if begin < end:
                hidden = BLANK.encode()[place + begin - at : place + end - at]
                block = block[:begin] + hidden + block[end:]
            checksum = zlib.crc32(block, checksum)
            place += len(block)
    return checksum
