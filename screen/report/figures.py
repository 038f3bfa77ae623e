"""The figures of a run, each from the run alone: what `Run.plot_…` calls, as those of plotly's Python package.

`judging`: the fields of `stats.StatOptions`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankshift.screen.errors import InputError
from rankshift.screen.report.findings import Findings
from rankshift.screen.report.plots.distribution import plot_gene
from rankshift.screen.report.plots.network import plot_effects_network
from rankshift.screen.report.plots.noise_floor import plot_noise_floor
from rankshift.screen.report.plots.state_map import plot_states, state_map
from rankshift.screen.report.plots.volcano import plot_volcano
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.options import StatOptions

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def volcano(run: Run, **judging: Any) -> "Figure":
    """See `plot_volcano`."""
    return plot_volcano(Findings.read(run, StatOptions(**judging))).figure()


def gene(run: Run, name: str, *, by: str | None = None) -> "Figure":
    """See `plot_gene`."""
    return plot_gene(run, name, by=by).figure()


def states(
    run: Run,
    genes: Sequence[str] | None = None,
    *,
    bundle: Path | None = None,
    cells: Path | None = None,
    embed: bool = True,
    **judging: Any,
) -> "Figure":
    """See `state_map` and `plot_states`; what the map was made of stands below it."""
    findings = Findings.read(run, StatOptions(**judging))
    rows = None if genes is None else [_row(findings, name) for name in genes]
    made = state_map(findings, rows, bundle=bundle, cells=cells, embed=embed)
    drawing = plot_states(made)
    drawing.layout["title"] = {"text": f"arrows × {made.magnified:,.0f}", "font": {"size": 12}}
    return drawing.figure()


def effects_network(run: Run, **judging: Any) -> "Figure":
    """See `plot_effects_network`."""
    return plot_effects_network(Findings.read(run, StatOptions(**judging))).figure()


def noise_floor(run: Run, **judging: Any) -> "Figure":
    """See `plot_noise_floor`."""
    return plot_noise_floor(Findings.read(run, StatOptions(**judging))).figure()


def _row(findings: Findings, name: str) -> int:
    number = findings.run.perturbation(name)
    (ids,) = findings.run.sql(f"SELECT gene_ids FROM perturbations WHERE perturbation = {number}")[
        "gene_ids"
    ].to_pylist()
    if ids not in (known := findings.strings("gene_ids")):
        raise InputError(f"{findings.run.path} has no values of {name!r} yet: finish the screen with --resume")
    return known.index(ids)
