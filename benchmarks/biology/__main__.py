"""Does a screen find biology? Every row is appended to benchmarks/biology/results.csv; docs/biology.md says what they mean.

    python -m benchmarks.biology planted [--quick] [--case NAME] [--seeds 3]    masters of a drawn network
    python -m benchmarks.biology null [--quick] [--seeds 1]                     p-values where nothing drives anything

Folders of finished steps stay under --folder, so that an interrupted benchmark goes on. One thread, two cores are not needed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.biology.planted import CASES, NULL, QUICK, QUICK_NULL, Trial, regulators, uniformity
from benchmarks.biology.record import RESULTS, append
from benchmarks.record import stamp
from benchmarks.speed import machine


def planted(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Iterator[dict[str, Any]]]]:
    """Cases and seeds, each with its rows."""
    for case, network in CASES.items():
        if args.case not in (None, case) or (args.quick and args.case is None and case != next(iter(CASES))):
            continue
        for seed in range(args.seeds):
            trial = (QUICK if args.quick else Trial(network=network)).seeded(seed)
            name = f"planted-{case.replace(' ', '-')}-{seed}" + "-quick" * args.quick
            yield {"part": "planted", "case": case, "seed": seed}, regulators(trial, args.folder / name)


def null(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Iterator[dict[str, Any]]]]:
    """Seeds, each with its rows."""
    for seed in range(args.seeds):
        trial = (QUICK_NULL if args.quick else NULL).seeded(seed)
        name = f"null-{seed}" + "-quick" * args.quick
        yield {"part": "null", "case": "nothing drives", "seed": seed}, uniformity(trial, args.folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("planted", "null"))
    parser.add_argument("--quick", action="store_true", help="shorter training, fewer cells: about a minute of one core")
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=Path("biology"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = stamp(machine(), f"python -m benchmarks.biology {' '.join(sys.argv[1:])}")
    for case, rows in {"planted": planted, "null": null}[args.part](args):
        print(", ".join(f"{value}" for value in case.values()), flush=True)
        kept = []
        for row in rows:
            kept.append({**case, **row})
            numbers = "  ".join(f"{k} {v:.3g}" for k, v in row.items() if isinstance(v, float))
            print(f"  {row['perturb']:12} {row['score']:30} {row.get('others', ''):13} {numbers}", flush=True)
        append(args.csv, kept, made)


if __name__ == "__main__":
    main()
