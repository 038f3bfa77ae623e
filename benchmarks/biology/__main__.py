"""Does a screen find biology? Every row is appended to benchmarks/biology/results.csv; docs/biology.md says what they mean.

    python -m benchmarks.biology planted [--case NAME] [--seeds 3]      masters of a drawn network
    python -m benchmarks.biology null [--seeds 1]                       p-values where nothing drives anything
    python -m benchmarks.biology myoblasts [--seeds 3]                  known regulators in real cells
    python -m benchmarks.biology tables                                 the newest rows into docs/biology.md

Folders of finished steps stay under --folder, so that an interrupted benchmark goes on. It computes on one thread.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.biology import myoblasts
from benchmarks.biology.planted import CASES, NULL, Trial, regulators, uniformity
from benchmarks.biology.record import RESULTS, append, read, tables
from benchmarks.record import stamp
from benchmarks.speed import machine

DOCS = Path(__file__).parents[2] / "docs" / "biology.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
Rows = Iterator[dict[str, Any]]


def planted(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Rows]]:
    """Cases and seeds, each with its rows."""
    for case, network in CASES.items():
        if args.case not in (None, case):
            continue
        for seed in range(args.seeds):
            rows = regulators(Trial(network=network).seeded(seed), args.folder / f"{case.replace(' ', '-')}-{seed}")
            yield {"part": "planted", "case": case, "seed": seed}, rows


def null(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Rows]]:
    """Seeds, each with its rows."""
    for seed in range(args.seeds):
        rows = uniformity(NULL.seeded(seed), args.folder / f"null-{seed}")
        yield {"part": "null", "case": "nothing drives", "seed": seed}, rows


def real(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Rows]]:
    """Baselines, then the pretrained model and the fine-tuned one, each from several seeds."""
    part = {"part": "myoblasts"}
    yield {**part, "case": "no model"}, myoblasts.baselines(args.folder / "myoblasts")
    yield {**part, "case": "pretrained"}, myoblasts.pretrained(args.folder / "myoblasts", args.seeds)
    yield {**part, "case": "fine-tuned"}, myoblasts.finetuned(args.folder / "myoblasts", args.seeds)


def write_tables(results: Path, page: Path) -> None:
    """Replace what stands between the marks of the page by tables of the newest rows."""
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{tables(read(results))}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("planted", "null", "myoblasts", "tables"))
    parser.add_argument(
        "--quick", action="store_true", help="shorter training, fewer cells: about a minute of one core"
    )
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=Path("biology"))
    args = parser.parse_args()
    if args.part == "tables":
        return write_tables(args.csv, DOCS)
    torch.set_num_threads(1)
    made = stamp(machine(), f"python -m benchmarks.biology {shlex.join(sys.argv[1:])}")
    for case, rows in {"planted": planted, "null": null, "myoblasts": real}[args.part](args):
        print(", ".join(f"{value}" for value in case.values()), flush=True)
        kept = []
        for row in rows:
            kept.append({**case, **row})
            numbers = "  ".join(f"{k} {v:.3g}" for k, v in row.items() if isinstance(v, float))
            print(f"  {row['perturb']:12} {row['score']:30} {row.get('others', ''):13} {numbers}", flush=True)
        append(args.csv, kept, made)


if __name__ == "__main__":
    main()
