"""Planted cohorts of ten donors through real fine-tuned encoders: what a study calls, and what the pooled screen calls.

    python -m benchmarks.biology.studies --out FOLDER [--seeds 1 2] [--null]

prints a row per seed: the gate, how many of the 24 candidates are called by kind of gene, and how many hits `rankshift stats`
has in the deletions of the first fold taken as one pooled screen. --null: nothing drives anything, labels are dealt at random,
and the study is told to go on past its gate. Every call is false then.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.biology.pipeline import effects, quiet
from rankshift.jobs.cohort.folder import read_gate
from rankshift.jobs.cohort.planted.demo import COHORT, STUDY, TRAINING, demo_study
from rankshift.screen.runs.run import Run
from rankshift.screen.study.vocabulary import CALLS


def study(folder: Path, seed: int, null: bool) -> dict[str, object]:
    """The row of one cohort."""
    done = demo_study(
        folder / f"{'null' if null else 'planted'}{seed}",
        workers=0,
        cohort=replace(COHORT, drives=not null, seed=seed),
        asked=replace(STUDY, despite_gate=True, seed=seed),
        training=replace(TRAINING, seed=seed),
        say=quiet,
    )
    gate, table = read_gate(done), pq.read_table(done.verdicts).to_pylist()
    called = Counter(row["symbol"].rstrip("0123456789") for row in table if row["verdict"] in CALLS)
    listed = {row["gene_id"] for row in table}
    pooled = effects(Run.open(done.run(0, "delete")))
    pooled = pooled[pooled.index.isin(listed)]
    return {
        "seed": seed,
        "balanced_accuracy": round(gate.balanced_accuracy, 3),
        "gate_p": float(f"{gate.p_value:.2g}"),
        "gate_passed": gate.passed,
        "judged": sum(row["adjusted_p_value"] is not None for row in table),
        "called": dict(called),
        "pooled_tested": int(pooled["enough_cells"].sum()),
        "pooled_hits": int(pooled["hit"].sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--null", action="store_true")
    given = parser.parse_args()
    for seed in given.seeds:
        print(study(given.out, seed, given.null), flush=True)


if __name__ == "__main__":
    main()
