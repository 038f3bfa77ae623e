"""The report: one HTML file that loads nothing, with every number from the run and every picture from the figure functions.

It refuses a run without committed rows. What does not fit into a file that opens quickly is left out, counted, and the page
shows the query that gives it.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.report import sentences
from rankshift.screen.report.findings import Findings, judged_column
from rankshift.screen.report.plots import distribution, network, noise_floor, state_map, theme, volcano
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import quoted
from rankshift.screen.stats.options import Judging

ASSETS = Path(__file__).parent / "assets"
WIDE, NARROW = 1040, 330  # pixels of a figure on a laptop and on a phone, which names are placed for
ROWS = 20_000  # perturbations of the table and the volcano at most
BYTES = 4_900_000  # of the table and of single cells' values; with plotly's script the file stays below 10 MB
PER_ROW, PER_VALUE = 195, 21  # bytes that a perturbation and a single value take
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page: its heading, sentences (of `more` the first opens the others), and its figure with an alternative
    text."""

    id: str
    nav: str
    title: str
    lead: Sequence[str] = ()
    more: Sequence[str] = ()
    figure: str | None = None
    alt: str = ""
    caption: str = ""


def write_report(
    run: Run,
    out: Path,
    *,
    judging: Judging | None = None,
    bundle: Path | None = None,
    cells: Path | None = None,
    embed: bool = True,
    say: Say = lambda line: None,
) -> None:
    """Write the report of `run` to the .html `out`, whole or not at all.

    judging: as for `rankshift stats`. bundle, cells: where the run's are now, for the state map; embed: False to load no
    model. Raises InputError when the run has no rows, or `out` is no .html or lies in the run.
    """
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out} is no .html: give a name that ends in .html")
    if run.holds(out):
        raise InputError(f"{out} lies inside the run, which a report never writes to: give another --out")
    findings = Findings.read(run, judging)
    say(f"{findings.summary['tested']:,} of {len(findings):,} perturbations tested, {findings.summary['hits']:,} hits")
    html = page(findings, bundle=bundle, cells=cells, embed=embed, say=say)
    with replacing(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def page(
    findings: Findings,
    *,
    bundle: Path | None = None,
    cells: Path | None = None,
    embed: bool = True,
    say: Say = lambda line: None,
) -> str:
    """The whole page as text."""
    # start-up time: figures in a notebook need no templates
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    say("figures …")
    shown = replace(findings, table=findings.table.slice(0, ROWS))
    sections, figures = _figures(shown, len(findings), bundle, cells, embed, say)
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        title=sentences.title(findings),
        version=version("rankshift"),
        answer=list(sentences.answer(findings)),
        facts=sentences.facts(findings),
        provenance=sentences.provenance(findings),
        sections=sections,
        data=Markup(embedded(_data(shown, figures))),
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup((ASSETS / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
    )


def embedded(data: Any) -> str:
    """JSON that may stand inside a script element, whatever the strings in it say."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")


def _figures(
    findings: Findings, total: int, bundle: Path | None, cells: Path | None, embed: bool, say: Say
) -> tuple[list[Section], dict[str, dict]]:
    """The sections in their order, and the figures in them for a laptop and a phone."""
    figures = {
        "volcano": _both(lambda width: volcano.plot_volcano(findings, width=width, named=16 if width == WIDE else 7))
    }
    floor = findings.floor
    sections = [
        Section(
            id="volcano", nav="Volcano", title="How far and how sure", lead=[sentences.shown(findings)],
            more=["How it is judged", *sentences.method(findings)],
            figure="volcano", alt=f"Volcano plot of {len(findings)} perturbations; the table below holds its numbers.",
            caption="The grey band is the run's own numerical noise (p99)." if floor else "",
        ),
        Section(id="genes", nav="Table", title="All perturbations", lead=_left_out(findings, total)),
        Section(
            id="gene", nav="Cells", title="One perturbation, cell by cell", figure="gene",
            alt="Distribution of the effect over cells, beside that of other perturbations.",
            caption="A point is a cell; box and dashed line are quartiles, median and mean. Grey: a sample of all values.",
        ),
    ]  # fmt: skip
    if findings.run.manifest["states"]:
        try:
            made = state_map.state_map(findings, bundle=bundle, cells=cells, embed=embed)
        except InputError as error:
            sections.append(Section(id="states", nav="States", title="Map of states", lead=[f"Not drawn: {error}."]))
        else:
            figures["states"] = _both(lambda width: state_map.plot_states(made, width=width))
            sections.append(
                Section(
                    id="states", nav="States", title="Map of states", lead=[" ".join(made.notes)], figure="states",
                    alt=f"Map of cells with arrows for {', '.join(made.arrows)}.",
                    caption=f"Arrows are drawn {made.magnified:,.0f} times longer than measured.",
                )
            )  # fmt: skip
    if findings.run.manifest["gene_shifts"] is not None:
        figures["network"] = _both(
            lambda width: network.plot_effects_network(findings, width=width, hits=10 if width == WIDE else 4)
        )
        sections.append(
            Section(
                id="network", nav="Network", title="Which genes move with them", figure="network",
                lead=[
                    "For each of the strongest perturbations, the genes whose embedding turns most beyond what the typical "
                    "perturbation of this run does to them. An edge is a change inside the model, not a known interaction."
                ],
                alt="Network of the strongest perturbations and the genes they move most.",
            )
        )  # fmt: skip
    figures["floor"] = _both(lambda width: noise_floor.plot_noise_floor(findings, width=width))
    said = "It is measured when the screen is done; this run has none yet."
    if floor:
        said = (
            f"The run recomputed {int(floor['n']):,} of its values one by one in float32: they differ by {floor['median']:.2g} "
            f"(median), {floor['p99']:.2g} (p99), {floor['max']:.2g} at most. An effect within that is no finding."
        )
    sections += [
        Section(
            id="floor", nav="Noise", title="Hits beside the noise floor", lead=[said], figure="floor",
            alt="Size of the strongest effects beside the numerical noise of the run, on a logarithmic axis.",
        ),
        Section(id="provenance", nav="Provenance", title="How this run was made"),
    ]  # fmt: skip
    return sections, figures


def _left_out(findings: Findings, total: int) -> list[str]:
    if len(findings) == total:
        return []
    mode = "mixture" if findings.goal is None else "goal"
    return [
        f"The strongest {len(findings):,} of {total:,}; all of them come with: rankshift stats "
        f"{shlex.quote(str(findings.run.path))} --mode {mode} --out table.csv"
    ]


def _both(draw: Callable[[int], go.Figure]) -> dict[str, dict]:
    return {"wide": _bare(draw(WIDE)), "narrow": _bare(draw(NARROW))}


def _bare(figure: go.Figure) -> dict:
    """A figure as JSON without what the page adds itself: the template, the width, and hover texts of table rows."""
    made = json.loads(figure.to_json())
    for key in ("template", "width"):
        made["layout"].pop(key, None)
    for trace in made["data"]:
        if "rows" in (trace.get("meta") or {}):
            trace.pop("customdata", None)
    return made


def _data(findings: Findings, figures: dict[str, dict]) -> dict[str, Any]:
    """All that the page's script reads."""
    run = findings.run
    rows, names = _table(findings)
    values = _values(findings)
    groups = distribution.grouping_columns(run)
    first = next(iter(values))
    others = distribution.other_values(run)
    gene = distribution.draw(run, values[first], [values[first].symbols] * len(values[first].cell), others)
    stored = judged_column(run)
    stored = stored if stored.isidentifier() else quoted(stored).replace('"', '\\"')
    return {
        "name": out_name(run),
        "run": shlex.quote(str(run.path)),
        "effect": stored if findings.goal is not None else f"1 - {stored}",
        "decides": "FDR" if findings.judging.by is None else f"FDR over {findings.judging.by}",
        "untested": f"fewer than {findings.judging.min_cells} cells, not tested",
        "all": "all cells",
        "templates": {"light": theme.template(theme.LIGHT), "dark": theme.template(theme.DARK)},
        "figures": figures,
        "gene": {"wide": _bare(gene), "narrow": _bare(gene)},
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
    room = (BYTES - PER_ROW * len(findings)) / PER_VALUE
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
        "adjusted": (findings.column("adjusted_fdr"), "adjusted_fdr"),
        "matched": (findings.column("matched_z"), "matched_z"),
        "similarity": (findings.column("similarity_mean"), "similarity_mean"),
        "place": (findings.column("baseline_rank"), "baseline_rank"),
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
        ("adjusted", "Adjusted FDR", "without the cell's own level and the trend over rank", {"extra": True}),
        ("matched", "Matched z", "against genes of like rank and detection", {"falling": True, "extra": True}),
        ("place", "Mean rank", "mean place of the gene in its cells, 1 the top", {"extra": True}),
        ("hit", "", "hit, noise (below the floor) or few cells (not tested)", {"text": True, "falling": True, "extra": True}),
    ]  # fmt: skip
    plain = {"text": False, "falling": False, "whole": False, "extra": False}
    return [{"key": k, "title": t or "Mark", "help": h, **plain, **more} for k, t, h, more in shown if k in rows]


def rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """Numbers to so many significant digits, None for what is none."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in values.tolist()]
