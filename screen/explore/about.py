"""What the page must know to begin with: the runs, what they measured, groups, columns, tables, colours of figures."""

from typing import Any

from rankshift.screen.explore.opened.session import Session
from rankshift.screen.explore.opened.shown_run import ShownRun
from rankshift.screen.report.plots import theme
from rankshift.screen.runs.views import NAMES, absent, quoted

FEW = 40  # columns of a view that are named to whoever writes SQL


def about(session: Session, version: str) -> dict[str, Any]:
    """Everything the page needs once, as JSON has it."""
    return {
        "version": version,
        "runs": [_run(session, shown) for shown in session.runs.values()],
        "tables": [
            {"name": t.name, "key": t.key, "columns": list(t.columns), "said": t.said} for t in session.tables.values()
        ],
        "views": {
            table: columns for shown in session.runs.values() for table, columns in _views(session, shown).items()
        }
        | {
            t.name: session.ask(f"SELECT * FROM {quoted(t.name)} LIMIT 0").column_names for t in session.tables.values()
        },
        "templates": {"light": theme.template(theme.LIGHT), "dark": theme.template(theme.DARK)},
        "colours": {"towards": theme.TOWARDS, "other": theme.OTHER, "groups": list(theme.GROUPS)},
    }


def _run(session: Session, shown: ShownRun) -> dict[str, Any]:
    manifest = shown.run.manifest
    route, screened = manifest.route, manifest.screened
    facts = {
        "Folder": str(shown.run.path),
        "Perturbation": " ".join(filter(None, (manifest.perturb.kind, manifest.perturb.how))),
        "From, to": None if route is None else f"{route.start} to {route.goal} ({route.key})",
        "Model": None if screened is None else f"{screened.bundle.path}, weights {screened.bundle.weights_sha256[:12]}",
        "Numbers": None if screened is None else screened.dtype,
        "Date": None if screened is None else screened.date,
    }
    counts = session.ask(f"SELECT count(*) AS n, sum(cells) AS rows FROM {shown.table}").to_pylist()[0]
    return {
        "name": shown.name,
        "facts": {name: value for name, value in facts.items() if value},
        "perturbations": counts["n"],
        "rows": int(counts["rows"]),
        "cells": session.maps[shown.name].total,
        "quantities": [{"name": one.name, "title": one.title} for one in shown.quantities],
        "groups": {name: list(values) for name, values in shown.groups.items()},
        "columns": [
            {"key": c.key, "title": c.title, "help": c.help, "kind": c.kind, "first": c.first} for c in shown.columns
        ],
        "effects": absent(shown.run, "effects") is None,
        "pairs": manifest.perturb.how != "each",
        "notes": list(shown.notes),
    }


def _views(session: Session, shown: ShownRun) -> dict[str, list[str]]:
    """Names of the columns of a run's views, by what SQL calls the view."""
    there = [name for name in NAMES if absent(shown.run, name) is None]
    return {
        f"{shown.schema.replace(chr(34), '')}{name}": session.ask(
            f"SELECT * FROM {shown.schema}{name} LIMIT 0"
        ).column_names[:FEW]
        for name in there
    }
