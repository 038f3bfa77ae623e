"""The encoder of one bundle on one device: batches of packed lists run through its layers, on threads of their own on a CPU.

It computes the layers up to the one that is measured and nothing above. What a layer is, the model's family knows; it does
not train.

Shapes: T packed rows of a batch, P lists, N rows of a list, D hidden size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rankshift.kernels.few_splits import few_splits
from rankshift.kernels.first_layer import first_layer, sharing_pays
from rankshift.kernels.perturbed_lists import sent
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.batches import Batch, ListArrays, SharedEdit, batches, behind
from rankshift.screen.encoder.beside import Beside
from rankshift.screen.encoder.cost import kept_bytes
from rankshift.screen.encoder.device import KEPT_BYTES
from rankshift.screen.encoder.pooling import Pooling
from rankshift.screen.errors import InputError
from rankshift.screen.families.operators import Operators, Runs
from rankshift.screen.families.originals import Rows

A = TypeVar("A")  # what is worked on
B = TypeVar("B")  # what comes of it
FEW = range(4, 49)  # lists of a cell that are cheaper as few splits than as a tree, or each by itself
BLOCK_TOKENS = 2400  # rows that run through a layer together on a CPU: its activations stay in the second-level cache


@contextmanager
def one_thread() -> Iterator[None]:
    """Operators on one thread each, because the encoder brings its own threads; what was set before comes back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _alone() -> None:
    torch.set_num_threads(1)  # for this thread of ours; oneDNN and OpenMP count per thread, MKL for the process


class Encoder:
    """The weights of one bundle on one device, ready to run packed lists.

    dtype: one of `families.operators.PRECISIONS`. weights: the encoder's, without the prefix of the model
    around it, where they are in memory already; else they are read.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        share_first_layer: bool = True,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._bundle, family, self.config = bundle, bundle.family, bundle.config
        family.check_config(self.config)
        self.sizes = bundle.sizes
        self.operators = Operators(device, dtype, {self.sizes.hidden_size, self.sizes.intermediate_size})
        self.device, self.dtype = self.operators.device, self.operators.dtype
        self.share_first_layer = share_first_layer
        threads = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(threads, initializer=_alone) if self.device.type == "cpu" else None
        weights = bundle.encoder_weights() if weights is None else weights
        try:
            self.model = family.load(self.config, weights, self.operators)
        except KeyError as e:
            raise InputError(
                f"{bundle.path} lacks the weight {e.args[0]}: make the bundle from a complete checkpoint"
            ) from e

    @cached_property
    def wider(self) -> "Encoder | None":
        """The same weights in float32, for what fewer bits cannot hold, read when it is asked for; None where these are it."""
        if self.precision == "float32":
            return None
        return Encoder(self._bundle, device=str(self.device), share_first_layer=self.share_first_layer)

    @property
    def precision(self) -> str:
        """What it was asked to compute with, as `--dtype` says it; `dtype` is that of attention."""
        return self.operators.precision

    @property
    def hidden_size(self) -> int:
        """D, dimensions of a hidden state."""
        return self.sizes.hidden_size

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return self.sizes.heads

    def map(
        self,
        batches: Iterable[Batch],
        work: Callable[[Batch, Tensor], Any],
        *,
        layers: int,
        first_rows: bool = False,
        after: int = 0,
        beside: Beside | None = None,
    ) -> Iterator[Any]:
        """`work(block, hidden)` for every block of the batches, in order; see `hidden` for its arguments.

        beside: the originals of the lists, or where they are kept (`originals`); None where products are not on differences.
        after: so many blocks at the beginning are not computed and do not come. The bits of the others do not depend on it.

        A GPU runs a batch as one block. A CPU runs blocks of `BLOCK_TOKENS` rows, whose activations stay in cache, on threads
        that share nothing: no barrier inside an operator waits for a core that another program took, and the bits do not
        depend on how many threads there are. The next batch's shared attention is computed beside this one's blocks.
        """
        share = layers > (1 if first_rows else 0)
        if self._threads is None:
            for batch in islice(batches, after, None):
                yield work(
                    batch, self.hidden(batch, self._shared(batch) if share else None, layers, first_rows, beside)
                )
            return
        batches, after = behind(batches, after, BLOCK_TOKENS)
        coming = iter(batches)
        following = next(coming, None)
        ready = self._threads.submit(self._shared, following) if share and following is not None else None
        while following is not None:
            batch, attended_TD = following, None if ready is None else ready.result()
            following = next(coming, None)
            ready = self._threads.submit(self._shared, following) if share and following is not None else None

            def task(block: Batch, attended_TD: Tensor | None = attended_TD) -> Any:
                return work(block, self.hidden(block, attended_TD, layers, first_rows, beside))

            yield from self._threads.map(task, islice(batch.blocks(BLOCK_TOKENS), after, None))
            after = 0

    def beside(self, originals: ListArrays) -> Beside | None:
        """Where these originals are kept for the products of their lists; None where products are not on differences."""
        return Beside.of(originals, KEPT_BYTES[self.device.type]) if self.operators.deltas else None

    def kept_rows(self, layers: int) -> int | None:
        """Rows of originals whose products on differences fit `KEPT_BYTES` together; None where there are none."""
        if not self.operators.deltas:
            return None
        return KEPT_BYTES[self.device.type] // max(kept_bytes(self.sizes, layers), 1)

    def each(self, work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """`work` of every item, in order; on a CPU on the encoder's threads, which share nothing."""
        return map(work, items) if self._threads is None else self._threads.map(work, items)

    def ahead(self, batches: Iterable[Batch]) -> tuple[list[Batch], dict[int, Tensor]]:
        """Batches of one cell each with the first layer's attention in them, where they share it; and that of the cells (N, D).

        A cell is known by where it begins in the packed ids. Few lists share as much with their cell as with each other.
        """

        def work(batch: Batch) -> tuple[Batch, Tensor | None]:
            few = self._few(batch)
            if few is not None:
                return replace(batch, attended=few[0]), few[1]
            return replace(batch, attended=self._shared(batch)), None

        found = list(self.each(work, batches))
        cells = {int(batch.arrays.base[0]): cell for batch, cell in found if cell is not None}
        return [batch for batch, _ in found], cells

    def map_ahead(
        self,
        batches: Iterable[Batch],
        work: Callable[[Batch, Tensor], Any],
        *,
        layers: int,
        first_rows: bool = False,
        after: int = 0,
        beside: Beside | None = None,
    ) -> Iterator[Any]:
        """As `map`, for batches that hold what they share (`ahead`): small ones of many cells keep all threads busy."""

        def task(block: Batch) -> Any:
            return work(block, self.hidden(block, block.attended, layers, first_rows, beside))

        blocks = (block for batch in batches for block in batch.blocks(BLOCK_TOKENS))
        return self.each(task, islice(blocks, after, None))

    def embed(
        self, ids: Tensor, lists: ListArrays, pooling: Pooling, *, layers: int, tokens: int
    ) -> Iterator[np.ndarray]:
        """One embedding a list, float32 [lists of a block, D], block by block in their order; ids: the packed cells."""

        def work(block: Batch, hidden: Tensor) -> np.ndarray:
            return pooling.of(hidden, block.runs).float().cpu().numpy()

        return self.map(batches(ids, lists, tokens), work, layers=layers, first_rows=pooling.first_row)

    @torch.inference_mode()
    def hidden(
        self,
        block: Batch,
        attended_TD: Tensor | None,
        layers: int,
        first_rows: bool,
        beside: Beside | None = None,
    ) -> Tensor:
        """Hidden states after `layers` layers: float32 [T, D], or [P, D] of the lists' first rows with `first_rows`.

        attended_TD: first-layer attention of the batch that the block was cut from, None to compute it here.
        """
        lists, runs = block.lists().to(self.device), block.runs
        rows = None if beside is None else beside.rows(block, self.device)
        x = self.model.embed(lists)  # (T, D)
        for i in range(layers):
            if first_rows and i == layers - 1:
                return self.model.first_rows(i, x, runs, lists.start, rows)
            if i == 0 and attended_TD is not None:
                if rows is not None and rows.keeps:  # for lists that do not share what their cell has
                    self.model.qkv(i, x, rows)
                attended = attended_TD[block.first_row : block.first_row + len(x)]
            else:
                attended = self._attention(i, x, runs, lists.start, rows)
            x = self.model.finish(i, x, attended, rows)
        return x[lists.start[:-1]] if first_rows else x

    @torch.inference_mode()
    def layer_inputs(self, block: Batch, layers: int) -> Iterator[Tensor]:
        """What each of the first `layers` layers reads, float32 [T, D], one after the other; the next overwrites it."""
        lists, runs = block.lists().to(self.device), block.runs
        x = self.model.embed(lists)
        for i in range(layers - 1):
            yield x
            x = self.model.finish(i, x, self._attention(i, x, runs, lists.start))
        yield x

    @torch.inference_mode()
    def attention(self, layer: int, rows_ND: Tensor) -> Iterator[Tensor]:
        """Attention weights of each head of layer number `layer` (from 0) in one list: float32 [N, N], query by key.

        rows_ND: what the layer reads (`layer_inputs`). One head at a time is in memory.
        """
        d, size = self.hidden_size, self.hidden_size // self.heads
        qk = self.model.queries_and_keys(layer, rows_ND)
        for at in range(0, d, size):
            logits = (qk[:, at : at + size] @ qk[:, d + at : d + at + size].T).float()
            yield logits.mul_(size**-0.5).softmax(-1)

    def _attention(self, layer: int, x: Tensor, runs: Runs, start: Tensor, rows: Rows | None = None) -> Tensor:
        return self.operators.attention(self.model.qkv(layer, x, rows), runs, start, self.heads)

    @torch.inference_mode()
    def _shared(self, batch: Batch) -> Tensor | None:
        """First-layer attention (T, D) of single edits of one cell, from Q, K, V of each token at its two or three places.

        None where the lists share nothing or sharing does not pay.
        """
        split = batch.split
        if split is None or not self.share_first_layer:
            return None
        if not sharing_pays(int(batch.arrays.base_length[0]), split.at.tolist(), self.device.type):
            return None
        kept, late, inserted = self._edited(batch, split)
        at = torch.from_numpy(split.at)  # stays on the CPU, so nothing waits for a GPU
        return first_layer(kept, late, inserted, at, front=split.front or 0, heads=self.heads).flatten(0, 1)

    @torch.inference_mode()
    def _few(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """The same of a few lists, and of their cell (N, D) besides.

        None where they are not few, or float32 cannot hold their weights together.
        """
        split = batch.split
        if split is None or not self.share_first_layer or len(split.at) not in FEW:
            return None
        at = split.at.tolist()
        if len(set(at)) < len(at) or at[-1] >= int(batch.arrays.base_length[0]):
            return None
        found = few_splits(*self._edited(batch, split, together=True), at, front=split.front or 0, heads=self.heads)
        return None if found is None else (found[0].flatten(0, 1), found[1])

    def _edited(
        self, batch: Batch, split: SharedEdit, *, together: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Q, K, V (N, 3D) of the cell's tokens where they stand before an edit and behind it; (P, 3D) of the edits' own.

        together: in one product, which is faster for few rows.
        """
        first, n = int(batch.arrays.base[0]), int(batch.arrays.base_length[0])
        ids, place = batch.ids[first : first + n], torch.arange(n)
        if split.front is None:
            below, above, extra = place, (place - 1).clamp_(min=0), []
        else:
            token, at = torch.from_numpy(split.token), torch.from_numpy(split.at)
            token = torch.where(token >= 0, token, ids[at.clamp(max=n - 1)])
            below, above = place + (place >= split.front), place
            extra = [(token, torch.full_like(token, split.front))]
        below = below.clamp_(max=self.sizes.positions - 1)  # a full cell has no position behind its last one
        rows = [(ids, below), (ids, above), *extra]
        kept, late, *moved = self._first_qkv(rows, together or self.device.type == "cuda")
        return kept, late, moved[0] if moved else None

    def _first_qkv(self, rows: list[tuple[Tensor, Tensor]], together: bool) -> list[Tensor]:
        """First-layer Q, K, V (n, 3D) of each pair of tokens and the positions where they stand, in one product or in several.

        The bits of a CPU's product may follow its height; ordinary screens take each by itself.
        """
        wide = [(token.to(torch.int64), position.to(torch.int64)) for token, position in rows]
        if not together:
            return [self.model.qkv(0, self.model.embed_tokens(token, position)) for token, position in wide]
        token, position = (sent(torch.cat(column), self.device) for column in zip(*wide, strict=True))
        qkv = self.model.qkv(0, self.model.embed_tokens(token, position))
        return list(qkv.split([len(token) for token, _ in wide]))
