"""What the page's script reads: the table, single cells of the strongest perturbations as far as they fit, and the figures."""

import shlex
from typing import Any

import numpy as np

from rankshift.screen.report.findings import Findings, judged_column
from rankshift.screen.report.plots import distribution, state_map, theme
from rankshift.screen.report.sections import bare
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import quoted
from rankshift.screen.stats import measures
from rankshift.screen.stats.measure import Column

BYTES = 4_900_000  # limit of the table and the cells' values; with plotly's script the file stays below 7 MB
PER_ROW, PER_COLUMN, PER_VALUE = 156, 13, 21  # bytes that a perturbation, a statistic of it and a single value take


def page_data(findings: Findings, figures: dict[str, dict]) -> dict[str, Any]:
    """All that the page's script reads."""
    run = findings.run
    rows, names = _table(findings)
    values = _values(findings)
    groups = distribution.grouping_columns(run)
    first = next(iter(values))
    others = distribution.other_values(run)
    gene = distribution.draw(run, values[first], [values[first].symbols] * len(values[first].cell), others)
    stored = judged_column(run)
    stored = stored if stored.isidentifier() else quoted(stored)
    return {
        "name": out_name(run),
        "run": shlex.quote(str(run.path)),
        "effect": stored if findings.goal is not None else f"1 - {stored}",
        "decides": "FDR" if findings.judging.by is None else f"FDR over {findings.judging.by}",
        "untested": f"fewer than {findings.judging.min_cells} cells, not tested",
        "all": "all cells",
        "templates": {"light": theme.template(theme.LIGHT), "dark": theme.template(theme.DARK)},
        "figures": figures,
        "gene": {"wide": bare(gene), "narrow": bare(gene)},
        "first": first,
        "table": rows,
        "names": names,
        "columns": _columns(findings, rows),
        "genes": {
            str(row): {"cell": v.cell.tolist(), "effect": rounded(v.effect, 5), "total": v.total}
            for row, v in values.items()
        },
        "groups": {name: _coded(labels) for name, labels in groups.items()},
    }


def out_name(run: Run) -> str:
    """What files saved from the page are called."""
    return f"{run.path.resolve().name}-report"


def _values(findings: Findings) -> dict[int, distribution.Values]:
    """Single cells of the strongest perturbations, by row of the findings, as many as BYTES allows beside the table."""
    cells = np.minimum(findings.column("cells"), distribution.CELLS)
    per_row = PER_ROW + PER_COLUMN * len(_headed(findings))
    room = (BYTES - per_row * len(findings)) / PER_VALUE
    rows = list(range(max(1, int(np.searchsorted(np.cumsum(cells), room, side="right")))))
    numbers = state_map.numbers_of(findings, rows)
    found = distribution.values_of(findings.run, numbers)
    return {row: found[number] for row, number in zip(rows, numbers, strict=True) if number in found}


def _coded(labels: list[str]) -> dict[str, list]:
    names = sorted(set(labels))
    code = {name: i for i, name in enumerate(names)}
    return {"names": names, "of_cell": [code[label] for label in labels]}


def _table(findings: Findings) -> tuple[dict[str, list], dict[str, str]]:
    """Columns of the table by the page's short name, and their names in `rankshift stats`."""
    low, high = findings.interval
    similarity = findings.goal is None
    effect = "1 - similarity_mean" if similarity else ("shift_mean" if findings.judging.by is None else "balanced_mean")
    if similarity and findings.judging.by is not None:
        effect = "1 - balanced_mean"
    numeric = {
        "cells": (findings.column("cells"), "cells"),
        "effect": (findings.effect, effect),
        "low": (low, "low" if similarity else "shift_low"),
        "high": (high, "high" if similarity else "shift_high"),
        "fdr": (findings.fdr, findings.decides),
        "similarity": (findings.column("similarity_mean"), "similarity_mean"),
        **{c.name: (findings.column(c.name), c.name) for c in _headed(findings)},
    }
    rows: dict[str, list] = {"symbols": findings.strings("symbols"), "gene_ids": findings.strings("gene_ids")}
    names = {"symbols": "symbols", "gene_ids": "gene_ids"}
    for key, (values, name) in numeric.items():
        if np.isfinite(values).any() or key in ("cells", "effect", "low", "high", "fdr"):
            rows[key], names[key] = rounded(values, 6), name
    rows["cells"] = findings.column("cells").astype(int).tolist()
    for key, name in (("hit", "hit"), ("below", "below_noise_floor"), ("enough", "enough_cells")):
        rows[key], names[key] = findings.marked(name).tolist(), name
    return rows, names


def _headed(findings: Findings) -> list[Column]:
    """The columns of statistics that the table shows beside the effect: probabilities first, next to the FDR."""
    there = [c for m in measures.MEASURES for c in m.columns if c.heading and c.name in findings.table.column_names]
    return sorted(there, key=lambda c: c.unit != "probability")


def _columns(findings: Findings, rows: dict[str, list]) -> list[dict[str, Any]]:
    """Columns that the table shows: title, what it means, if it holds words, how it sorts first, if a phone leaves it out."""
    title = "1 − similarity" if findings.goal is None else f"Shift to {findings.goal}"
    shown = [
        ("symbols", "Gene", "perturbed genes", {"text": True}),
        ("gene_ids", "Ensembl id", "their ids", {"text": True, "extra": True}),
        ("cells", "Cells", "cells with a value", {"falling": True, "whole": True}),
        ("effect", title, findings.axis, {"falling": True}),
        ("low", "Low", "lower end of its 95 % interval", {"falling": True, "extra": True}),
        ("high", "High", "upper end of its 95 % interval", {"falling": True, "extra": True}),
        ("fdr", "FDR", "false discovery rate that decides", {}),
        *(
            (c.name, c.heading.title, c.heading.help, {"falling": c.heading.falling, "extra": True})
            for c in _headed(findings)
            if c.heading is not None
        ),
        ("hit", "", "hit, noise (below the floor) or few cells (not tested)", {"text": True, "falling": True, "extra": True}),
    ]  # fmt: skip
    plain = {"text": False, "falling": False, "whole": False, "extra": False}
    return [{"key": k, "title": t or "Mark", "help": h, **plain, **more} for k, t, h, more in shown if k in rows]


def rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """Numbers to so many significant digits, None for what is none."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in values.tolist()]
