"""What a list costs where only few of a cell are computed, as in the rounds of an adaptive screen.

    python -m benchmarks.few_lists

Processor seconds of a list, the original of its cell included, beside those of a list where all of the cell's are computed,
both in one process on one thread, alternating, the smallest of several. The lists lie evenly over the ranks of 512 genes.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.models import bundle_of, draw_cells
from rankshift.screen.cells.cells import Cells
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.perturb.asked import asked

MODEL, TOKENS, BATCH = "V1-10M", 512, 32_768
COUNTS = (6, 12, 24, 96)
CELLS = 4
REPEATS = 3


def spent(work: Callable[[], object]) -> float:
    """Processor seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def row(encoder: Encoder, cells: Cells, kind: str, layers: int) -> str:
    """A row of the table."""
    perturb = asked(kind=kind, how="each", genes=None, frame=cells.frame, limit=TOKENS)
    goals = np.random.default_rng(0).normal(size=(2, encoder.hidden_size)).astype(np.float32)
    measure = Measure(level="cell", layers=layers, states=goals, tokens=BATCH)
    numbers = np.arange(CELLS)

    def some(count: int) -> Callable[[], object]:
        lists = {n: np.linspace(0, TOKENS - 1, count + 2).astype(np.int64)[1:-1] for n in numbers.tolist()}
        return lambda: shifts_of(cells, numbers, encoder, perturb, measure, lists, apart=True)

    works = {count: some(count) for count in COUNTS}
    works[TOKENS] = lambda: shifts_of(cells, numbers[:1], encoder, perturb, measure)
    seconds = dict.fromkeys(works, np.inf)
    for _ in range(1 + REPEATS):  # the first warms up, and counts only if it was the fastest
        for count, work in works.items():
            size = count * (1 if count == TOKENS else CELLS)
            seconds[count] = min(seconds[count], spent(work) / size)
    ratios = " | ".join(f"{seconds[count] / seconds[TOKENS]:.2f}" for count in COUNTS)
    return f"| {kind} | {layers} | {ratios} |"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"| perturbation | layers | {' | '.join(f'{count} lists a cell' for count in COUNTS)} |")
    print("|---|---|" + "---|" * len(COUNTS))
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle_of(MODEL, Path(folder))
        cells = Cells.read(draw_cells(bundle, TOKENS, CELLS, Path(folder) / "cells.parquet"), bundle)
        encoder = Encoder(bundle)
        for layers in (1, 5):
            for kind in ("delete", "overexpress"):
                print(row(encoder, cells, kind, layers), flush=True)


if __name__ == "__main__":
    main()
