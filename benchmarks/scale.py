"""Queries of a run of many rows, the preparation of many cells, and a worker that gets ready: seconds and peak memory.

    python -m benchmarks.scale [--rows 2e7] [--cells 100000] [--folder DIR] [--rounds 3]

The run has the real format and drawn shifts: cells of 1,024 of 20,000 genes, in parts of 10,240 rows. Every query is asked
by a process of its own, of the parts and, after `rankshift compact`, of the sorted copy. Seconds are by the clock from
opening the run to the last row, those of a processor are of all threads; peak memory holds Python and its libraries, whose
own peak stands beside. --folder keeps what was drawn and takes it again. Linux only, because peaks are read from /proc.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import benchmarks
from benchmarks.models import bundle_of, draw_cells
from benchmarks.paper import table
from rankshift.screen.engine.write import GROUP
from rankshift.screen.runs.layout import CELLS
from rankshift.screen.runs.run import Run

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # no package holds drawn_runs.py, which tests share
import drawn_runs

GENES, PER_CELL, PART_CELLS = 20_000, 1024, 10
TOKENS = 2048  # of a cell that is prepared

QUERIES = {
    "count": "SELECT count(*) FROM shifts",
    "mean by gene": "SELECT gene_ids, count(*) n, avg(similarity) s FROM shifts GROUP BY gene_ids ORDER BY s LIMIT 20",
    "one gene": "SELECT cell_id, similarity FROM shifts WHERE gene_ids = 'ENSG00000000777'",
    "limit 5": "SELECT * FROM shifts LIMIT 5",
    "one cell": "SELECT gene_ids, similarity FROM shifts WHERE cell_id = 'cell77'",
    "top genes": "SELECT gene_ids, cell_id, similarity FROM shifts "
    "QUALIFY row_number() OVER (PARTITION BY perturbation ORDER BY similarity) <= 3",
}
# The child counts from after its imports; what it prints is the only thing that it writes.
CHILD = """
import json, re, sys, time
{imports}
def peak():  # of this process alone: getrusage knows the peak of the process that started it, too
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20
ready = peak()
began, spent = time.perf_counter(), time.process_time()
{work}
print()
print(json.dumps({{"seconds": time.perf_counter() - began, "processor": time.process_time() - spent,
    "gb": peak(), "before_gb": ready}}))
"""


class Atlas(drawn_runs.Draw):
    """Shifts of cells whose genes are a window of one of 64 orders of all genes: quick to draw, each gene as often."""

    __slots__ = ()

    def _lists(self, rng: np.random.Generator, abundance: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        orders = np.array([rng.permutation(self.genes) for _ in range(64)], np.int32)
        for first in range(0, self.cells, PART_CELLS):
            n = min(PART_CELLS, self.cells - first)
            begins = rng.integers(0, self.genes, (n, 1))
            yield first, orders[rng.integers(0, 64, (n, 1)), (begins + np.arange(self.per_cell)) % self.genes]


def child(imports: str, work: str, *arguments: object) -> dict[str, float]:
    """What one piece of work costs in a process of its own."""
    code = CHILD.format(imports=imports, work=work)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [Path(benchmarks.__path__[0]).parent, *sys.path]))},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report(what: str, found: dict[str, float]) -> None:
    """One line of the table."""
    print(
        f"{what:34s} {found['seconds']:8.2f} s {found['processor']:8.2f} s of a processor "
        f"{found['gb']:6.2f} GB ({found['before_gb']:.2f} before)",
        flush=True,
    )


def regroup(path: Path) -> None:
    """Cells in row groups of as many as a screen writes; they were drawn part by part."""
    made = path.with_name("regrouped.parquet")
    with pq.ParquetFile(path) as cells, pq.ParquetWriter(made, cells.schema_arrow, compression="zstd") as writer:
        for batch in cells.iter_batches(GROUP):
            writer.write_batch(batch, row_group_size=GROUP)
    made.replace(path)


def queries(run: Path, kind: str, rounds: int) -> None:
    """Ask each query in processes of their own; the quickest round is told."""
    for name, query in QUERIES.items():
        found = [
            child(
                "from rankshift.screen.runs.run import Run",
                "Run.open(sys.argv[1]).sql(sys.argv[2])",
                run,
                query,
            )
            for _ in range(rounds)
        ]
        report(f"{kind}: {name}", min(found, key=lambda one: one["seconds"]))


def rows_of(folder: Path, rows: int, rounds: int) -> None:
    """Draw a run, ask it, compact it, ask again."""
    path = folder / f"run-{rows}"
    if not path.exists():
        cells = -(-rows // PER_CELL)
        Atlas(cells=cells, genes=GENES, per_cell=PER_CELL).run(path)
        regroup(path / CELLS)
    run = Run.open(path)
    shutil.rmtree(path / "compacted", ignore_errors=True)
    size = sum(part.stat().st_size for part in (path / "shifts").iterdir())
    print(
        f"{run.manifest.lists:,} rows in {run.manifest.shards:,} parts, {size / 1e6:,.0f} MB; load {os.getloadavg()[0]:.1f}"
    )
    queries(path, "parts", rounds)
    report(
        "compact",
        child(
            "from rankshift.screen.runs.compaction import compact; from rankshift.screen.runs.run import Run",
            "compact(Run.open(sys.argv[1]))",
            path,
        ),
    )
    size = sum(part.stat().st_size for part in (path / "compacted").iterdir())
    print(f"sorted copy: {size / 1e6:,.0f} MB")
    queries(path, "compacted", rounds)


def cells_of(folder: Path, cells: int) -> None:
    """Prepare a deletion of every gene in so many full cells, then open the run as a worker does and read one shard's cells."""
    bundle = bundle_of("V1-10M", folder)
    table = folder / f"cells-{cells}.parquet"
    if not table.exists():
        draw_cells(bundle, TOKENS, cells, table)
    out = folder / "prepared"
    shutil.rmtree(out, ignore_errors=True)
    # The options are those that a GPU would decide, because what is decided by measuring depends on the machine.
    asked = (
        "Options(perturb='delete', embedding='cell', dtype='float32', token_budget=16384, shard_tokens=10_240 * 2048)"
    )
    report(
        f"prepare {cells:,} cells of {TOKENS:,}",
        child(
            "from pathlib import Path\nfrom rankshift.screen.bundle.bundle import Bundle\n"
            "from rankshift.screen.engine.prepare import prepare\nfrom rankshift.screen.engine.options import Options\n"
            "bundle = Bundle.open(sys.argv[2])",
            f"prepare(Path(sys.argv[1]), bundle, Path(sys.argv[3]), {asked})",
            table,
            bundle.path,
            out,
        ),
    )
    report(
        "a worker is ready",
        child(
            "from rankshift.screen.bundle.bundle import Bundle\nfrom rankshift.screen.engine.screener import Screener\n"
            "bundle = Bundle.open(sys.argv[2])",
            "screener = Screener.open(sys.argv[1], bundle, whole=False)\nshard = screener.shards[len(screener.shards) // 2]\n"
            "[screener.cells.ids_of(cell) for cell in range(shard.first_cell, shard.last_cell)]; screener.perturbation_of",
            out,
            bundle.path,
        ),
    )
    shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, help="rows of the run; left out where only --cells is given")
    parser.add_argument("--cells", type=float, help="cells to prepare; left out where only --rows is given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument(
        "--paper", action="store_true", help="1e8 cells by arithmetic, from unit costs; measures nothing"
    )
    args = parser.parse_args()
    if args.paper:
        print(table())
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        work: list[Callable[[], None]] = []
        if args.rows or not args.cells:
            work.append(lambda: rows_of(folder, int(args.rows or 2e7), args.rounds))
        if args.cells or not args.rows:
            work.append(lambda: cells_of(folder, int(args.cells or 1e5)))
        for one in work:
            one()


if __name__ == "__main__":
    main()
