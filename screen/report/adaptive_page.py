"""The page of an adaptive run: the genes that were found, and which are estimated or untested. It tests nothing."""

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.perturb.kinds import doing
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.answered import MEANINGS, answered, facts, sentences

ASSETS = Path(__file__).parent / "assets"
NEAREST = 200  # estimated genes that are named, those whose interval reaches farthest towards the list
WIDTH, HEIGHT, EDGE = 1040, 360, 12  # of the picture, in pixels
COLUMNS = ("place", "symbols", "gene_ids", "state", "mean", "low", "high", "fdr", "tied", "cells", "measured")


def adaptive_page(run: Run) -> str:
    """The whole page as text; raises InputError of a run that has not ended."""
    # start-up time: figures in a notebook need no templates
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    table, asked = answered(run), run.manifest.adaptive
    assert asked is not None
    best = table.filter(table["place"].is_valid())
    estimated = table.filter(pa.array([state == "estimated" for state in table["state"].to_pylist()]))
    low, high = (estimated[name].to_numpy(zero_copy_only=False) for name in ("low", "high"))
    reach = np.maximum(high, -low) if asked.absolute else high if asked.highest else -low
    near = estimated.take(np.argsort(-reach, kind="stable")[:NEAREST])
    route = run.manifest.route
    way = "" if route is None else f", {route.key} {route.start} → {route.goal}"
    query = f'rankshift query {shlex.quote(str(run.path))} "SELECT * FROM answers"'
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("adaptive.html").render(
        title=f"{doing(str(run.manifest.perturb.kind))} single genes in {run.screened.cells.count:,} cells{way}",
        version=version("rankshift"),
        answer=sentences(run, table),
        tables=[
            ("found", "The genes that were found", "All of them are finished.", _rows(best)),
            (
                "estimated",
                "Estimated genes nearest to the list",
                f"The {near.num_rows:,} of {estimated.num_rows:,} estimated genes that may come nearest. All: {query}",
                _rows(near),
            ),
        ],
        columns=[(name, MEANINGS[name][1]) for name in COLUMNS],
        provenance=facts(run),
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        **_picture(best, near),
    )


def _rows(table: pa.Table) -> list[tuple[str, list[str]]]:
    return [(row["state"], [_text(row.get(name)) for name in COLUMNS]) for row in table.to_pylist()]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(best: pa.Table, near: pa.Table) -> dict[str, Any]:
    """Marks of the genes from left to right, in pixels, and what stands at the edges."""
    rows = [*best.to_pylist(), *near.to_pylist()]
    ends = np.array([row[name] for row in rows for name in ("mean", "low", "high") if row[name] is not None] or [0.0])
    low, high = float(ends.min()), float(ends.max())
    step = (WIDTH - 100) / max(len(rows), 1)

    def at(value: float | None) -> float:
        share = 0.0 if value is None else (value - low) / max(high - low, 1e-300)
        return round(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE), 1)

    marks = [
        {
            "x": round(90 + (place + 0.5) * step, 1),
            "y": at(row["mean"]),
            "low": at(row["low"]),
            "high": at(row["high"]),
            "state": row["state"],
            "name": f"{row['symbols']}: {row['state']}, {_text(row['mean'])}",
        }
        for place, row in enumerate(rows)
    ]
    last = best["mean"].to_pylist()[-1] if best.num_rows else None
    return {
        "marks": marks,
        "cut": at(last),
        "width": WIDTH,
        "height": HEIGHT,
        "axis": [(_text(high), EDGE), (_text(low), HEIGHT - 2)],
    }
