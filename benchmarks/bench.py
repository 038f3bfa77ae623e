"""The engine against plain transformers, in one run on one machine; every row is appended to results.csv.

    python -m benchmarks.bench [--quick] [--only PATTERN] [--csv FILE] [--list]

Each case runs in a process of its own, so that peak memory is its own. A full run (8 minutes on 2 cores) also draws the
plots and tables of docs/benchmarks.md again, from its rows.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, screening_cases
from benchmarks.record import RESULTS, append, stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A case to measure: `function` of a module of benchmarks/ with its arguments, and the row's first columns."""

    name: str
    function: str
    arguments: tuple[Any, ...]
    columns: dict[str, Any]


def jobs(device: str, quick: bool, folder: Path) -> Iterator[Job]:
    """All jobs of a run, the screening cases first."""
    for case in screening_cases(device, quick):
        names = ("model", "tokens", "embedding", "perturb", "dtype")
        columns = {"benchmark": "screen", "unit": "perturbations", **{n: getattr(case, n) for n in names}}
        yield Job(name=case.name, function="speed.measure", arguments=(case, folder), columns=columns)
    model, tokens, cells = "V1-10M", 200, 2 if quick else 12 if device == "cpu" else 400
    columns = {"benchmark": "overhead", "model": model, "tokens": tokens, "embedding": "cell", "perturb": "delete"}
    arguments: tuple[Any, ...] = (folder, model, tokens, cells)
    yield Job(
        name=f"overhead-{cells}-cells", function="overhead.measure_overhead", arguments=arguments, columns=columns
    )
    tokens, dtype = 200 if quick else 2048, "float16" if device == "cuda" else "bfloat16"
    columns = {"benchmark": "gene-shifts", "model": model, "tokens": tokens, "embedding": "cell", "perturb": "delete"}
    arguments = (folder, model, tokens, 1 if quick else 4, dtype)
    columns |= {"dtype": dtype}
    yield Job(name="gene-shifts", function="gene_shifts.measure_gene_shifts", arguments=arguments, columns=columns)
    cells = 100 if quick else 1000
    for rows in (100, 25_000):  # a shard of a CPU, of a GPU
        some = cells if rows > 2048 else cells // 50
        columns = {"benchmark": "storage", "model": model, "tokens": 2048, "perturb": "delete"}
        arguments = (folder, some, rows)
        yield Job(
            name=f"storage-{rows}-rows-a-shard",
            function="storage.measure_storage",
            arguments=arguments,
            columns=columns,
        )
    arguments = (folder, 512 if quick else 4096, 1500)
    columns = {"benchmark": "tokenizer"}
    yield Job(name="tokenizer", function="storage.measure_tokenizer", arguments=arguments, columns=columns)


def alone(function: str, *arguments: Any) -> Any:
    """Call it in a new process, forked from one that has imported torch and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.speed"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_call, function, *arguments).result()


def _call(function: str, *arguments: Any) -> Any:
    module, name = function.split(".")
    return getattr(import_module(f"benchmarks.{module}"), name)(*arguments)


def line(name: str, row: dict[str, Any]) -> str:
    """A row as it is printed while others run."""
    words = [f"{name:32s}"]
    for key, form in (
        ("engine_per_s", "engine {:9.2f}/s"),
        ("stock_per_s", "stock {:8.2f}/s"),
        ("ratio", "ratio {:5.2f}"),
        ("unshared_per_s", "unshared {:.2f}/s"),
        ("peak_mb", "peak {:.0f} MB"),
        ("stock_peak_mb", "stock {:.0f} MB"),
        ("share_of_peak", "{:.0%} of peak"),
        ("max_deviation", "deviation {:.1e}"),
        ("fixed_s_per_cell", "fixed {:.4f} s/cell"),
        ("encoder_share", "encoder {:.1%}"),
        ("write_share", "writing {:.2%}"),
        ("gene_shifts_share", "gene shifts {:.1%} of the processor's time"),
        ("written_per_s", "written {:,.0f} rows/s"),
        ("queried_per_s", "queried {:,.0f} rows/s"),
    ):
        if row.get(key) is not None:
            words.append(form.format(row[key]))
    return "  ".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases with few lists, one repetition: a minute")
    parser.add_argument(
        "--only", metavar="PATTERN", default="*", help="cases whose name matches, such as 'V1-*-delete-*'"
    )
    parser.add_argument("--csv", type=Path, default=RESULTS, help="append the rows to this file instead")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    args = parser.parse_args()
    machine = alone("speed.machine")
    full = not args.quick and args.only == "*" and args.csv == RESULTS
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rankshift-bench-") as folder:
        chosen = [j for j in jobs(machine["device"], args.quick, Path(folder)) if fnmatch(j.name, args.only)]
        if args.list or not chosen:
            print("\n".join(j.name for j in chosen) if chosen else f"no case matches {args.only!r}: see --list")
            return 0 if chosen else 2
        header = stamp(machine, " ".join(["python -m benchmarks.bench", *sys.argv[1:]]))
        print("{revision} on {processor} ({device}, {cores} cores), torch {torch}".format(**header), flush=True)

        @cache
        def stock_memory(case: Case) -> float:
            return alone("speed.stock_memory", case, Path(folder))

        for job in chosen:
            try:
                row = {**header, "case": job.name, **job.columns, **alone(job.function, *job.arguments)}
                if job.function == "speed.measure":
                    row["stock_peak_mb"] = stock_memory(job.arguments[0].as_stock())
            except Exception as error:
                failed += 1
                print(f"{job.name}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            append(args.csv, row)
            print(line(job.name, row), flush=True)
    if full and not failed:
        alone("page.draw")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
