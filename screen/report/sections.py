"""The sections of the page in their order: headings, sentences, and the figures for a laptop and a phone."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rankshift.screen.errors import InputError
from rankshift.screen.report import sentences
from rankshift.screen.report.findings import Findings
from rankshift.screen.report.plots import network, noise_floor, state_map, volcano
from rankshift.screen.report.plots.drawing import Drawing

WIDE, NARROW = 1040, 330  # pixels of a figure on a laptop and on a phone, which names are placed for


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTable:
    """A small table that stands on the page as it is: titles of its columns with what they mean, and rows of texts."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page: its heading, sentences (of `more` the first opens the others), its table, and its figure with an
    alternative text."""

    id: str
    nav: str
    title: str
    lead: Sequence[str] = ()
    more: Sequence[str] = ()
    table: PlainTable | None = None
    figure: str | None = None
    alt: str = ""
    caption: str = ""


def sections_of(
    findings: Findings, total: int, bundle: Path | None, cells: Path | None, embed: bool, sets: Section | None = None
) -> tuple[list[Section], dict[str, dict]]:
    """The sections in their order, and the figures in them for a laptop and a phone."""
    figures = {
        "volcano": both(lambda width: volcano.plot_volcano(findings, width=width, named=16 if width == WIDE else 7))
    }
    floor = findings.floor
    sections = [
        Section(
            id="volcano", nav="Volcano", title="How far and how sure", lead=[sentences.shown(findings)],
            more=["How it is judged", *sentences.method(findings)],
            figure="volcano", alt=f"Volcano plot of {len(findings)} perturbations; the table below holds its numbers.",
            caption="The grey band is the run's own numerical noise (p99)." if floor and floor.max > 0 else "",
        ),
        Section(
            id="genes", nav="Table", title="All perturbations", lead=_left_out(findings, total),
            more=["What the columns say, and when to trust them", *sentences.meanings(findings)],
        ),
        Section(
            id="gene", nav="Cells", title="One perturbation, cell by cell", figure="gene",
            alt="Distribution of the effect over cells, beside that of other perturbations.",
            caption="A point is a cell; box and dashed line are quartiles, median and mean. Grey: a sample of all values.",
        ),
    ]  # fmt: skip
    if sets is not None:
        sections.append(sets)
    if findings.run.manifest.states:
        try:
            made = state_map.state_map(findings, bundle=bundle, cells=cells, embed=embed)
        except InputError as error:
            sections.append(Section(id="states", nav="States", title="Map of states", lead=[f"Not drawn: {error}."]))
        else:
            figures["states"] = both(lambda width: state_map.plot_states(made, width=width))
            sections.append(
                Section(
                    id="states", nav="States", title="Map of states", lead=[" ".join(made.notes)], figure="states",
                    alt=f"Map of cells with arrows for {', '.join(made.arrows)}.",
                    caption=f"Arrows are drawn {made.magnified:,.0f} times longer than measured.",
                )
            )  # fmt: skip
    if findings.run.manifest.gene_shifts is not None:
        figures["network"] = both(
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
    figures["floor"] = both(lambda width: noise_floor.plot_noise_floor(findings, width=width))
    said = "It is measured when the screen is done; this run has none yet."
    if floor and floor.max == 0:  # float32 in the same batches: the same sums once more
        said = f"The run recomputed {floor.n:,} of its values in float32 and they are the same: this is no measure of noise."
    elif floor:
        said = (
            f"The run recomputed {floor.n:,} of its values one by one in float32: they differ by {floor.median:.2g} "
            f"(median), {floor.p99:.2g} (p99), {floor.max:.2g} at most. An effect within that is no finding."
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


def both(draw: Callable[[int], Drawing]) -> dict[str, dict]:
    """A figure for a laptop and for a phone."""
    return {"wide": bare(draw(WIDE)), "narrow": bare(draw(NARROW))}


def bare(figure: Drawing) -> dict:
    """A figure as JSON without what the page adds itself: the template, the width, and hover texts of table rows."""
    made = figure.json()
    for key in ("template", "width"):
        made["layout"].pop(key, None)
    for trace in made["data"]:
        if "rows" in (trace.get("meta") or {}):
            trace.pop("customdata", None)
    return made
