"""What a run costs besides its encoder: a whole screen in this process, its time split by who spent it.

Encoder and comparison run on the encoder's threads: their seconds are summed over threads and divided by the threads, so
what waits, plans, edits and gathers is in the rest.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import bundle_of, draw_cells
from benchmarks.speed import peak_memory
from rankshift.screen.bundle import Bundle
from rankshift.screen.encoder import Encoder
from rankshift.screen.screening import Options, Screener, default_device, finish, prepare


class TimedEncoder(Encoder):
    """An encoder that notes how long it ran, and how long comparison did, on each thread."""

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        super().__init__(bundle, **options)
        self.encoding: list[float] = []
        self.comparing: list[float] = []

    def _timed(self, spent: list[float], work: Any) -> Any:
        def run(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = work(*arguments)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - began)
            return result

        return run

    def map(self, batches: Any, work: Any, **options: Any) -> Any:
        return super().map(batches, self._timed(self.comparing, work), **options)

    def hidden(self, *arguments: Any) -> Tensor:
        return self._timed(self.encoding, super().hidden)(*arguments)

    def _shared(self, *arguments: Any) -> Tensor | None:
        return self._timed(self.encoding, super()._shared)(*arguments)


def measure_overhead(folder: Path, model: str, tokens: int, count: int) -> dict[str, Any]:
    """Shares of a genome-wide deletion screen of `count` cells in the device's quick dtype."""
    device = default_device()
    dtype = "float16" if device == "cuda" else "bfloat16"
    bundle = bundle_of(model, folder)
    encoder = TimedEncoder(bundle, device=device, dtype=dtype)
    threads = torch.get_num_threads() if device == "cpu" else 1
    with tempfile.TemporaryDirectory(dir=folder) as here:
        cells = draw_cells(bundle, tokens, count, Path(here) / "cells.parquet")
        began = time.perf_counter()
        run = prepare(cells, bundle, Path(here) / "run", Options(perturb="delete", dtype=dtype))
        screener = Screener.open(run.path, bundle)
        shards = screener.shards
        planning = time.perf_counter() - began
        screener.compute(shards[0], encoder)  # warms up; a shard can be computed twice
        encoder.encoding.clear()
        encoder.comparing.clear()
        began = time.perf_counter()
        rows = sum(screener.compute(shard, encoder) for shard in shards)
        computing = time.perf_counter() - began
        writing = computing - sum(marker["encode_seconds"] for marker in run.committed.values())
        began = time.perf_counter()
        finish(screener, bundle)
        noise = time.perf_counter() - began
    total = planning + computing + noise
    encoding, comparing = sum(encoder.encoding) / threads, sum(encoder.comparing) / threads
    return {
        "lists": rows,
        "dtype": dtype,
        "unit": "perturbations",
        "engine_per_s": rows / total,
        "fixed_s_per_cell": (planning + computing - encoding) / count,
        "planning_share": planning / total,
        "encoder_share": encoding / total,
        "compare_share": comparing / total,
        "write_share": writing / total,
        "wait_share": (computing - encoding - comparing - writing) / total,
        "noise_floor_share": noise / total,
        "peak_mb": peak_memory(device),
    }
