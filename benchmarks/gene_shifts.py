"""What gene shifts cost: the same shards with and without them, in turns, by the processor's seconds and peak memory.

Seconds of the processor (user and system, all threads) do not count the time that other programs take.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.models import bundle_of, draw_cells
from benchmarks.speed import peak_memory
from rankshift.screen.encoder.device import default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener


def measure_gene_shifts(folder: Path, model: str, tokens: int, shards: int, dtype: str) -> dict[str, Any]:
    """The first `shards` shards of a genome-wide deletion screen of one cell of `tokens` tokens, twice each."""
    device = default_device()
    bundle = bundle_of(model, folder)
    encoder = Encoder(bundle, device=device, dtype=dtype)
    with tempfile.TemporaryDirectory(dir=folder) as here:
        cells = draw_cells(bundle, tokens, 1, Path(here) / "cells.parquet")
        screeners = []
        for name, genes in (("without", False), ("with", True)):
            run = prepare(cells, bundle, Path(here) / name, Options(perturb="delete", dtype=dtype, gene_shifts=genes))
            screeners.append(Screener.open(run.path, bundle))
        some = range(min(shards, len(screeners[0].shards)))
        for screener in screeners:  # warms up; a shard can be computed twice
            screener.compute(screener.shards[-1], encoder)
        spent, rows = [0.0, 0.0], 0
        began = time.perf_counter()
        for index in some:
            for which, screener in enumerate(screeners):
                start = time.process_time()
                rows += screener.compute(screener.shards[index], encoder)
                spent[which] += time.process_time() - start
        took = time.perf_counter() - began
    return {
        "lists": rows // 2,
        "unit": "perturbations",
        "engine_per_s": rows / took,
        "gene_shifts_share": (spent[1] - spent[0]) / spent[1],
        "peak_mb": peak_memory(device),
    }
