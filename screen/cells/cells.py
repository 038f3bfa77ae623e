"""The token table: one rank list per cell beside its annotations, in memory as two flat arrays and an Arrow table.

Reading (module `reading`) checks every cell, not the first one. Tables that do not fit in memory are in module `stored`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from rankshift.screen.cells.ragged import Tokens, offsets_of
from rankshift.screen.cells.reading import read_tables
from rankshift.screen.cells.token_table import ROWS, Check
from rankshift.screen.cells.uncropped import Uncropped, uncropped
from rankshift.screen.cells.writer import writing
from rankshift.screen.genes.framing import PLAIN, Frame
from rankshift.screen.genes.token_space import TokenSpace
from rankshift.screen.genes.vocabulary import Vocabulary


class CellTable(Protocol):
    """Rank lists and annotations of n cells, wherever they are; `Cells` of which what is asked for is in memory."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray:
        """int64 (n,): tokens per cell, specials included."""

    @property
    def obs(self) -> pa.Table:
        """Annotations: n rows, `cell_id` first."""

    @property
    def frame(self) -> Frame:
        """What stands around the genes of a list."""

    @property
    def refillable(self) -> bool:
        """Are the genes below the input limit there, too?"""

    def take(self, indices: Sequence[int] | np.ndarray) -> "Cells":
        """These rows, in this order, in memory."""

    def ids_of(self, cell: int) -> np.ndarray:
        """The rank list of one cell."""

    def below_of(self, cell: int) -> int:
        """Genes below the limit of one cell, 0 where they are not there."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Cells:
    """Rank lists and annotations of n cells.

    ids: int32, all lists one after the other. offsets: int64 (n + 1,), cell i is ids[offsets[i]:offsets[i + 1]].
    obs: n rows, `cell_id` first, without input_ids and length. frame: what stands around the genes of a list.
    notes: what reading dropped or found odd, one sentence each. below: genes beyond the lists, where they were read.
    """

    ids: np.ndarray
    offsets: np.ndarray
    obs: pa.Table
    frame: Frame = PLAIN
    notes: tuple[str, ...] = field(default=())
    below: Uncropped | None = None

    def __post_init__(self) -> None:
        if len(self.offsets) != self.obs.num_rows + 1 or int(self.offsets[-1]) != len(self.ids):
            raise ValueError(
                f"{self.obs.num_rows} rows, {len(self.offsets)} offsets, {len(self.ids)} ids do not fit together"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 (n,): tokens per cell, specials included."""
        return np.diff(self.offsets)

    def ids_of(self, cell: int) -> np.ndarray:
        """The rank list of one cell, a view."""
        return self.ids[self.offsets[cell] : self.offsets[cell + 1]]

    @property
    def refillable(self) -> bool:
        """Are the genes below the input limit there, too?"""
        return self.below is not None

    def below_of(self, cell: int) -> int:
        """Genes below the limit of one cell, 0 where they were not read."""
        return 0 if self.below is None else self.below.count(cell)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Cells":
        """These rows, in this order."""
        rows = pa.array(np.asarray(indices, dtype=np.int64))
        lists = pa.LargeListArray.from_arrays(self.offsets, self.ids).take(rows)
        offsets = np.asarray(lists.offsets) - lists.offsets[0].as_py()
        ids = np.asarray(lists.flatten())
        below = None if self.below is None else self.below.take(rows)
        return replace(self, ids=ids, offsets=offsets, obs=self.obs.take(rows), below=below)

    @staticmethod
    def read(path: Path | Sequence[Path], bundle: TokenSpace, *, below: bool = False) -> "Cells":
        """Read a Parquet token table or a reference `.dataset` folder, checked against the bundle (or the draft of one).

        Several tables, or folders of them, are one table if they have the same columns. `cell_id` is the row number when a
        table has none. below: keep the genes below the input limit, too. Raises InputError naming the first cell that does
        not fit.
        """
        tokens, more = (Tokens(bundle.vocabulary.size) for _ in range(2))
        read = read_tables(path, bundle, tokens, more if below else None)
        return Cells(
            ids=tokens.array,
            offsets=offsets_of(read.lengths),
            obs=read.obs,
            frame=read.frame,
            notes=read.notes,
            below=None if read.below is None else Uncropped(more.array, offsets_of(read.below)),
        )

    def checked(self, bundle: TokenSpace) -> "Cells":
        """These cells, held against the bundle as tables are that are read: cells without a gene are left out."""
        check = Check(Path("cells in memory"), bundle)
        labels = self.obs.column("cell_id").combine_chunks()
        keep = check(self.ids, self.lengths, labels, None)
        cells = self if keep.all() else self.take(np.flatnonzero(keep))
        return replace(cells, frame=check.frame, notes=(*self.notes, *check.notes()))

    def write(self, path: Path, vocabulary: Vocabulary | None = None, *, sealed: bool = True) -> None:
        """Write a token table, Parquet or the folder of a .dataset: obs with cell_id first, input_ids list<int32>, length;
        with genes below the limit also input_ids_uncropped.

        With a vocabulary the file records whose tokens these are, and `read` holds other bundles against it. sealed: it
        carries its own checksum, which `read` verifies.
        """
        write(self, path, vocabulary, sealed=sealed)


def blocks(table: CellTable, rows: np.ndarray | None = None, size: int = ROWS) -> Iterator[Cells]:
    """The cells of a table, or these rows of it, in order, `size` at a time in memory."""
    rows = np.arange(len(table)) if rows is None else rows
    for start in range(0, len(rows), size):
        yield table.take(rows[start : start + size])


def joined(parts: Sequence[Cells]) -> Cells:
    """Cells of one table behind each other."""
    if len(parts) == 1:
        return parts[0]
    below = [part.below for part in parts if part.below is not None]
    return replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        offsets=offsets_of(np.concatenate([part.lengths for part in parts])),
        obs=pa.concat_tables([part.obs for part in parts]),
        below=Uncropped.joined(below) if len(below) == len(parts) else None,
    )


def write(
    table: CellTable, path: Path, vocabulary: Vocabulary | None = None, group: int = ROWS, *, sealed: bool = True
) -> None:
    """Write a token table as `Cells.write` does, `group` cells to a row group."""
    with writing(path, None if vocabulary is None else vocabulary.tokens_sha256, sealed=sealed) as put:
        for some in blocks(table, size=group) if len(table) else [table.take([])]:
            put(some.ids, some.offsets, some.obs, None if some.below is None else uncropped(some))
