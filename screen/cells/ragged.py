"""Ragged arrays: lists of different lengths one after the other, as flat values and where each list begins.

`Tokens` holds as many of them as there are, in memory or in a temporary file; it refuses a disk that is full.
"""

import os
import tempfile
from typing import IO

import numpy as np

from rankshift.screen.errors import InputError


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Where each list begins, and where the last one ends: int64 (n + 1,) from its lengths (n,).

    >>> offsets_of(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def places_of(counts: np.ndarray) -> np.ndarray:
    """The place of each value in its own list, from 0: int64 (values,).

    >>> places_of(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(int(np.sum(counts))) - np.repeat(np.cumsum(counts) - counts, counts)


class Tokens:
    """Lists of tokens that are appended one after the other, and then read in any order, as int32.

    most: bytes that they may take in memory; when there are more, all of them go to a file without a name in the folder for
    temporary files (TMPDIR). Without it they stay in memory. vocabulary: the number of tokens there are.
    """

    def __init__(self, vocabulary: int, most: int | None = None) -> None:
        self._width: type[np.uint16 | np.int32] = np.uint16 if vocabulary <= 1 << 16 else np.int32
        self._most, self._held, self._used = most, np.empty(0, np.int32), 0
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return self._used

    def append(self, ids: np.ndarray) -> None:
        """Put lists behind those that are there: ids int32, flat."""
        if self._file is None and self._most is not None and 4 * (self._used + len(ids)) > self._most:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as this does
            self._write(self.array)
            self._held = np.empty(0, np.int32)
        if self._file is not None:
            self._write(ids)
        else:
            if self._used + len(ids) > len(self._held):  # grows in place, never two copies
                self._held.resize(max(self._used + len(ids), 2 * len(self._held)), refcheck=False)
            self._held[self._used : self._used + len(ids)] = ids
        self._used += len(ids)

    @property
    def array(self) -> np.ndarray:
        """All of them, where they are in memory; it must not be appended to afterwards."""
        self._held.resize(self._used, refcheck=False)
        return self._held

    def lists(self, begin: np.ndarray, size: np.ndarray) -> np.ndarray:
        """The lists that begin at `begin` [n] and have `size` [n] tokens each, one after the other."""
        if not len(begin):
            return np.empty(0, np.int32)
        # Neighbours are read at once.
        first = np.flatnonzero(np.concatenate([[True], begin[1:] != begin[:-1] + size[:-1]]))
        length = np.add.reduceat(size, first)
        if self._file is None:
            return np.concatenate(
                [self._held[a : a + n] for a, n in zip(begin[first].tolist(), length.tolist(), strict=True)]
            )
        out = np.empty(int(size.sum()), self._width)
        room, wide, at = out.data.cast("B"), out.itemsize, 0
        for a, n in zip((begin[first] * wide).tolist(), (length * wide).tolist(), strict=True):
            done = 0
            while done < n:
                done += os.preadv(self._file.fileno(), [room[at + done : at + n]], a + done)
            at += n
        return out.astype(np.int32)

    def _write(self, ids: np.ndarray) -> None:
        assert self._file is not None
        try:
            self._file.write(ids.astype(self._width).data)
            self._file.flush()
        except OSError as error:
            held = (self._used + len(ids)) * np.dtype(self._width).itemsize / 1e9
            raise InputError(
                f"{held:.1f} GB of cells do not fit into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a folder "
                "with more room"
            ) from error
