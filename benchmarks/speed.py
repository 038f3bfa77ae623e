"""One case of engine against stock: perturbations per second in turns, peak memory, share of the peak, deviation.

The engine's time runs from rank lists to a committed Parquet part, the stock time to numbers in memory. Neither has the
originals' own pass in it: a genome-wide screen has thousands of lists to an original, a benchmark a few. Each function
here runs in a process of its own.
"""

import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import stock
from benchmarks.cases import Case
from benchmarks.models import bundle_of, draw_cells
from benchmarks.roofline import SHAPES, screen_flops
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.device import default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener
from rankshift.screen.families.operators import DTYPES


def machine() -> dict[str, Any]:
    """Device, its processor's name, and cores used."""
    device = default_device()
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {"device": device, "processor": name or platform.processor(), "cores": torch.get_num_threads()}


def peak_memory(device: str) -> float:
    """Most memory this process had so far, in MB: of the GPU, or resident with all libraries."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def product_peak(device: str, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """FLOP/s of the best of some matrix products on all cores."""
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    (a @ b)[0, 0].item()
    least, began = float("inf"), time.perf_counter()
    while least == float("inf") or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        least = min(least, time.perf_counter() - start)
    return 2 * n**3 / least


class TimedEncoder(Encoder):
    """An encoder that notes how long each of its passes took; every second one, from the first on, is over originals."""

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        super().__init__(bundle, **options)
        self.passes: list[float] = []

    def map(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        began = time.perf_counter()
        yield from super().map(*arguments, **options)
        self.passes.append(time.perf_counter() - began)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """The row of a case. Warms up, then engine, engine without sharing and stock take turns; the best of each counts."""
    device = default_device()
    bundle = bundle_of(case.model, folder)
    with tempfile.TemporaryDirectory(dir=folder) as here:
        cells = draw_cells(bundle, case.tokens, -(-case.lists // case.tokens), Path(here) / "cells.parquet")
        options = Options(perturb=case.perturb, dtype=case.dtype, shard_tokens=case.lists * case.tokens)
        run = prepare(cells, bundle, Path(here) / "run", options)
        screener = Screener.open(run.path, bundle)
        shard = screener.shards[0]

        def screen(encoder: TimedEncoder) -> float:
            encoder.passes.clear()
            began = time.perf_counter()
            screener.compute(shard, encoder)
            if len(encoder.passes) % 2:
                raise RuntimeError(
                    f"{len(encoder.passes)} passes are not originals and lists in turn: mend TimedEncoder"
                )
            return shard.lists / (time.perf_counter() - began - sum(encoder.passes[::2]))

        shared = TimedEncoder(bundle, device=device, dtype=case.dtype)
        engine = [screen(shared)]
        memory = peak_memory(device)
        similarity = dict(run.sql("SELECT gene_ids, similarity FROM shifts WHERE cell = 0").to_pandas().to_numpy())
        unshared = TimedEncoder(bundle, device=device, dtype=case.dtype, share_first_layer=False)
        model = stock.load(bundle.path, device)
        ids = screener.cells.ids_of(0).tolist()
        few = min(case.stock_lists, shard.lists)  # a shard is a cell's even part, not more than was asked for
        what = case.perturb, case.embedding, few
        expected, _ = stock.screen(model, ids, *what)
        plain, slow, peak, began = [], [], 0.0, time.perf_counter()
        while not plain or (len(plain) < case.rounds and time.perf_counter() - began < case.seconds):
            plain.append(few / stock.screen(model, ids, *what)[1])
            engine.append(screen(shared))
            peak = max(peak, product_peak(device, DTYPES[case.dtype]))
            if case.unshared:
                slow.append(screen(unshared))
        row = {"lists": shard.lists, "stock_lists": few, "rounds": len(plain), "peak_mb": memory}
        if case.dtype != "float32":
            row |= same_dtype(case, bundle.path, device, ids, expected)
    first = screener.perturb.frame.head + (case.perturb == "overexpress")
    genes = [bundle.vocabulary.gene_of[t] for t in ids[first : first + few]]
    batch = max(1, screener.measure.tokens // case.tokens)
    flops = screen_flops(SHAPES[case.model], case.tokens, shared=True, lists=min(batch, shard.lists), device=device)
    return row | {
        "engine_per_s": max(engine),
        "unshared_per_s": max(slow, default=None),
        "stock_per_s": max(plain),
        "ratio": max(engine) / max(plain),
        "peak_gflops": peak / 1e9,
        "share_of_peak": flops * max(engine) / peak,
        "max_deviation": max(abs(similarity[g] - e) for g, e in zip(genes, expected, strict=True)),
        "spread": float(np.std(expected)),
    }


def same_dtype(case: Case, path: Path, device: str, ids: list[int], expected: np.ndarray) -> dict[str, Any]:
    """The stock way with weights cast to the case's dtype: the best of two, and how far its numbers are then off."""
    model = stock.load(path, device, DTYPES[case.dtype])
    few = len(expected)
    found = [stock.screen(model, ids, case.perturb, case.embedding, few) for _ in range(2)]
    return {
        "stock_same_dtype_per_s": max(few / seconds for _, seconds in found),
        "stock_same_dtype_deviation": float(np.abs(found[0][0] - expected).max()),
    }


def stock_memory(case: Case, folder: Path) -> float:
    """Peak memory of the stock way alone, MB."""
    device = default_device()
    bundle = bundle_of(case.model, folder)
    with tempfile.TemporaryDirectory(dir=folder) as here:
        path = draw_cells(bundle, case.tokens, 1, Path(here) / "cells.parquet")
        run = prepare(path, bundle, Path(here) / "run", Options(perturb=case.perturb, dtype="float32"))
        ids = Screener.open(run.path, bundle).cells.ids_of(0).tolist()
    model = stock.load(bundle.path, device)
    stock.screen(model, ids, case.perturb, case.embedding, case.stock_lists)
    return peak_memory(device)
