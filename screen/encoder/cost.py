"""What a screen costs before it runs: floating-point operations, memory, and time from a probe of this machine."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from rankshift.screen.families.sizes import Sizes

EFFICIENCY = 0.6  # share of the matrix-product rate that whole screens reach on a CPU (benchmarks/results.csv)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much a screen has to encode: rows of all its lists, and of one on average and at most."""

    rows: int
    mean_length: float
    longest: int


def list_flops(sizes: Sizes, layers: int, lengths: np.ndarray) -> np.ndarray:
    """FLOP per list of `lengths` rows: two per weight of the layer and attention 4 N D, per row and layer."""
    n = lengths.astype(np.float64)
    return layers * n * (2 * sizes.layer_weights + 4 * n * sizes.hidden_size)


def prediction_flops(sizes: Sizes, layers: int, rows: int, moved: int, states: int) -> float:
    """FLOP of the adjoint prediction of a cell of `rows` rows, `moved` rows elsewhere (module `engine.adjoint`).

    Per layer, of products: all rows forward; on the way back all their queries, keys and values again, what is behind the
    attention of the cell's rows again, and the whole layer once for each state. Of attention, in units of 2 N D per query:
    2 forward for every row; back 1 for the old and each new key, and for each state 4 and 1.
    """
    n, d, weights = float(rows), sizes.hidden_size, 2 * sizes.layer_weights
    products = (n + moved) * (weights + 6 * d * d) + n * (weights - 6 * d * d + states * weights)
    attention = 2 * n * d * (2 * (n + moved) + (1 + 4 * states) * n + (1 + states) * moved)
    return layers * (products + attention)


def memory_bytes(sizes: Sizes, tokens: int, longest: int) -> int:
    """Rough peak beside the cells: weights, the batch's shared attention, one block of activations."""
    d = sizes.hidden_size
    weights = sizes.layers * sizes.layer_weights + sizes.vocabulary * d
    block = max(longest, 4096) * (8 * d + sizes.intermediate_size)
    return 4 * int(weights + max(tokens, longest) * d + block + 4 * longest * d)


def kept_bytes(sizes: Sizes, layers: int) -> int:
    """Bytes of what the linear layers read and gave of one row of an original: 8 D + 2 F float32 numbers a layer."""
    return 4 * layers * (8 * sizes.hidden_size + 2 * sizes.intermediate_size)


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Measured rate of a matrix product on this device, in FLOP per second (a fifth of a second)."""
    a = torch.randn(2048, 1024, device=device).to(dtype)
    b = torch.randn(1024, 1024, device=device).to(dtype)
    best = float("inf")
    stop = time.perf_counter() + 0.2
    while time.perf_counter() < stop:
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048 * 1024 * 1024 / best
