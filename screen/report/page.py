"""The report: one HTML file that loads nothing, with every number from the run and every picture from the figure functions.

It refuses a run without committed rows. What does not fit into a file that opens quickly is left out, counted, and the page
shows the query that gives it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rankshift.screen.bundle.gene_lists import gene_sets as read_gene_sets
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.report import sentences
from rankshift.screen.report.adaptive_page import adaptive_page
from rankshift.screen.report.data import page_data
from rankshift.screen.report.findings import Findings
from rankshift.screen.report.gene_sets import gene_sets_section
from rankshift.screen.report.sections import sections_of
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.options import StatOptions

ASSETS = Path(__file__).parent / "assets"
PLOTLY = "plotly-cartesian.min.js"  # the part of plotly.js that draws on axes: 1.5 MB, where the whole of it takes 4.8
SCRIPTS = ("gene_links.js", "page.js")
ROWS = 20_000  # perturbations of the table and the volcano at most
Say = Callable[[str], None]


def write_report(
    run: Run,
    out: Path,
    *,
    judging: StatOptions | None = None,
    bundle: Path | None = None,
    cells: Path | None = None,
    embed: bool = True,
    sets: Path | None = None,
    say: Say = lambda line: None,
) -> None:
    """Write the report of `run` to the .html `out`, whole or not at all.

    Of an adaptive run it lists genes as finished, estimated or untested. judging: as for `rankshift stats`. bundle, cells:
    where the run's are now, for the state map; embed: False to load no model. sets: a .gmt of gene sets to compare with the
    tested genes. Raises InputError when the run has no rows, `out` is no .html or lies in the run, or the sets do not fit.
    """
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out} is no .html: give a name that ends in .html")
    if run.holds(out):
        raise InputError(f"{out} lies inside the run, which a report never writes to: give another --out")
    gene_sets = None if sets is None else read_gene_sets(sets)
    if run.partial:
        if gene_sets is not None:
            raise InputError(
                f"{run.path} is adaptive, --sets is of screens in which every gene is measured: leave it out"
            )
        if judging not in (None, StatOptions()):
            raise InputError(
                f"{run.path} is adaptive, --by, --min-cells and the like are of tests that it does not make"
            )
        html = adaptive_page(run)
    else:
        findings = Findings.read(run, judging)
        say(
            f"{findings.summary['tested']:,} of {len(findings):,} perturbations tested, {findings.summary['hits']:,} hits"
        )
        html = page(findings, bundle=bundle, cells=cells, embed=embed, sets=gene_sets, say=say)
    with replacing(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def page(
    findings: Findings,
    *,
    bundle: Path | None = None,
    cells: Path | None = None,
    embed: bool = True,
    sets: Mapping[str, Sequence[str]] | None = None,
    say: Say = lambda line: None,
) -> str:
    """The whole page as text. sets: genes by the name of their set."""
    # start-up time: figures in a notebook need no templates
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    say("figures …")
    shown = replace(findings, table=findings.table.slice(0, ROWS))
    compared = None if sets is None else gene_sets_section(findings, sets)
    sections, figures = sections_of(shown, len(findings), bundle, cells, embed, compared)
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        title=sentences.title(findings),
        version=version("rankshift"),
        answer=list(sentences.answer(findings)),
        facts=sentences.facts(findings),
        provenance=sentences.provenance(findings),
        sections=sections,
        data=Markup(embedded(page_data(shown, figures))),
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup("".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        plotly=Markup((ASSETS / PLOTLY).read_text(encoding="utf-8").replace("</script", "<\\/script")),
    )


def embedded(data: Any) -> str:
    """JSON that may stand inside a script element, whatever the strings in it say."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
