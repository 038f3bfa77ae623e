"""The adjoint prediction: what it costs beside the screen that it predicts, and how much of the truth it knows.

    python -m benchmarks.adjoint               cost: random weights of V1-10M, cells of 512 and 2048 genes
    python -m benchmarks.adjoint DEMO [--cells 12]     truth: the encoders and 0 h cells in the folder of a `rankshift demo`

Costs are seconds of the processor (all threads), which do not count the time that other programs take, of both in one
process. Both print a table.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import bundle_of, draw_cells
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.states import read_states
from rankshift.screen.encoder.cost import list_flops, prediction_flops
from rankshift.screen.encoder.device import default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.adjoint import predict
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.families.family import measured_layers
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.edits import CellEdits
from rankshift.screen.perturb.perturbation import Perturb, edits_of

TOKENS = {"cpu": 32_768, "cuda": 131_072}  # of a batch
KINDS: dict[str, dict[str, Any]] = {
    "delete": {"kind": "delete"},
    "overexpress": {"kind": "overexpress"},
    "activate by a quartile": {"kind": "activate", "rank_shift": 1},
    "inhibit by a quartile": {"kind": "inhibit", "rank_shift": 1},
}
MODEL = "V1-10M"
RANK_POWERS = 4  # of the logarithm of the rank, in the trend that is taken out of a cell


def cost(folder: Path, tokens: int, kind: str, states: int, lists: int) -> str:
    """A row of the table: what the prediction of one cell costs, in passes as counted and measured and as a share of its
    full screen, of which `lists` lists are run, from its middle."""
    device = default_device()
    bundle = bundle_of(MODEL, folder)
    encoder = Encoder(bundle, device=device)
    with tempfile.TemporaryDirectory(dir=folder) as here:
        cells = Cells.read(draw_cells(bundle, tokens, 1, Path(here) / "cells.parquet"), bundle)
    perturb = asked(how="each", genes=None, frame=cells.frame, limit=bundle.input_size, **KINDS[kind])
    goals = np.random.default_rng(0).normal(size=(states, encoder.hidden_size)).astype(np.float32)
    layers = measured_layers(bundle.config, -1)
    measure = Measure(level="cell", layers=layers, states=goals, tokens=TOKENS[device])
    ids = cells.ids_of(0)
    middle = slice(len(ids) // 2, len(ids) // 2 + lists)

    def spent(work: Callable[[], object]) -> float:
        work()  # warms up
        began = time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() - began

    prediction = spent(lambda: predict(ids, encoder, perturb, measure))
    one_list = spent(lambda: shifts_of(cells, np.zeros(1, np.int64), encoder, perturb, measure, {0: middle})) / lists
    moved = len(ids) * (1 if kind == "delete" else 2)
    counted = prediction_flops(bundle.sizes, layers, len(ids), moved, states)
    counted /= float(list_flops(bundle.sizes, layers, np.array([len(ids)]))[0])
    share = prediction / (one_list * len(edits_of(ids, perturb)))
    return f"| {tokens} | {kind} | {states} | {counted:.1f} | {prediction / one_list:.1f} | {share:.2%} |"


def without_rank(values: np.ndarray, lists: CellEdits) -> np.ndarray:
    """What is left of values [P] behind a polynomial of the logarithm of the rank, one for each place that genes go to."""
    powers = np.log2(lists.source[:, :1] + 1.0) ** np.arange(RANK_POWERS + 1)
    left = np.empty(len(values))
    for goal in np.unique(lists.destination[:, 0]):
        some = lists.destination[:, 0] == goal
        left[some] = values[some] - powers[some] @ np.linalg.lstsq(powers[some], values[some], rcond=None)[0]
    return left


def agreement(predicted: np.ndarray, measured: np.ndarray, lists: CellEdits) -> tuple[float, float, float]:
    """Of one cell: correlation; correlation behind the rank trend; share of the variance behind the cell's mean and the trend
    that the prediction leaves when its slope is 1."""
    a, b = without_rank(predicted, lists), without_rank(measured, lists)
    return (
        float(np.corrcoef(predicted, measured)[0, 1]),
        float(np.corrcoef(a, b)[0, 1]),
        float(np.var(b - a) / np.var(b)),
    )


def compare(encoder: Encoder, cells: Cells, some: np.ndarray, perturb: Perturb, measure: Measure) -> np.ndarray:
    """Means over the cells `some` of `agreement`, [1 + S, 3]."""
    rows = []
    for number in some.tolist():
        ids = cells.ids_of(number)
        measured = shifts_of(cells, np.array([number]), encoder, perturb, measure).measured.astype(np.float64)
        predicted = predict(ids, encoder, perturb, measure).astype(np.float64)
        lists = edits_of(ids, perturb)
        rows.append([agreement(predicted[:, i], measured[:, i], lists) for i in range(measured.shape[1])])
    return np.mean(rows, axis=0)


def absent_genes(cells: Cells, vocabulary_size: int, is_gene: np.ndarray, number: int, count: int) -> tuple[int, ...]:
    """`count` genes that other cells have and this one lacks."""
    seen = np.bincount(cells.ids, minlength=vocabulary_size) * is_gene
    seen[cells.ids_of(number)] = 0
    return tuple(np.flatnonzero(seen)[:: max(1, int((seen > 0).sum()) // count)][:count].tolist())


def absent_agreement(encoder: Encoder, cells: Cells, some: np.ndarray, bundle: Bundle, measure: Measure) -> float:
    """Mean over the cells `some` of the correlation over 200 genes that a cell lacks."""
    found = []
    for number in some.tolist():
        genes = absent_genes(cells, bundle.vocabulary.size, bundle.vocabulary.is_gene, number, 200)
        perturb = asked(kind="overexpress", how="each", genes=genes, frame=cells.frame, limit=bundle.input_size)
        measured = shifts_of(cells, np.array([number]), encoder, perturb, measure).measured[:, 1]
        predicted = predict(cells.ids_of(number), encoder, perturb, measure)[:, 1]
        found.append(np.corrcoef(measured, predicted)[0, 1])
    return float(np.mean(found))


def truth(demo: Path, count: int) -> Iterator[str]:
    """The rows of the table of a demo, on its first `count` cells of 0 h, for the shift towards 72 h."""
    for name, folder in (("pretrained", demo), ("fine-tuned", demo / "finetuned")):
        bundle = Bundle.open(folder / "bundle")
        encoder = Encoder(bundle)
        goal = read_states(folder / "states.json", encoder.hidden_size, ["72"])["72"]
        cells = Cells.read(demo / "cells.parquet", bundle)
        early = np.flatnonzero(np.array(cells.obs["hours"].to_pylist()) == "0")[:count]
        for layer in (-1, 0):
            layers = measured_layers(bundle.config, layer)
            measure = Measure(level="cell", layers=layers, states=goal[None], tokens=TOKENS["cpu"])
            for kind, options in KINDS.items():
                perturb = asked(how="each", genes=None, frame=cells.frame, limit=bundle.input_size, **options)
                similarity, shift = compare(encoder, cells, early, perturb, measure)
                numbers = " | ".join(f"{x:.3f}" for x in (*shift, similarity[0]))
                yield f"| {name} | {layers} | {kind} | {numbers} |"
            absent = absent_agreement(encoder, cells, early, bundle, measure)
            yield f"| {name} | {layers} | overexpress genes it lacks | {absent:.3f} | | | |"


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?")
    parser.add_argument("--cells", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.demo:
        print("| encoder | layers | perturbation | r | r behind rank | variance left | r of similarity |")
        print("|---|---|---|---|---|---|---|")
        for row in truth(arguments.demo, arguments.cells):
            print(row, flush=True)
        return
    print("| genes | kind | states | passes, counted | passes, measured | share of the full screen |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for tokens, lists in ((512, 64), (2048, 16)):
            for kind in ("delete", "overexpress"):
                for states in (1, 3):
                    print(cost(Path(folder), tokens, kind, states, lists), flush=True)


if __name__ == "__main__":
    main()
