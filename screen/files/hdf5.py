"""HDF5 files, opened after what their library does not survive was looked for, and only with data of their own.

It refuses damaged heaps of texts, in which the library looks for the next entry for ever, files whose data lie in others, and
arrays of which next to nothing is stored.
"""

import mmap
import struct
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import h5py

from rankshift.screen.errors import InputError
from rankshift.screen.files.expansion import check_expansion
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.text_file import readable

HEAP = b"GCOL\x01\x00\x00\x00"  # how a global heap begins, in which texts of variable length lie
RARE = HEAP[:5]  # is found three times as quickly as with the zeros behind, of which counts are full
PIECE = 1 << 24
SECOND = 10**9  # in nanoseconds
SEARCHED = 4 << 30  # bytes at the front and at the end of a file in which heaps are looked for: two seconds each
DAMAGED = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError)  # what h5py raises on damaged files
_ENTRY = struct.Struct("<HHIQ")  # of a heap: its number (0: the free space), references, reserved, bytes


def open_hdf5(path: Path, what: str) -> h5py.File:
    """The file, open for reading; raises InputError where it is damaged, or is not `what` at all."""
    if (at := damaged_heap(readable(path))) is not None:
        raise InputError(f"{path} is damaged (texts at byte {at:,} cannot be told apart): copy or write it again")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not a readable {what} file ({first_line(error)}): write it again") from error
    try:
        check_data(file, path)
    except BaseException as error:
        file.close()
        if isinstance(error, InputError) or not isinstance(error, DAMAGED):
            raise
        raise InputError(f"{path} is damaged ({first_line(error)}): copy or write it again") from error
    return file


def damaged_heap(path: Path) -> int | None:
    """Where the first heap begins whose entries do not lead to its end, None where all do.

    The library goes from entry to entry by their sizes, and from free space of size 0 never comes to the next.
    """
    if path.stat().st_size == 0:
        return None
    state = path.stat()
    new = time.time_ns() - state.st_mtime_ns < SECOND  # what is being written may change and keep its stamp
    search = _search if new else _searched
    return search(path.resolve(), (state.st_ino, state.st_mtime_ns, state.st_size))


def _search(path: Path, stamp: tuple[int, int, int]) -> int | None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return next((at for at in _heaps(file, len(view)) if not _leads_to_its_end(view, at)), None)


_searched = lru_cache(maxsize=1024)(_search)  # a file is opened several times: to look at it, and to read it


def _heaps(file: BinaryIO, size: int) -> Iterator[int]:
    """Where heaps begin. Pieces are read, because pages of a mapped file would count as memory of this process."""
    for begin, end in [(0, size)] if size <= 2 * SEARCHED else [(0, SEARCHED), (size - SEARCHED, size)]:
        file.seek(begin)
        place, piece = begin, b""
        while place < end and (more := file.read(min(PIECE, end - place))):
            piece = piece[1 - len(HEAP) :] + more
            place += len(more)
            at = piece.find(RARE)
            while at >= 0:
                if piece.startswith(HEAP, at):
                    yield place - len(piece) + at
                at = piece.find(RARE, at + 1)


def _leads_to_its_end(view: mmap.mmap, at: int) -> bool:
    size = int.from_bytes(view[at + len(HEAP) : at + 16], "little")
    place, end = at + 16, at + size
    if not at + 16 <= end <= len(view):
        return True  # no heap, or one that the library itself refuses
    while place + _ENTRY.size <= end:
        number, _, _, held = _ENTRY.unpack_from(view, place)
        step = held if number == 0 else _ENTRY.size + (held + 7) // 8 * 8
        if step == 0:
            return False
        place += step
    return True


def check_data(file: h5py.File, path: Path) -> None:
    """Refuse data that lie in other files (external links, external storage, virtual data sets), or that are hardly stored."""
    groups: list[h5py.Group] = [file["/"]]
    seen: set[int] = set()
    while groups:
        group = groups.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise InputError(f"{path}: {where} is a link to another file: copy the data into this one")
            node = group[name]
            if isinstance(node, h5py.Dataset) and (node.external or node.is_virtual):
                raise InputError(f"{path}: {where} is stored in another file: copy the data into this one")
            if isinstance(node, h5py.Dataset):
                check_expansion(f"{path}: {where}", node.nbytes, node.id.get_storage_size)
            if isinstance(node, h5py.Group) and (address := h5py.h5o.get_info(node.id).addr) not in seen:
                seen.add(address)  # a group may hold itself
                groups.append(node)
