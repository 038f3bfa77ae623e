"""Processor time of products on differences beside float32, as ratios in one run, and the operations and bytes of both.

    python -m benchmarks.differences [--folder FOLDER] [--lists 120] [--rounds 3] [--dtypes bfloat16-delta]

Deletions of one cell of V1-10M, 200 and 600 genes. Rounds take turns, and the least time of a dtype counts. Operations and
bytes are of one product of a list's rows with a weight, the loop over both counted as it is written in
kernels/difference_product.py; what lies between its passes is in the second-level cache and does not count as memory.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.models import bundle_of, draw_cells
from rankshift.screen.cells.cells import Cells
from rankshift.screen.encoder.encoder import Encoder, one_thread
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.families.operators import DELTA, PRECISIONS
from rankshift.screen.perturb.asked import asked

MODEL = "V1-10M"


def counted(inner: int, outer: int) -> tuple[float, float, float]:
    """Of one row and float32: FLOP, bytes it reads and writes; and further bytes of a product on differences.

    On differences x0 and y0 are read, and the row's number; the sum of the difference's product is added to y0.
    """
    return 2.0 * inner * outer, 4.0 * (inner + outer), 4.0 * (inner + outer + 1)


def seconds(encoder: Encoder, cells: Cells, lists: int) -> float:
    """Processor time of this process for some deletions of one cell."""
    layers = encoder.sizes.layers - 1
    perturb = asked(kind="delete", how="each", genes=None, frame=cells.frame, limit=2048)
    measure = Measure(level="cell", layers=layers, states=None, tokens=65_536)
    length = int(cells.lengths[0])
    some = {0: np.linspace(0, length - 1, min(lists, length)).astype(int)}
    start = time.process_time()
    with one_thread():
        shifts_of(cells, np.arange(1), encoder, perturb, measure, some)
    return time.process_time() - start


def main() -> None:
    """Print a row for every length and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps the model")
    parser.add_argument("--lists", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    few = [p for p in PRECISIONS if p.endswith(DELTA)]
    parser.add_argument("--dtypes", nargs="+", default=few, help="beside float32; int8 without VNNI takes minutes")
    options = parser.parse_args()
    print("| genes | dtype | seconds | float32 over it |\n|--:|---|--:|--:|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        bundle = bundle_of(MODEL, folder)
        encoders = {d: Encoder(bundle, dtype=d) for d in ("float32", *options.dtypes)}
        for genes in (200, 600):
            cells = Cells.read(draw_cells(bundle, genes, 1, Path(temporary) / f"{genes}.parquet"), bundle)
            rounds = [[seconds(e, cells, options.lists) for e in encoders.values()] for _ in range(options.rounds + 1)]
            best = np.min(rounds[1:], 0)
            for dtype, spent in zip(encoders, best, strict=True):
                print(f"| {genes} | {dtype} | {spent:.2f} | {best[0] / spent:.2f} |", flush=True)
        d, f = bundle.sizes.hidden_size, bundle.sizes.intermediate_size
        print("\n| product | FLOP a row | bytes a row, float32 | further bytes |\n|---|--:|--:|--:|")
        for name, sizes in {
            "queries, keys, values": (d, 3 * d),
            "output": (d, d),
            "up": (d, f),
            "down": (f, d),
        }.items():
            print("| {} | {:,.0f} | {:,.0f} | {:,.0f} |".format(name, *counted(*sizes)))


if __name__ == "__main__":
    main()
