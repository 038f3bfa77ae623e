"""The first hour on a GPU, in minutes: `python -m benchmarks.gpu`, or `make gpu`. One line of JSON a fact, each part by itself.

It measures what was only predicted so far and ends with a table of both. `--cpu` rehearses it, tiny, where there is no GPU;
names of parts choose among them. It needs neither Ray nor a network, and judges nothing: a part that fails says so and the next
runs.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.models import bundle_of, draw_cells
from benchmarks.roofline import SHAPES, Shape, screen_flops
from rankshift.kernels.add_norm import add_norm
from rankshift.kernels.narrow_layer import kernels_take, perceptron_norm
from rankshift.kernels.varlen_attention import varlen_attention
from rankshift.screen.cells.cells import Cells
from rankshift.screen.encoder.device import computed_by
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.shifts import Measure, Shifts, shifts_of
from rankshift.screen.perturb.asked import asked

ROOT = Path(__file__).resolve().parents[1]
TINY = Shape(layers=2, width=32, heads=1, inner=64, positions=64, vocab=300, framed=False)
# Lists a second on an H100, by a model of counted launches and bytes and of rates that others measured; never measured here.
PREDICTED = {("V1-10M", 2048): 10_708, ("V1-10M", 200): 129_093, ("V2-104M", 2048): 1_127}
SCREENS = (("V1-10M", 200, 60), ("V1-10M", 600, 8), ("V1-10M", 2048, 2), ("V2-104M", 2048, 1))  # model, rows, cells
BUDGETS = 16_384, 65_536, 131_072, 524_288


@dataclass
class Bench:
    """The device, a folder for models, and what was found."""

    device: str
    folder: Path
    rows: list[tuple[str, int, float]] = field(default_factory=list)  # model, rows of a cell, lists a second

    @property
    def tiny(self) -> bool:
        return self.device == "cpu"

    def say(self, **fact: Any) -> None:
        print(json.dumps(fact, default=float), flush=True)

    def wait(self) -> None:
        if not self.tiny:
            torch.cuda.synchronize()

    def milliseconds(self, work: Callable[[], Any], times: int = 10) -> float:
        """Median time of a call until the device is done, after two for nothing."""
        found = []
        for i in range(times + 2):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            found.append((time.perf_counter() - began) * 1e3 if i > 1 else None)
        return statistics.median(x for x in found if x is not None)

    def draw(self, *shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).to(dtype)

    def model(self, name: str, dtype: str, device: str | None = None, **options: Any) -> Encoder:
        return Encoder(bundle_of(name, self.folder), device=device or self.device, dtype=dtype, **options)

    def cells(self, name: str, rows: int, count: int) -> Cells:
        bundle = bundle_of(name, self.folder)
        return Cells.read(draw_cells(bundle, rows, count, self.folder / f"{name}-{rows}-{count}.parquet"), bundle)

    def screen(self, encoder: Encoder, cells: Cells, tokens: int) -> Shifts:
        perturb = asked(kind="delete", how="each", genes=None, frame=cells.frame, limit=encoder.sizes.positions)
        level = "cls" if cells.frame.head else "cell"
        measure = Measure(level=level, layers=encoder.sizes.layers - 1, states=None, tokens=tokens)
        return shifts_of(cells, np.arange(len(cells)), encoder, perturb, measure)


def environment(bench: Bench) -> None:
    """What the numbers depend on."""
    bench.say(part="environment", python=sys.version.split()[0], **computed_by(torch.device(bench.device)))


def attention(bench: Bench) -> None:
    """Our kernel and torch's backends over equal lists; what a new shape costs; lists of many lengths in one launch."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # of a GPU's torch only

    shapes = [(3, 9, 1)] if bench.tiny else [(640, 199, 4), (64, 2047, 4), (64, 2047, 12)]
    for lists, n, heads in shapes:
        qkv = bench.draw(lists * n, 3 * heads * 64)
        start = torch.arange(lists + 1, device=bench.device) * n
        q, k, v = qkv.view(lists, n, 3, heads, 64).permute(2, 0, 3, 1, 4)
        ways: dict[str, Callable[[], Any]] = {"ours": lambda: varlen_attention(qkv, start, n, heads)}  # noqa: B023

        def sdpa(backend: SDPBackend) -> None:
            with sdpa_kernel(backend):
                F.scaled_dot_product_attention(q, k, v)  # noqa: B023

        for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION") if not bench.tiny else ("MATH",):
            ways[name] = partial(sdpa, getattr(SDPBackend, name))
        for name, way in ways.items():
            took = bench.milliseconds(way)
            rate = 4 * lists * n * n * heads * 64 / took / 1e9
            bench.say(part="attention", way=name, lists=lists, rows=n, heads=heads, ms=took, tflops=rate)
    for n in (11, 12) if bench.tiny else (301, 517, 777, 1203):
        qkv, start = bench.draw(n, 3 * 64), torch.tensor([0, n], device=bench.device)
        bench.wait()
        began = time.perf_counter()
        varlen_attention(qkv, start, n, 1)
        bench.wait()
        bench.say(part="attention", way="ours, a new length", rows=n, first_ms=(time.perf_counter() - began) * 1e3)


def passes(bench: Bench) -> None:
    """Between and in the products: bytes and FLOP a second."""
    rows = 64 if bench.tiny else 131_008
    for d, f in ((32, 64),) if bench.tiny else ((256, 512), (768, 3072)):
        x, a, one = bench.draw(rows, d, dtype=torch.float32), bench.draw(rows, d), torch.ones(d, device=bench.device)
        took = bench.milliseconds(lambda: add_norm(x, a, one, one, 1e-12))  # noqa: B023
        bench.say(part="passes", name="add and norm", width=d, ms=took, tb_per_s=12 * rows * d / took / 1e9)
        weight, bias = bench.draw(f, d).T, bench.draw(f)
        for name, multiply in (("product", torch.addmm), ("product and relu", torch._addmm_activation)):
            took = bench.milliseconds(lambda: multiply(bias, a, weight))  # noqa: B023
            bench.say(part="passes", name=name, width=d, inner=f, ms=took, tflops=2 * rows * d * f / took / 1e9)
        down, low = bench.draw(d, f).T, bench.draw(d)
        if kernels_take(x, weight):  # beside it, the same in the steps of wider layers
            took = bench.milliseconds(lambda: perceptron_norm(x, weight, bias, down, low, one, one, 1e-12))  # noqa: B023
            bench.say(part="passes", name="perceptron", width=d, inner=f, ms=took, tflops=4 * rows * d * f / took / 1e9)

            def steps() -> None:
                inner = torch._addmm_activation(bias, a, weight)  # noqa: B023
                add_norm(x, torch.addmm(low, inner, down), one, one, 1e-12)  # noqa: B023

            took = bench.milliseconds(steps)
            bench.say(
                part="passes",
                name="perceptron in steps",
                width=d,
                inner=f,
                ms=took,
                tflops=4 * rows * d * f / took / 1e9,
            )


def numbers(bench: Bench) -> None:
    """Whole screens against float32 on the CPU, twice the same bits, and what other batches change."""
    for name, rows in (("tiny", 40),) if bench.tiny else (("V1-10M", 300), ("V2-104M", 130)):
        cells = bench.cells(name, rows, 1)
        exact = bench.screen(bench.model(name, "float32", "cpu"), cells, 8192).similarity
        for dtype in ("float32", "float16", "bfloat16"):
            encoder = bench.model(name, dtype)
            first, second = (bench.screen(encoder, cells, 8192) for _ in range(2))
            other = bench.screen(encoder, cells, 3000).similarity
            bench.say(
                part="numbers", model=name, dtype=dtype, off=np.abs(first.similarity - exact).max(), spread=exact.std(),
                repeats=bool((first.similarity == second.similarity).all()), wider=int(first.wider.sum()),
                other_batches_off=np.abs(first.similarity - other).max(),
            )  # fmt: skip


def memory(bench: Bench) -> None:
    """A screen that finds too little memory goes on with smaller batches."""
    if bench.tiny:
        return
    encoder, cells = bench.model("V1-10M", "float16"), bench.cells("V1-10M", 1500, 1)
    whole = bench.screen(encoder, cells, BUDGETS[2])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 300e6) / total)
    try:
        few = bench.screen(encoder, cells, BUDGETS[2])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    off = np.abs(few.similarity - whole.similarity).max()
    bench.say(part="memory", batch_rows=np.unique(few.batch_rows).tolist(), off=off)


def screens(bench: Bench) -> None:
    """Lists a second of whole screens, and their share of the rate of a large product."""
    n = 256 if bench.tiny else 8192
    a, b = bench.draw(n, n), bench.draw(n, n)
    peak = 2 * n**3 / bench.milliseconds(lambda: a @ b) * 1e3
    bench.say(part="screens", product_tflops=peak / 1e12)
    for name, rows, count in (("tiny", 40, 3),) if bench.tiny else SCREENS:
        encoder, cells = bench.model(name, "float16"), bench.cells(name, rows, count)
        began = time.perf_counter()
        lists = len(bench.screen(encoder, cells, BUDGETS[2]).cell)
        first = time.perf_counter() - began
        best = bench.milliseconds(lambda: bench.screen(encoder, cells, BUDGETS[2]), 3) / 1e3  # noqa: B023
        shared = encoder.share_first_layer and count == 1
        flops = screen_flops(SHAPES[name], rows, shared=shared, lists=lists // count) * count
        bench.rows.append((name, rows, lists / best))
        bench.say(
            part="screens", model=name, rows=rows, cells=count, lists_per_s=lists / best, first_s=first,
            share_of_product_rate=flops / best / peak, predicted=PREDICTED.get((name, rows)),
        )  # fmt: skip


def budgets(bench: Bench) -> None:
    """Lists a second by rows of a batch."""
    name, rows, count = ("tiny", 40, 3) if bench.tiny else SCREENS[0]
    encoder, cells = bench.model(name, "float16"), bench.cells(name, rows, count)
    for tokens in BUDGETS:
        lists = len(bench.screen(encoder, cells, tokens).cell)
        took = bench.milliseconds(lambda: bench.screen(encoder, cells, tokens), 3) / 1e3  # noqa: B023
        bench.say(part="budgets", model=name, rows=rows, batch_rows=tokens, lists_per_s=lists / took)


def kernels(bench: Bench) -> None:
    """The kernels' own tests, natively; some of them again under memcheck, where it is installed."""
    if bench.tiny:
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/device"]
    runs = {"tests": command}
    if shutil.which("compute-sanitizer"):
        few = [*command[:-1], "tests/kernels/device/test_varlen_attention.py"]
        runs["memcheck"] = ["compute-sanitizer", "--tool", "memcheck", *few]
    for name, words in runs.items():
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
        bench.say(part="kernels", what=name, status=done.returncode, end=(done.stdout + done.stderr)[-800:])


PARTS = (environment, attention, passes, numbers, memory, screens, budgets, kernels)


def table(bench: Bench) -> Iterator[str]:
    """Prediction beside measurement, lists a second."""
    yield f"{'model':10} {'rows':>5} {'predicted (H100)':>17} {'measured':>12}"
    for name, rows, rate in bench.rows:
        predicted = PREDICTED.get((name, rows))
        yield f"{name:10} {rows:5} {'' if predicted is None else f'{predicted:,}':>17} {rate:12,.0f}"


def main() -> int:
    names = [part.__name__ for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--cpu", action="store_true", help="rehearse on the CPU, tiny")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(names):
        parser.error(f"no part is called {', '.join(sorted(unknown))}: choose of {', '.join(names)}")
    if not args.cpu and not torch.cuda.is_available():
        parser.error("torch finds no GPU here: rehearse with --cpu")
    SHAPES["tiny"] = TINY
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench("cpu" if args.cpu else "cuda", Path(folder))
        for part in PARTS:
            if args.parts and part.__name__ not in args.parts:
                continue
            began = time.perf_counter()
            try:
                part(bench)
                error = None
            except Exception:  # the next part may tell more
                error, failed = traceback.format_exc()[-1500:], failed + 1
            bench.say(part=part.__name__, seconds=round(time.perf_counter() - began, 2), error=error)
        print("\n".join(table(bench)), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
