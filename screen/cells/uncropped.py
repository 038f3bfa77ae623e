"""Genes below the input limit: what a cell expresses beyond its list, in rank order, to refill deletions from.

A token table keeps them when it was made with `--keep-uncropped`, as `input_ids_uncropped`: the genes of the list and
those behind them, without specials, as the published tokenizer names and writes them. It refuses lists that do not
continue their cell's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rankshift.screen.cells.ragged import offsets_of, places_of
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.genes.vocabulary import Vocabulary

if TYPE_CHECKING:
    from rankshift.screen.cells.cells import Cells

UNCROPPED = "input_ids_uncropped"
LENGTH_UNCROPPED = "length_uncropped"  # beside it in published data sets


@dataclass(frozen=True, eq=False, slots=True)
class Uncropped:
    """Genes below the limit of n cells: ids int32, one cell after the other; offsets int64 (n + 1,)."""

    ids: np.ndarray
    offsets: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64 (n,): genes below the limit per cell."""
        return np.diff(self.offsets)

    def count(self, cell: int) -> int:
        """Genes below the limit of one cell."""
        return int(self.offsets[cell + 1] - self.offsets[cell])

    def take(self, rows: pa.Array) -> "Uncropped":
        """Those of these cells, in this order."""
        lists = pa.LargeListArray.from_arrays(self.offsets, self.ids).take(rows)
        return Uncropped(np.asarray(lists.flatten()), np.asarray(lists.offsets) - lists.offsets[0].as_py())

    def first(self, most: int) -> "Uncropped":
        """At most the first `most` genes of every cell."""
        place = places_of(self.counts)
        return Uncropped(self.ids[place < most], offsets_of(np.minimum(self.counts, most)))

    @staticmethod
    def joined(parts: "Sequence[Uncropped]") -> "Uncropped":
        """Those of several tables behind each other."""
        return Uncropped(np.concatenate([p.ids for p in parts]), offsets_of(np.concatenate([p.counts for p in parts])))


def split_off(
    path: Path,
    flat: np.ndarray,
    size: np.ndarray,
    whole: np.ndarray,
    whole_size: np.ndarray,
    frame: Frame,
    vocabulary: Vocabulary,
) -> Uncropped:
    """What of the uncropped lists `whole` lies behind the lists `flat` of the same cells (flat values and lengths).

    Raises InputError where an uncropped list does not begin with the genes of its cell, or goes on with no gene.
    """
    if len(whole) and (whole.max() >= vocabulary.size or not vocabulary.is_gene[whole].all()):
        raise InputError(f"{path}: {UNCROPPED} holds tokens that are no genes of the vocabulary: tokenize again")
    genes = frame.room(size)
    if len(whole_size) and (whole_size < genes).any():
        at = int(np.argmax(whole_size < genes))
        raise InputError(
            f"{path}: {UNCROPPED} of row {at} has {whole_size[at]} genes, its list {genes[at]}: tokenize again"
        )
    here = np.repeat(offsets_of(size)[:-1] + frame.head, genes) + places_of(genes)
    place = places_of(whole_size)
    inside = place < np.repeat(genes, whole_size)
    different = whole[inside] != flat[here]
    if different.any():
        at = int(np.searchsorted(np.cumsum(genes), int(np.argmax(different)), side="right"))
        raise InputError(f"{path}: {UNCROPPED} of row {at} does not begin with the genes of its list: tokenize again")
    return Uncropped(whole[~inside], offsets_of(whole_size - genes))


def uncropped(cells: "Cells") -> tuple[np.ndarray, np.ndarray]:
    """Genes of the list and below it, without specials: flat int32 and lengths, as `split_off` takes them apart."""
    assert cells.below is not None
    begin, end = cells.offsets[:-1] + cells.frame.head, cells.offsets[1:] - cells.frame.tail
    return _spliced(cells.ids, begin, end, cells.below)


def extended(cells: "Cells") -> "Cells":
    """The cells with the genes below the limit in their lists, behind their own and before what ends the list."""
    if cells.below is None:
        return cells
    tail = cells.frame.tail
    ids, size = _spliced(cells.ids, cells.offsets[:-1], cells.offsets[1:] - tail, cells.below)
    if tail:
        closing = cells.ids[cells.offsets[1:, None] - tail + np.arange(tail)]
        ids = np.insert(ids, np.repeat(np.cumsum(size), tail), closing.ravel())
    return replace(cells, ids=ids, offsets=offsets_of(size + tail), below=None)


def _spliced(ids: np.ndarray, begin: np.ndarray, end: np.ndarray, below: Uncropped) -> tuple[np.ndarray, np.ndarray]:
    """ids[begin[i]:end[i]] and then the i-th list below, for every i."""
    own = end - begin
    size = own + below.counts
    out = np.empty(int(size.sum()), np.int32)
    place = places_of(size)
    inside = place < np.repeat(own, size)
    out[inside] = ids[place[inside] + np.repeat(begin, size)[inside]]
    out[~inside] = below.ids
    return out, size
