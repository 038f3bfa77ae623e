"""Adaptive screens replayed: passes, recall, what is said and what is really missed, coverage of the intervals.

    python -m benchmarks.adaptive                          drawn tables, whose true effects are known
    python -m benchmarks.adaptive RUN … [--min-cells 3]    finished full runs in float32, whose rows are given out as asked

Of a run the predictions are computed first, by one thread, and kept in the folder --cache where one is given. Passes count
every list, the original of a cell at every visit, and 8 a cell for the prediction, over rows and cells of the full screen.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from rankshift.screen.adaptive.allocation import Verdict, Wanted, rounds
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.adjoint import predict
from rankshift.screen.engine.screener import Screener
from rankshift.screen.perturb.perturbation import edits_of
from rankshift.screen.runs.run import Run

sys.path.append(
    str(Path(__file__).resolve().parents[1] / "tests")
)  # no package holds drawn_tables.py, which tests share
from drawn_tables import Regime, Table, draw, table_of

REGIMES = {
    "cell and trend alone, prediction .93": Regime(trend=0.27, known=0.93),
    "the same, no prediction": Regime(trend=0.27, known=0.0),
    "gene 5 %, cell 40 %, trend 20 %, .5": Regime(cell=0.4, trend=0.2, gene=0.05, known=0.5),
    "gene 14 % alone, no prediction": Regime(cell=0, trend=0, gene=0.138, known=0),
    "gene 14 % alone, prediction .5": Regime(cell=0, trend=0, gene=0.138, known=0.5),
    "gene 14 % alone, prediction .9": Regime(cell=0, trend=0, gene=0.138, known=0.9),
    "gene 14 % alone, heavy tail, none": Regime(cell=0, trend=0, gene=0.138, known=0, tail="t3"),
    "gene 5 % sparse, cell 40 %, none": Regime(cell=0.4, trend=0.2, gene=0.05, known=0, tail="sparse"),
}
HEAD = (
    "| table | genes | top | passes | recall | at worst | true top: full, adaptive | says, missed | covered: all, 3 k nearest |"
    " explained |\n|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One replay in numbers. true_full, true_found: share of the truly strongest genes in the full and the adaptive list."""

    passes: float
    recall: float
    true_full: float
    true_found: float
    says: float
    missed: float
    covered: float
    covered_near: float
    explained: float


def replay(table: Table, wanted: Wanted, full: int) -> Replay:
    """Run the rounds, giving out the values of the table. full: passes of the full screen."""
    of = table.population
    plan = rounds(of, wanted)
    asked = next(plan)
    while True:
        try:
            asked = plan.send((asked.rows, table.values[asked.rows]))
        except StopIteration as end:
            verdict: Verdict = end.value
            break
    best = strongest(table.means, wanted.top)
    true = strongest(table.truth, wanted.top)
    found = set(verdict.top.tolist())
    inside = np.abs(table.means - verdict.estimate) <= verdict.half + 1e-12
    open_ = ~verdict.finished
    near = open_ & (verdict.estimate >= np.sort(verdict.estimate)[-min(4 * wanted.top, of.genes)])
    return Replay(
        passes=verdict.passes / full,
        recall=len(found & best) / wanted.top,
        true_full=len(best & true) / wanted.top,
        true_found=len(found & true) / wanted.top,
        says=verdict.missed,
        missed=float(wanted.top - len(found & best)),
        covered=float(inside[open_].mean()),
        covered_near=float(inside[near].mean()) if near.any() else float("nan"),
        explained=verdict.explained,
    )


def strongest(values: np.ndarray, top: int) -> set[int]:
    """Numbers of the genes of highest value."""
    return set(np.argsort(-values, kind="stable")[:top].tolist())


def row(name: str, table: Table, replays: list[Replay], top: int, *, drawn: bool) -> str:
    """A row of the printed table: means over seeds."""

    def mean(field: str) -> float:
        return float(np.mean([getattr(one, field) for one in replays]))

    true = f"{mean('true_full'):.2f}, {mean('true_found'):.2f}" if drawn else ""
    worst = min(one.recall for one in replays)
    return (
        f"| {name} | {table.population.genes:,} | {top} | {mean('passes'):.3f} | {mean('recall'):.3f} | {worst:.2f} | {true} "
        f"| {mean('says'):.1f}, {mean('missed'):.1f} | {mean('covered'):.3f}, {mean('covered_near'):.3f} "
        f"| {mean('explained'):.2f} |"
    )


def of_run(place: Path, min_cells: int, column: str, cache: Path | None) -> tuple[Table, int]:
    """The table of a finished full run, with predictions of its bundle, and the passes of the full screen."""
    run = Run.open(place)
    bundle = Bundle.open(Path(run.screened.bundle.path))
    screener = Screener.open(place, bundle)
    held = pq.read_table(run.path / "shifts", columns=["cell", "perturbation", column]).sort_by("cell")
    measured = {
        (c, p): v
        for c, p, v in zip(*(held[name].to_pylist() for name in ("cell", "perturbation", column)), strict=True)
    }
    state = 1 + run.states.index(column.removeprefix("shift_")) if column.startswith("shift_") else 0
    kept = None if cache is None else cache / f"{place.name}.npy"
    encoder = Encoder(bundle, dtype="float32")
    cell, gene, rank, predicted = [], [], [], []
    for number in range(len(screener.cells)):
        ids = screener.cells.ids_of(number)
        lists = edits_of(ids, screener.perturb)
        cell.append(np.full(len(lists), number))
        gene.append(screener.perturbation_of[lists.key])
        rank.append(np.log2(np.where(lists.source[:, 0] < 0, len(ids), lists.source[:, 0]) + 1) / np.log2(len(ids) + 1))
        if kept is None or not kept.exists():
            predicted.append(predict(ids, encoder, screener.perturb, screener.measure)[:, state])
    cells, genes = np.concatenate(cell), np.concatenate(gene)
    values = np.array([measured[pair] for pair in zip(cells.tolist(), genes.tolist(), strict=True)])
    if predicted and kept is not None:
        np.save(kept, np.concatenate(predicted))
    m = np.concatenate(predicted) if predicted else np.load(kept)  # type: ignore[arg-type]
    none = np.zeros(genes.max() + 1)
    table = table_of(cells, genes, np.concatenate(rank), values, m.astype(np.float64), min_cells, none)
    return table, len(cells) + len(cell)


def permuted(table: Table) -> Table:
    """The same with its predictions in a wrong order."""
    m = table.population.predicted
    assert m is not None
    wrong = table.population.with_prediction(np.random.default_rng(0).permutation(m))
    return Table(population=wrong, values=table.values, truth=table.truth)


def without(table: Table) -> Table:
    """The same without predictions."""
    return Table(population=table.population.with_prediction(None), values=table.values, truth=table.truth)


def of_runs(arguments: argparse.Namespace) -> Iterator[str]:
    """Rows of finished runs."""
    for place in arguments.runs:
        table, full = of_run(place, arguments.min_cells, arguments.column, arguments.cache)
        for name, one in (
            ("", table),
            (", predictions permuted", permuted(table)),
            (", no prediction", without(table)),
        ):
            found = [replay(one, Wanted(top=arguments.top, seed=seed), full) for seed in range(arguments.seeds)]
            yield row(f"{place.name}{name}", one, found, arguments.top, drawn=False)


def of_draws(arguments: argparse.Namespace) -> Iterator[str]:
    """Rows of drawn tables."""
    for name, regime in REGIMES.items():
        table = draw(regime, seed=0)
        full = regime.cells * (regime.per_cell + 1)
        found = [replay(table, Wanted(top=arguments.top, seed=seed), full) for seed in range(arguments.seeds)]
        yield row(name, table, found, arguments.top, drawn=regime.gene > 0)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--min-cells", type=int, default=3)
    parser.add_argument("--column", default="shift_72")
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(HEAD)
    for line in (of_runs if arguments.runs else of_draws)(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
