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


def read(path: Path) -> list[dict[str, str]]:
    """Newest row of every part, case, seed, perturbation, score and set of others, in the order of the file."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            rows[tuple(row[name] for name in CASE)] = row
    return list(rows.values())


def tables(rows: list[dict[str, str]]) -> str:
    """Markdown tables of the rows: mean AUROC over seeds with their range for planted truth, intervals for myoblasts."""
    return "\n\n".join(table for table in (_planted(rows), _null(rows), _myoblasts(rows)) if table)


def _planted(rows: list[dict[str, str]]) -> str:
    kinds = [(kind, others) for others in ("all", "as different") for kind in ("delete", "overexpress")]
    head = ["network", "seeds", "score", *(f"{kind}, others: {others}" for kind, others in kinds)]
    cells: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
    for row in rows:
        if row["part"] == "planted":
            one = cells.setdefault((row["case"], row["score"]), {})
            one.setdefault((row["perturb"], row["others"]), []).append(float(row["auroc"]))
    lines = [
        [case, str(len(next(iter(one.values())))), score, *(_spread(one[kind]) for kind in kinds)]
        for (case, score), one in cells.items()
    ]
    return _markdown(head, lines)


def _null(rows: list[dict[str, str]]) -> str:
    head = ["mode: column", "seed", "genes", "KS distance", "KS p", "share below 0.05"]
    names = ("score", "seed", "genes", "ks", "ks_p", "below_0.05")
    return _markdown(head, [[row[n] for n in names] for row in rows if row["part"] == "null"])


def _myoblasts(rows: list[dict[str, str]]) -> str:
    sets = ("matched, both", "matched, positive", "matched, negative")
    cells: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for row in rows:
        if row["part"] == "myoblasts":
            key = (row["case"], row["score"], row["perturb"], row["seed"])
            text = (
                f"{float(row['auroc']):.2f} ({float(row['low']):.2f} to {float(row['high']):.2f}), {row['positives']}"
            )
            cells.setdefault(key, {})[row["others"]] = text
    head = ["model", "score", "perturbation", "seed", "all regulators", "positive", "negative"]
    return _markdown(head, [[*key, *(one[name] for name in sets)] for key, one in cells.items()])


def _spread(values: list[float]) -> str:
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return ""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))
