"""Embeddings of cells as work for workers: blocks of cells go out, vectors come back in the order of the cells."""

from collections import deque
from pathlib import Path

import numpy as np

from rankshift.jobs.executor.executor import Executor
from rankshift.jobs.executor.fan_out import Done
from rankshift.jobs.pool.model_cache import ModelCache
from rankshift.jobs.pool.worker import Compute, Count, Fetch
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.encoder.device import TOKEN_BUDGET
from rankshift.screen.files.object_store import everywhere, fetched

BLOCK = 256  # cells of a block: a second or two of a GPU, some of a CPU


def embed_on(
    executor: Executor,
    cells: Cells,
    bundle: Path,
    *,
    level: str,
    layer_count: int,
    dtype: str,
    done: Done = lambda n: None,
) -> np.ndarray:
    """`cell_embeddings.embed` by an executor: float32 [cells, D] in the order of `cells`."""
    # In this process no block can get lost, so all cells are batched together.
    work = EmbeddingWork(
        cells, EmbeddingJob(bundle, level, layer_count, dtype), BLOCK if executor.workers else len(cells)
    )
    executor.map(work, done)
    return np.concatenate([work.vectors[number] for number in sorted(work.vectors)])


class EmbeddingJob:
    """How cells are to be embedded."""

    weights_sha256: str | None = None  # nobody has trained them just now: the disk has them

    def __init__(self, bundle: Path, level: str, layer_count: int, dtype: str) -> None:
        self._bundle, self._dtype = everywhere(bundle), dtype
        self._level, self._layers = level, layer_count

    def open(self, models: ModelCache, fetch: Fetch) -> Compute:
        """Make the encoder warm."""
        encoder = models.encoder(Bundle.open(fetched(self._bundle)), self._dtype)
        tokens = TOKEN_BUDGET[encoder.device.type]

        def compute(cells: Cells, count: Count) -> np.ndarray:
            return embed(cells, encoder, level=self._level, layer_count=self._layers, tokens=tokens, done=count)

        return compute


class EmbeddingWork:
    """Blocks of cells to embed. vectors: by number of the block, as they come."""

    def __init__(self, cells: Cells, job: EmbeddingJob, block: int) -> None:
        self._cells, self.job, self._block = cells, job, block
        self.todo = deque(range(-(-len(cells) // block)))
        self.vectors: dict[int, np.ndarray] = {}

    def piece(self, number: int) -> Cells:
        """The cells of a block."""
        return self._cells.take(np.arange(number * self._block, min((number + 1) * self._block, len(self._cells))))

    def keep(self, number: int, result: np.ndarray) -> None:
        """The vectors of a block."""
        self.vectors[number] = result

    def survived(self, number: int) -> bool:
        """Vectors that did not come back are lost."""
        return False

    def name(self, number: int) -> str:
        """The block by its first cell."""
        return f"the block of cells from {number * self._block}"
