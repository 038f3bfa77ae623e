"""The one committed table of measurements, results.csv: rows are appended with what made them, and never rewritten."""

import csv
import os
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.csv"
RUN = ("date", "revision", "device", "processor", "cores", "torch", "triton", "transformers", "command")
CASE = ("benchmark", "case", "model", "tokens", "embedding", "perturb", "dtype", "lists", "stock_lists", "rounds")
VALUES = (
    "unit",  # of what is counted per second
    "engine_per_s",
    "unshared_per_s",  # the engine without first-layer sharing
    "stock_per_s",  # plain transformers in float32; a loop over cells for the tokenizer
    "ratio",  # engine_per_s / stock_per_s
    "stock_same_dtype_per_s",  # plain transformers with weights cast to the case's dtype
    "peak_mb",
    "stock_peak_mb",
    "peak_gflops",  # best matrix product in the case's dtype, all cores
    "share_of_peak",  # FLOP that the engine runs, per second, over that
    "max_deviation",  # of a similarity from the stock way's in float32
    "stock_same_dtype_deviation",
    "spread",  # standard deviation of the similarities compared
    "fixed_s_per_cell",  # planning, comparison, handling and writing (overhead.py says what they are)
    "planning_share",  # of the time of a whole screen, as those below
    "encoder_share",
    "compare_share",
    "wait_share",
    "handling_share",
    "write_share",
    "noise_floor_share",
    "gene_shifts_share",  # of the processor's time of a screen with them
    "written_per_s",
    "queried_per_s",
    "bytes_per_row",
)
COLUMNS = RUN + CASE + VALUES


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def revision() -> str:
    """Short commit of the repository, with -dirty when tracked files other than the results differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!results.csv", ":!../docs")
    commit = git("rev-parse", "--short=10", "HEAD")
    return commit + "-dirty" * bool(commit and changed)


def stamp(machine: dict[str, Any], command: str) -> dict[str, Any]:
    """The columns that all rows of a run share. The date names the run."""
    versions = {name: _version(name) for name in ("torch", "triton", "transformers")}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"date": now, "revision": revision(), "command": command, **machine, **versions}


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one row, with four digits of every measured number, and the header to a new file.

    Raises ValueError on a name that is no column, or a file with other columns: those rows would be read wrongly.
    """
    if unknown := set(row) - set(COLUMNS):
        raise ValueError(f"{', '.join(sorted(unknown))}: no column of {path.name}, add it to record.py")
    new = not path.exists() or path.stat().st_size == 0
    if not new and tuple(read_header(path)) != COLUMNS:
        raise ValueError(f"{path} has other columns than record.py: move it away, or bring its header up to date")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({k: "" if v is None else f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
        file.flush()
        os.fsync(file.fileno())


def read_header(path: Path) -> list[str]:
    """Names of the columns."""
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def read(path: Path) -> list[dict[str, str]]:
    """All rows, as text, in the order they were measured."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
