"""What a notebook works with: `run`, which screens in this process, and the public `Run`, which also draws and annotates.

It computes nothing itself: figures are those of the report, and the engine screens.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rankshift.screen.errors import in_python
from rankshift.screen.runs import run as runs

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    from anndata import AnnData
    from plotly.graph_objects import Figure

    from rankshift.screen.tokenizer.source import CellSource


@dataclass(frozen=True, eq=False, repr=False)
class Run(runs.Run):
    """A run that answers SQL, draws, and writes its results into an AnnData.

    Figures are the same as in the report; `judging` by name: by, min_cells, bootstrap, seed (`stats.StatOptions`).
    """

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.facts().items())
        return f"Run({str(self.path)!r}: {facts})"

    def _repr_html_(self) -> str:
        rows = {"run": str(self.path), **self.facts()}
        cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table>{cells}</table>"

    def facts(self) -> dict[str, str]:
        """What the run is, in a few words each: the perturbation, the cells, how much is there, and what was not found."""
        manifest, screened = self.manifest, self.manifest.screened
        perturb = manifest.perturb
        facts = {"perturb": " ".join(filter(None, (perturb.kind, perturb.how)))}
        if manifest.route is not None:
            route = manifest.route
            facts["route"] = f"{route.key} {' → '.join((route.start, route.goal))}"
        if screened is not None:
            facts["cells"] = f"{screened.cells.count:,}"
        if manifest.lists is not None:
            facts["perturbations"] = f"{manifest.lists:,}"
        planned = "" if self.partial else f" of {manifest.shards:,}"  # rounds plan as they go
        facts["shards"] = f"{len(self.done):,}{planned} there"
        if screened is not None and screened.unknown_genes:
            facts["genes not in the vocabulary"] = f"{len(screened.unknown_genes):,}"
        return facts

    @classmethod
    def of(cls, run: runs.Run) -> Self:
        """The same run, with what a notebook wants of it."""
        return cls(run.path, run.manifest, run.mirror)

    @in_python
    def stats(
        self,
        mode: str | None = None,
        *,
        null: "runs.Run | None" = None,
        by: str | None = None,
        min_cells: int = 10,
        bootstrap: int = 200,
        seed: int = 0,
    ) -> "pd.DataFrame":
        """Statistics, one row per perturbation, the strongest first; of what holds for all, see `attrs` of the frame.

        The arguments are the options of `rankshift stats` (docs/stats.md). In the mode that is the run's own, which is taken
        where none is named, the run keeps them for its views `statistics` and `hits`, if it can be written to.
        """
        # Start-up time: a query must not wait for scipy.
        from rankshift.screen.runs.views import own_mode
        from rankshift.screen.stats.options import StatOptions
        from rankshift.screen.stats.statistics import record, statistics

        if mode is None:
            mode = own_mode(self) if null is None else "null"
        judging = StatOptions(by=by, min_cells=min_cells, bootstrap=bootstrap, seed=seed)
        found = statistics(self, mode, null=null, judging=judging)
        if mode == own_mode(self) and os.access(self.path, os.W_OK):
            found = record(self, found)
        frame = found.table().to_pandas()
        frame.attrs.update(found.summary)
        return frame

    @in_python
    def report(
        self,
        out: Path | str,
        *,
        by: str | None = None,
        min_cells: int = 10,
        bootstrap: int = 200,
        seed: int = 0,
        bundle: Path | None = None,
        cells: Path | None = None,
        embed: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        """Write the report, one HTML file that loads nothing; the arguments are the options of `rankshift report`."""
        # Start-up time: a query must not wait for plotly.
        from rankshift.screen.report import write_report
        from rankshift.screen.stats.options import StatOptions

        judging = StatOptions(by=by, min_cells=min_cells, bootstrap=bootstrap, seed=seed)
        write_report(self, Path(out), judging=judging, bundle=bundle, cells=cells, embed=embed, say=say)

    @in_python
    def export(self, out: Path | str, *, format: str | None = None, say: Callable[[str], None] = print) -> None:
        """Write one .csv, .xlsx, .duckdb or .h5ad for other programs (docs/export.md)."""
        # Start-up time: a query must not wait for scipy.
        from rankshift.screen.report.exported import export_file

        export_file(self, Path(out), format=format, say=say)

    @in_python
    def annotate(
        self,
        adata: "AnnData",
        perturbations: Sequence[str] = (),
        measures: Sequence[str] | None = None,
        key: str = "rankshift",
    ) -> None:
        """Write results into the AnnData the cells came from: obs columns of the perturbations named, uns[key] of all.

        See `annotate.annotate`.
        """
        from rankshift.screen.report.annotate import annotate  # start-up time: most runs need no pandas

        annotate(self, adata, perturbations, measures, key)

    @in_python
    def plot_volcano(self, **judging: Any) -> "Figure":
        """How far each perturbation moves the cells against how sure that is."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.volcano(self, **judging)

    @in_python
    def plot_gene(self, gene: str, *, by: str | None = None) -> "Figure":
        """The effect of perturbing `gene` (symbol or Ensembl id) in every cell, apart for the values of the obs column `by`."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.gene(self, gene, by=by)

    @in_python
    def plot_states(self, genes: Sequence[str] | None = None, **options: Any) -> "Figure":
        """The states and where `genes` (None: the strongest) push the cells; options bundle, cells, embed."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.states(self, genes, **options)

    @in_python
    def plot_effects_network(self, **judging: Any) -> "Figure":
        """The strongest perturbations and the genes they move most; needs gene shifts."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.effects_network(self, **judging)

    @in_python
    def plot_noise_floor(self, **judging: Any) -> "Figure":
        """The strongest effects beside the run's own numerical noise."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.noise_floor(self, **judging)


def run(
    cells: "CellSource",
    bundle: Path | str,
    out: Path | str,
    *,
    perturb: str,
    genes: str | Sequence[str] = "all",
    how: str = "each",
    embedding: str = "auto",
    layer: int = -1,
    states: Path | None = None,
    state_key: str | None = None,
    start: str | None = None,
    goal: str | None = None,
    alt: Sequence[str] = (),
    where: str | None = None,
    max_cells: int | None = None,
    dtype: str = "auto",
    token_budget: int | None = None,
    shard_tokens: int | None = None,
    reference_overflow: bool = False,
    refill: bool = False,
    anchor: str | None = None,
    rank_shift: int | None = None,
    to: float | None = None,
    gene_shifts: bool = False,
    by: str | None = None,
    per_cell: bool = False,
    gene_column: str | None = None,
    counts_layer: str | None = None,
    background: int | None = None,
    top: int | None = None,
    bottom: bool = False,
    absolute: bool = False,
    rank_by: str | None = None,
    confidence: float | None = None,
    seed: int | None = None,
    min_cells: int | None = None,
    strata: str | None = None,
    fdr: float | None = None,
    budget: int | None = None,
    continue_full: bool = False,
    resume: bool = False,
    say: Callable[[str], None] = print,
    done: Callable[[int], None] | None = None,
) -> Run:
    """Screen cells in this process, without Ray, and return the run.

    cells: a token table, several or folders of them, `Cells` in memory, or an AnnData of raw counts. perturb: delete,
    overexpress, or another kind of docs/perturbations.md; it and the keywords up to `background` are the options of
    `rankshift screen`; those from `top` to `continue_full` are of adaptive screens (docs/adaptive.md), None is their default
    of the command. say: told what there is to note, as genes that the vocabulary lacks. done: told how many perturbations
    were computed, as they come; without it a bar shows them. Raises InputError on whatever does not fit.

    >>> run("cells.parquet", "bundle", "run", perturb="delete").sql("SELECT count(*) FROM shifts")  # doctest: +SKIP
    """
    given = dict(locals())
    # Start-up time: a query must wait neither for torch nor for rich.
    from rankshift.screen.adaptive.here import run_here
    from rankshift.screen.engine.options import Adaptive, Options
    from rankshift.screen.progress import progress

    made = run_here(
        cells,
        bundle,
        out,
        Options.of(given),
        adaptive=Adaptive.asked(given),
        budget=budget,
        continue_full=continue_full,
        resume=resume,
        say=say,
        done=done or (lambda n: None),
        watch=progress if done is None else None,
    )
    return Run.of(made)
