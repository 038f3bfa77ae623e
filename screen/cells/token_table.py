"""Token tables as files: Parquet or the reference's `.dataset` folder, opened batch by batch and checked cell by cell.

It reads Arrow streams without the `datasets` library, and judges whole tables, never the first cell alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.errors import InputError
from rankshift.screen.files.json_file import read_object
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.seal import check_seal
from rankshift.screen.genes.framing import PLAIN, Frame
from rankshift.screen.genes.token_space import TokenSpace

STAMP = b"rankshift.tokens_sha256"  # Parquet metadata: whose token numbers these are
VERSION = b"rankshift.token_table"  # Parquet metadata: how the table is laid out
TABLE_VERSION = 2  # 1 (not written): cell_id, obs, input_ids, length; 2: perhaps input_ids_uncropped
BUFFER = 1 << 20  # bytes of each column read at a time
ROWS = 8192  # cells read, checked or written at a time: 64 MB of tokens at 2048 a cell
LONGEST = 1 << 16  # values a row on average: more genes than any vocabulary has


def table_files(path: Path | Sequence[Path]) -> list[Path]:
    """The token tables meant: a file, a .dataset folder, a folder of them (by name), or several of these."""
    files: list[Path] = []
    for one in [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]:
        inside = sorted((*one.glob("*.parquet"), *one.glob("*.dataset"))) if one.is_dir() else []
        single = not inside or (one / "state.json").is_file() or (one / "dataset_dict.json").is_file()
        files += [one] if single else inside
    if not files:
        raise InputError("no token table is given: give one or more .parquet files or .dataset folders")
    return files


def open_table(path: Path, without: Sequence[str] = ()) -> tuple[Iterable[pa.RecordBatch], str | None]:
    """Record batches of a token table, and the stamp of its tokens if it has one. Parquet columns `without` are not read."""
    if path.is_dir():
        return _open_dataset(path), None
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a token table (.parquet) or a .dataset folder")
    try:
        # Read through a buffer: a mapped file, or row groups held whole, would be memory as large as the table.
        file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True)
        metadata = file.schema_arrow.metadata or {}
        stamp, version = metadata.get(STAMP), metadata.get(VERSION, b"1").decode(errors="replace")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({first_line(error)}): tokenize again") from error
    if not version.isdecimal() or len(version) > 9 or int(version) > TABLE_VERSION:
        raise InputError(
            f"{path} is a token table of version {version}, this version of rankshift reads up to {TABLE_VERSION}: tokenize "
            "it again"
        )
    check_seal(path, file.metadata.metadata, "copy it again, or tokenize again")
    check_lists(path, file.metadata)
    columns = [name for name in file.schema_arrow.names if name not in without]
    return file.iter_batches(ROWS, columns=columns), None if stamp is None else stamp.decode(errors="replace")


def check_lists(path: Path, metadata: pq.FileMetaData) -> None:
    """Refuse lists that no cell has: a few bytes of Parquet can stand for gigabytes of equal values."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(metadata.num_columns)):
            if column.num_values > max(group.num_rows, 1) * LONGEST:
                raise InputError(
                    f"{path} has {column.num_values:,} values of {column.path_in_schema} in {group.num_rows:,} cells, the "
                    f"limit is {LONGEST:,} a cell: tokenize again"
                )


def _open_dataset(folder: Path) -> Iterator[pa.RecordBatch]:
    """Batches of a folder written by `datasets.save_to_disk`: Arrow streams named in state.json, perhaps re-indexed."""
    if (folder / "dataset_dict.json").is_file():
        raise InputError(f"{folder} holds several splits: give one of its sub-folders")
    try:
        state = read_object(folder / "state.json", "copy the .dataset folder again")
        data = [folder / entry["filename"] for entry in state["_data_files"]]
        indices = [folder / entry["filename"] for entry in state.get("_indices_files") or []]
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder} is not a .dataset folder (state.json: {error!r}): give a token table") from error
    if not indices:
        for file in data:
            yield from _stream(file)
        return
    table = pa.Table.from_batches([batch for file in data for batch in _stream(file, mapped=True)])
    for file in indices:
        for batch in _stream(file):
            for start in range(0, batch.num_rows, ROWS):
                yield from table.take(batch.column(0).slice(start, ROWS)).combine_chunks().to_batches()


def _stream(file: Path, *, mapped: bool = False) -> Iterator[pa.RecordBatch]:
    if not file.is_file():
        raise InputError(f"{file} is named in state.json but missing: copy the .dataset folder again")
    with file.open("rb") as raw:
        raw.seek(max(0, file.stat().st_size - 8))
        if (
            raw.read() != b"\xff\xff\xff\xff\x00\x00\x00\x00"
        ):  # a stream cut between two messages reads as a shorter one
            raise InputError(f"{file} is truncated (no end mark of an Arrow stream): copy the .dataset folder again")
    # A re-indexed data set is read in any order, so that it is mapped; one that is read through must not stay in memory.
    with pa.memory_map(str(file)) if mapped else pa.OSFile(str(file)) as source:
        batches = pa.ipc.open_stream(source)
        check_seal(file, batches.schema.metadata, "copy the .dataset folder again, or tokenize again")
        yield from batches


def readable_batches(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """`batches`, with damage found on the way reported as such."""
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is truncated or damaged ({first_line(error)}): copy or tokenize it again") from error


def rank_lists(path: Path, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Lengths int64 (n,) and flat int32 values of a list column of any integer width."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
        raise InputError(f"input_ids of {path} are {kind}, not lists of integers: tokenize again")
    size = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = column.flatten()
    if values.null_count:
        raise InputError(f"input_ids of {path} hold empty values inside a list: tokenize again")
    flat = values.to_numpy(zero_copy_only=False)
    if len(flat) and (flat.max() > np.iinfo(np.int32).max or flat.min() < 0):
        raise InputError(f"{path} holds token {flat.min() if flat.min() < 0 else flat.max()}: tokens count from 0")
    return size, flat.astype(np.int32, copy=False)


class Check:
    """Holds every cell against the bundle, batch after batch; remembers what only the whole table shows."""

    def __init__(self, path: Path, bundle: TokenSpace) -> None:
        self.path, self.bundle = path, bundle
        self.framed: Any = None  # label of the first framed cell
        self.plain: Any = None
        self.empty: list[Any] = []
        self.repeated: list[Any] = []

    def __call__(self, ids: np.ndarray, size: np.ndarray, labels: pa.Array, length: pa.Array | None) -> np.ndarray:
        """Which cells of a batch hold a gene; raises InputError for the first cell that is wrong."""
        vocabulary, limit = self.bundle.vocabulary, self.bundle.input_size
        end = np.cumsum(size)
        begin = end - size

        def refuse(bad: np.ndarray, what: str, fix: str) -> None:
            if bad.any():
                cell = int(np.argmax(bad))
                found = what.format(size=size[cell], length=None if length is None else length[cell])
                raise InputError(f"{self.path}: cell {labels[cell]} {found} ({int(bad.sum())} such cells here): {fix}")

        def per_cell(flags: np.ndarray) -> np.ndarray:  # true flags of each cell
            return np.bincount(np.searchsorted(end, np.flatnonzero(flags), side="right"), minlength=len(size))

        if length is not None:
            if not pa.types.is_integer(length.type):
                raise InputError(f"length of {self.path} is {length.type}, not whole numbers: tokenize again")
            same = pc.fill_null(pc.equal(length, pa.array(size)), False).to_numpy(zero_copy_only=False)
            refuse(~same, "has {size} tokens but length {length}", "tokenize again")
        if len(ids) and ids.max() >= vocabulary.size:
            above = per_cell(ids >= vocabulary.size) > 0
            what = f"holds token {ids.max()}, the vocabulary ends at {vocabulary.size - 1}"
            refuse(above, what, "use the bundle of the same generation")
        genes = size - per_cell(~vocabulary.is_gene[ids])
        keep = genes > 0
        refuse(
            keep & (size > limit),
            f"has {{size}} tokens, the model takes {limit}",
            f"tokenize with --input-size {limit}",
        )
        framed, frame = np.zeros(len(size), bool), self.bundle.frame_tokens.frame
        if frame.size and keep.any():
            at = np.flatnonzero(keep)
            opens, closes = self.bundle.frame_tokens.around(ids, begin[at], end[at])
            if frame.head and frame.tail:
                half = np.zeros(len(size), bool)
                half[at] = opens != closes
                head, tail = self.bundle.frame_tokens.names
                refuse(half, f"has only one of {head} in front and {tail} at the end", "tokenize again")
            framed[at] = opens & closes
        refuse(keep & (size - genes != frame.size * framed), "holds a special token inside its list", "tokenize again")
        self._note_framing(labels, keep & framed, keep & ~framed)
        self.empty += labels.filter(pa.array(~keep)).to_pylist()
        self.repeated += labels.filter(pa.array(keep & _repeats(ids, size, vocabulary.size))).to_pylist()
        return keep

    def _note_framing(self, labels: pa.Array, framed: np.ndarray, plain: np.ndarray) -> None:
        if self.framed is None and framed.any():
            self.framed = labels[int(np.argmax(framed))]
        if self.plain is None and plain.any():
            self.plain = labels[int(np.argmax(plain))]
        if self.framed is not None and self.plain is not None:
            around = " and ".join(self.bundle.frame_tokens.names)
            raise InputError(
                f"{self.path}: cell {self.framed} is framed by {around}, cell {self.plain} is not: "
                "tokenize all cells the same way"
            )

    @property
    def frame(self) -> Frame:
        """The frame of the lists that were seen."""
        return PLAIN if self.framed is None else self.bundle.frame_tokens.frame

    def notes(self) -> list[str]:
        """What a user should hear about the table."""
        told = [
            (self.empty, "without a gene dropped"),
            (self.repeated, "with a gene twice in the list kept as they are"),
        ]
        return [f"{len(which)} cells {what} (first: {which[0]})" for which, what in told if which]


def _repeats(ids: np.ndarray, size: np.ndarray, vocabulary: int) -> np.ndarray:
    """bool (n,): cells that hold a token more than once.

    Each token of a cell notes its place under its own number; where one is noted twice, the first no longer finds its own.
    Notes of cells before need not be wiped, because a cell reads only what it has written.
    """
    repeats = np.zeros(len(size), bool)
    noted, places = np.zeros(vocabulary, np.int32), np.arange(size.max(initial=0), dtype=np.int32)
    for cell, (begin, end) in enumerate(pairwise(offsets_of(size).tolist())):
        token = ids[begin:end].astype(np.intp)  # numpy would convert them for each of the two look-ups
        place = places[: end - begin]
        noted[token] = place
        repeats[cell] = (noted.take(token) != place).any()
    return repeats
