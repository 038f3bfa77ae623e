"""Embeddings of cells as work for leased workers: blocks of cells go out, vectors come back in the order of the cells."""

from collections import deque
from pathlib import Path

import numpy as np
import ray

from rankshift.jobs.executor.ray import Done, FanOut
from rankshift.jobs.pool.lease import Grant, Lease
from rankshift.screen.cells.cells import Cells
from rankshift.screen.files.object_store import everywhere

BLOCK = 256  # cells of a block: a second or two of a GPU, some of a CPU


def embed_on(
    lease: Lease, cells: Cells, bundle: Path, *, level: str, layer_count: int, dtype: str, done: Done = lambda n: None
) -> np.ndarray:
    """`originals.embed` on the workers of a lease: float32 [cells, D] in the order of `cells`."""
    work = EmbeddingWork(cells, bundle, level, layer_count, dtype)
    FanOut(lease, work).drive(done)
    return np.concatenate([work.vectors[piece] for piece in sorted(work.vectors)])


class EmbeddingWork:
    """Blocks of cells to embed."""

    def __init__(self, cells: Cells, bundle: Path, level: str, layer_count: int, dtype: str) -> None:
        self._cells, self._bundle = cells, everywhere(bundle)
        self._level, self._layers, self._dtype = level, layer_count, dtype
        self.todo = deque(range(-(-len(cells) // BLOCK)))
        self.vectors: dict[int, np.ndarray] = {}

    def open(self, grant: Grant) -> "ray.ObjectRef":
        """Make the encoder warm."""
        return grant.handle.warm_up.remote(grant.epoch, self._bundle, self._dtype)

    def start(self, grant: Grant, piece: int) -> "ray.ObjectRef":
        """Embed a block."""
        rows = np.arange(piece * BLOCK, min((piece + 1) * BLOCK, len(self._cells)))
        block = self._cells.take(rows)
        return grant.handle.embed.remote(grant.epoch, self._bundle, self._dtype, block, self._level, self._layers)

    def keep(self, piece: int, result: np.ndarray) -> None:
        """The vectors of a block."""
        self.vectors[piece] = result

    def survived(self, piece: int) -> bool:
        """Vectors that did not come back are lost."""
        return False

    def name(self, piece: int) -> str:
        """The block by its first cell."""
        return f"the block of cells from {piece * BLOCK}"
