"""Time and peak memory of every mode of `rankshift stats` on a drawn run, beside its limits of 60 s and 4 GiB on two cores.

    python benchmarks/stats.py [--rows 20000000] [--genes 20000] [--cells 10000] [--folder DIR]
    python benchmarks/stats.py --calibration      false discoveries and power on drawn runs, half a minute

Every mode runs in a process of its own, by the command. The last lines hold the rank-sum tests of all genes against one
`scipy.stats.ranksums` per gene, timed on 20 genes and multiplied, on the same values.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import ranksums

from rankshift.screen.runs.run import Run
from rankshift.screen.stats import StatOptions, statistics
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.arithmetic.rank_sum import against_rest, against_sample
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.published import random_values

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # no package holds drawn_runs.py, which tests share
from drawn_runs import Draw

SECONDS, GIB = 60, 4
DONORS = (0.5, 0.2, 0.1, 0.1, 0.05, 0.05)
WITH_PEAK = (
    "import resource, sys; from rankshift.jobs.cli import run_command; code = run_command(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
)


def draw(folder: Path, rows: int, genes: int, cells: int) -> tuple[Path, Path]:
    """A run, and a smaller one to be its null."""
    shape = {"genes": genes, "per_cell": rows // cells, "abundance_sd": 1.5, "donors": DONORS, "trend": 3e-3}
    effects = {"cell_sd": 1e-3, "donor_sd": 2e-4, "shifted": genes // 100, "effect": 1e-3}
    run, null = folder / "run", folder / "null"
    if not (run / "run.json").exists():
        began = time.perf_counter()
        shards = -(-rows // 200_000)
        Draw(cells=cells, affected=rows // shards, **shape, **effects).run(run)
        Draw(cells=cells, seed=1, **shape).run(null)
        print(f"drawn in {time.perf_counter() - began:.0f} s", flush=True)
    return run, null


def measure(*arguments: object) -> tuple[float, float]:
    """Seconds and GiB of one command."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", WITH_PEAK, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return time.perf_counter() - began, int(done.stdout.split()[-1]) / 2**20


def calibrate(seeds: int = 6) -> None:
    """Mean share of false discoveries and of planted genes found at an FDR of 5 %, by the FDR of each column."""
    one_of_most = (0.8, *(0.2 / 7,) * 7)
    cases = {
        "a tenth of the genes up": {"shifted": 250, "effect": 5e-4},
        "the same, with cells and ranks": {"shifted": 250, "effect": 1e-3, "cell_sd": 1e-3, "trend": 3e-3},
        "one donor of 80 % of the cells": {
            "donors": one_of_most, "donor_sd": 1e-3, "cell_sd": 5e-4, "shifted": 250, "effect": 4e-3,
        },
    }  # fmt: skip
    for name, effects in cases.items():
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(seeds):
            draw = Draw(cells=1500, genes=2500, per_cell=250, abundance_sd=0.7, seed=seed, **effects)
            with tempfile.TemporaryDirectory() as folder:
                run, truth = draw.run(Path(folder) / "run")
                by = "donor" if len(draw.donors) > 1 else None
                table = statistics(run, "goal", judging=StatOptions(by=by, bootstrap=0)).table()
            planted = truth[[int(g[4:]) for g in table["gene_ids"].to_pylist()]]
            columns = {n: table[n].to_numpy() for n in table.column_names if n.endswith("fdr")}
            columns["not centred"] = fdr(table["p_value"].to_numpy())
            for column, q in columns.items():
                hit = q < 0.05
                wrong = (hit & ~planted).sum() / max(hit.sum(), 1)
                found.setdefault(column, []).append((wrong, (hit & planted).sum() / planted.sum()))
        print(name)
        for column, pairs in found.items():
            wrong, power = np.mean(pairs, axis=0)
            print(f"  {column:14s} false {wrong:5.1%}  found {power:5.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--calibration", action="store_true")
    a = parser.parse_args()
    if a.calibration:
        return calibrate()
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.folder or Path(temporary)
        run, null = draw(folder, a.rows, a.genes, a.cells)
        print(
            f"{a.rows:,} rows, {a.genes:,} genes, {a.cells:,} cells; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        modes = {"goal": [], "null": ["--null", null], "mixture": [], "aggregate": [], "genes": []}
        results = []
        for mode, more in modes.items():
            for names in (["--reference-names"], [], ["--by", "donor"]):
                if names == ["--by", "donor"] and mode not in ("goal", "mixture"):
                    continue
                out = folder / "out.parquet"
                seconds, gib = measure("stats", run, "--mode", mode, *more, *names, "--out", out)
                out.unlink()
                label = f"{mode} {' '.join(names)}".strip()
                results.append({"mode": label, "seconds": round(seconds, 1), "gib": round(gib, 2)})
                print(
                    f"{label:28s} {seconds:6.1f} s ({seconds / SECONDS:4.0%} of {SECONDS}) {gib:6.2f} GiB "
                    f"({gib / GIB:4.0%} of {GIB})",
                    flush=True,
                )
        compare(Observations.read(Run.open(run), ["shift_goal"]))
        (folder / "stats.json").write_text(json.dumps(results, indent=1))
    print(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def compare(seen: Observations) -> None:
    """All genes at once against a loop over genes."""
    values, genes = seen.values["shift_goal"], len(seen.count)
    sample = random_values(values)
    some = np.linspace(0, genes - 1, 20).astype(int)
    began = time.perf_counter()
    one = [ranksums(values[seen.offsets[g] : seen.offsets[g + 1]], sample).pvalue for g in some]
    loop = (time.perf_counter() - began) * genes / len(some)
    began = time.perf_counter()
    p = against_sample(seen.offsets, values, sample).p
    published = time.perf_counter() - began
    began = time.perf_counter()
    against_rest(seen.gene, values, genes)
    exact = time.perf_counter() - began
    worst = np.abs(p[some] - one).max()
    print(
        f"against {len(sample):,} random values: {published:.1f} s, a loop over genes {loop:.0f} s: {loop / published:.0f}x"
    )
    print(f"against all other values, ties corrected: {exact:.1f} s; largest difference to scipy above {worst:.0e}")


if __name__ == "__main__":
    main()
