"""What a notebook works with: `run`, which screens in this process, and the public `Run`, which also draws and annotates.

It computes nothing itself: figures are those of the report, and the engine screens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rankshift.screen.runs import run as runs

if TYPE_CHECKING:
    from anndata import AnnData
    from plotly.graph_objects import Figure

    from rankshift.screen.tokenizer.source import CellSource


@dataclass(frozen=True, eq=False)
class Run(runs.Run):
    """A run that answers SQL, draws, and writes its results into an AnnData.

    Figures are the same as in the report; `judging` by name: by, min_cells, bootstrap, seed (`stats.StatOptions`).
    """

    @classmethod
    def of(cls, run: runs.Run) -> Self:
        """The same run, with what a notebook wants of it."""
        return cls(run.path, run.manifest, run.mirror)

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
        from rankshift.screen.runs.annotate import annotate  # start-up time: most runs need no pandas

        annotate(self, adata, perturbations, measures, key)

    def plot_volcano(self, **judging: Any) -> "Figure":
        """How far each perturbation moves the cells against how sure that is."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.volcano(self, **judging)

    def plot_gene(self, gene: str, *, by: str | None = None) -> "Figure":
        """The effect of perturbing `gene` (symbol or Ensembl id) in every cell, apart for the values of the obs column `by`."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.gene(self, gene, by=by)

    def plot_states(self, genes: Sequence[str] | None = None, **options: Any) -> "Figure":
        """The states and where `genes` (None: the strongest) push the cells; options bundle, cells, embed."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.states(self, genes, **options)

    def plot_effects_network(self, **judging: Any) -> "Figure":
        """The strongest perturbations and the genes they move most; needs gene shifts."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.effects_network(self, **judging)

    def plot_noise_floor(self, **judging: Any) -> "Figure":
        """The strongest effects beside the run's own numerical noise."""
        from rankshift.screen.report import figures  # start-up time: a query must not wait for plotly

        return figures.noise_floor(self, **judging)


def run(
    cells: "CellSource", bundle: Path | str, out: Path | str, *, perturb: str, resume: bool = False, **options: Any
) -> Run:
    """Screen cells in this process, without Ray, and return the run. `options`: the fields of `engine.options.Options`.

    cells: a token table, several or folders of them, `Cells` in memory, or an AnnData of raw counts. `done`, among the options,
    is told how many perturbations were computed, as they come.

    >>> run("cells.parquet", "bundle", "run", perturb="delete").sql("SELECT count(*) FROM shifts")  # doctest: +SKIP
    """
    from rankshift.screen.engine import screener  # start-up time: a query must not wait for torch

    return Run.of(screener.run(cells, bundle, out, perturb=perturb, resume=resume, **options))
