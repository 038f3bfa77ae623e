"""Writing a token table, piece by piece, as Parquet or as the folder of a .dataset; it appears when it is whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.cells.dataset_folder import write_dataset
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.cells.token_table import STAMP, TABLE_VERSION, VERSION
from rankshift.screen.cells.uncropped import UNCROPPED
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.seal import BLANK, KEY, seal

# What takes cells as they are made: flat ids, offsets from 0, obs with cell_id, and uncropped ids with their lengths.
Write = Callable[[np.ndarray, np.ndarray, pa.Table, tuple[np.ndarray, np.ndarray] | None], None]


class Writer:
    """Appends cells to a token table that is being written."""

    def __init__(self, path: Path, stamp: str | None, sealed: bool) -> None:
        self._path, self._sealed = path, sealed
        self._metadata = {VERSION: str(TABLE_VERSION).encode()} | ({} if stamp is None else {STAMP: stamp.encode()})
        self._file: pq.ParquetWriter | None = None

    def __call__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        obs: pa.Table,
        whole: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Append cells: ids int32 flat, offsets (n + 1,) from 0, obs n rows with cell_id; whole: uncropped ids, lengths."""
        first = ["cell_id", *(name for name in obs.column_names if name != "cell_id")]
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids, pa.int32()))
        table = obs.select(first).append_column("input_ids", lists)
        table = table.append_column("length", pa.array(np.diff(offsets), pa.int32()))
        if whole is not None:
            ends = pa.array(offsets_of(whole[1]), pa.int32())
            table = table.append_column(UNCROPPED, pa.ListArray.from_arrays(ends, pa.array(whole[0], pa.int32())))
        if self._file is None:
            schema = table.schema.with_metadata(self._metadata)
            # A token has two idle bytes: splitting bytes writes faster and smaller than a dictionary of tokens.
            leaves = [f"{name}.list.element" for name in ("input_ids", UNCROPPED) if name in table.column_names]
            self._file = pq.ParquetWriter(
                self._path,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=first,
                write_statistics=first,
                column_encoding=dict.fromkeys(leaves, "BYTE_STREAM_SPLIT"),
                write_page_checksum=True,
            )
        self._file.write_table(table.cast(self._file.schema))

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            if self._sealed:
                self._file.add_key_value_metadata({KEY: BLANK})
            self._file.close()
            if self._sealed:
                seal(self._path)


@contextmanager
def writing(path: Path, stamp: str | None = None, *, sealed: bool = True) -> Iterator[Writer]:
    """Write a token table piece by piece; it appears at `path` when the block ends well. A .dataset is a folder.

    sealed: the file carries its own checksum (module `seal`).
    """
    path = Path(path)
    if path.suffix == ".dataset":
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".rankshift-", dir=path.parent) as place:
            table = Path(place) / "cells.parquet"
            with writing(table, stamp, sealed=False) as write:
                yield write
            write_dataset(table, path)
        return
    with replacing(path) as temporary:
        writer = Writer(temporary, stamp, sealed)
        try:
            yield writer
        finally:
            writer.close()
