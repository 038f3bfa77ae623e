"""results.csv: one row per AUROC or KS test, appended with what made it, and the tables of docs/biology.md made from them."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.record import RUN

RESULTS = Path(__file__).parent / "results.csv"
CASE = ("part", "case", "seed", "perturb", "score", "others")
AREA = ("auroc", "low", "high", "positives", "negatives")  # low, high: 95 % bootstrap interval over genes
TEST = ("genes", "ks", "ks_p", "below_0.05")
COLUMNS = tuple(name for name in RUN if name != "triton") + CASE + AREA + TEST


def append(path: Path, rows: Iterable[dict[str, Any]], made: dict[str, Any]) -> None:
    """Add rows, each with what `made` them, four digits to a number; the header first where the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            whole = {name: value for name, value in {**made, **row}.items() if name in COLUMNS}
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in whole.items()})
        file.flush()
        os.fsync(file.fileno())
