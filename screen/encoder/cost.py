"""What a screen costs before it runs: floating-point operations, memory, and time from a probe of this machine."""

import time
from typing import Any

import numpy as np
import torch

EFFICIENCY = 0.6  # share of the matrix-product rate that whole screens reach on a CPU (benchmarks/results.csv)


def list_flops(config: dict[str, Any], layers: int, lengths: np.ndarray) -> np.ndarray:
    """FLOP per list of `lengths` rows: products 8 D^2 + 4 D F and attention 4 N D, per row and layer."""
    n = lengths.astype(np.float64)
    d, inner = config["hidden_size"], config["intermediate_size"]
    return layers * n * (8 * d * d + 4 * d * inner + 4 * n * d)


def memory_bytes(config: dict[str, Any], tokens: int, longest: int) -> int:
    """Rough peak beside the cells: weights, the batch's shared attention, one block of activations."""
    d, inner = config["hidden_size"], config["intermediate_size"]
    weights = config["num_hidden_layers"] * (4 * d * d + 2 * d * inner) + config["vocab_size"] * d
    block = max(longest, 4096) * (8 * d + inner)
    return 4 * int(weights + max(tokens, longest) * d + block + 4 * longest * d)


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
