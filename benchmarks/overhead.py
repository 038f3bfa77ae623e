"""What a run costs besides its encoder: a whole screen in this process, its time split by who spent it.

planning: from the command to the first shard. encoder, compare (cosines): seconds on the encoder's threads, divided by
the number of threads. wait: threads without a block while others still have one. handling: edits before and rows after
the encoder's passes. write: from rows to a committed part. noise_floor: the sample recomputed at the end.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import bundle_of, draw_cells
from benchmarks.speed import TimedEncoder, peak_memory
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.device import default_device
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener, finish


class ThreadTimedEncoder(TimedEncoder):
    """An encoder that notes how long each block ran, and its comparison, too."""

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
    encoder = ThreadTimedEncoder(bundle, device=device, dtype=dtype)
    threads = torch.get_num_threads() if device == "cpu" else 1
    with tempfile.TemporaryDirectory(dir=folder) as here:
        cells = draw_cells(bundle, tokens, count, Path(here) / "cells.parquet")
        began = time.perf_counter()
        run = prepare(cells, bundle, Path(here) / "run", Options(perturb="delete", dtype=dtype))
        screener = Screener.open(run.path, bundle)
        shards = screener.shards
        planning = time.perf_counter() - began
        screener.compute(shards[0], encoder)  # warms up; a shard can be computed twice
        for spent in (encoder.encoding, encoder.comparing, encoder.passes):
            spent.clear()
        began = time.perf_counter()
        rows = sum(screener.compute(shard, encoder) for shard in shards)
        computing = time.perf_counter() - began
        shifting = sum(marker["encode_seconds"] for marker in run.committed.values())
        began = time.perf_counter()
        finish(screener, bundle)
        noise = time.perf_counter() - began
    encoding, comparing = sum(encoder.encoding) / threads, sum(encoder.comparing) / threads
    passing = sum(encoder.passes)
    spent_on = {
        "planning": planning,
        "encoder": encoding,
        "compare": comparing,
        "wait": passing - encoding - comparing,
        "handling": shifting - passing,
        "write": computing - shifting,
        "noise_floor": noise,
    }
    total = sum(spent_on.values())
    besides = sum(spent_on[name] for name in ("planning", "compare", "handling", "write"))
    return {
        "lists": rows,
        "dtype": dtype,
        "unit": "perturbations",
        "engine_per_s": rows / total,
        "fixed_s_per_cell": besides / count,
        "peak_mb": peak_memory(device),
        **{f"{name}_share": seconds / total for name, seconds in spent_on.items()},
    }
