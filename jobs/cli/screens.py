"""Verbs of a screen: compute it, ask it, judge it, export it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankshift.jobs.cli.app import BundleOption, ConfigOption, LayerOption, OutOption, WorkersOption, app, say
from rankshift.screen.errors import InputError
from rankshift.screen.perturb.kinds import KINDS, taking

if TYPE_CHECKING:
    from rankshift.screen.stats.options import StatOptions


def _either(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}."


@app.command()
def screen(
    cells: Annotated[
        list[Path], typer.Argument(help="Token tables (.parquet), .dataset folders, folders of them; or counts.")
    ],
    bundle: BundleOption,
    out: OutOption,
    perturb: Annotated[str, typer.Option(help=_either(list(KINDS)))],
    genes: Annotated[str, typer.Option(help="all, ids or symbols separated by commas, or files of them.")] = "all",
    background: Annotated[
        int | None,
        typer.Option(help="Draw so many genes of like detection and rank beside the list, to hold it against."),
    ] = None,
    how: Annotated[
        str, typer.Option(help="each gene by itself, all listed genes together, or pairs of them.")
    ] = "each",
    anchor: Annotated[str | None, typer.Option(help="Gene that every pair holds, with --how pairs.")] = None,
    rank_shift: Annotated[
        int | None, typer.Option(help=f"{', '.join(taking('rank_shift'))}: by 1, 2 or 3 quartiles.")
    ] = None,
    to: Annotated[
        float | None, typer.Option(help=f"{', '.join(taking('to'))}: to this fraction of the ranks, 0 the front.")
    ] = None,
    gene_shifts: Annotated[bool, typer.Option("--gene-shifts", help="Keep how every other gene moved.")] = False,
    by: Annotated[str | None, typer.Option(help="Gene shifts apart for each value of this obs column.")] = None,
    per_cell: Annotated[bool, typer.Option("--per-cell", help="Gene shifts of every cell, not aggregated.")] = False,
    embedding: Annotated[
        str, typer.Option(help="cell (mean over genes), cls, or auto: cls where cells have it.")
    ] = "auto",
    layer: LayerOption = -1,
    gene_column: Annotated[
        str | None, typer.Option(help="Of counts: var column with the gene ids or symbols. Default: found by itself.")
    ] = None,
    counts_layer: Annotated[
        str | None, typer.Option(help="Of counts: raw, X or a layer's name. Default: the first that may be counts.")
    ] = None,
    states: Annotated[Path | None, typer.Option(help="states.json with one vector per state.")] = None,
    state_key: Annotated[str | None, typer.Option(help="obs column of the cell state.")] = None,
    start: Annotated[str | None, typer.Option(help="State of the cells to perturb.")] = None,
    goal: Annotated[str | None, typer.Option(help="State to move towards.")] = None,
    alt: Annotated[str, typer.Option(help="Other states to measure, separated by commas.")] = "",
    where: Annotated[str | None, typer.Option(help="SQL condition over the obs columns.")] = None,
    max_cells: Annotated[int | None, typer.Option(help="Screen a sample of this many cells.")] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="auto, float32, float16, bfloat16 or int8 for matrix products; bfloat16-delta, int8-delta: for what lists "
            "differ by from their original (docs/precision.md)."
        ),
    ] = "auto",
    workers: WorkersOption = None,
    token_budget: Annotated[int | None, typer.Option(help="Rows of a batch at most. Default: the device's.")] = None,
    shard_tokens: Annotated[
        int | None, typer.Option(help="Rows of a shard, about. Default: what the device does in a while.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, compute nothing.")] = False,
    reference_overflow: Annotated[
        bool, typer.Option("--reference-overflow", help="Cut overflowing originals as the published code does.")
    ] = False,
    refill: Annotated[
        bool, typer.Option("--refill", help="Deletions let genes move up from below the input limit.")
    ] = False,
    top: Annotated[
        int | None, typer.Option(help="Adaptive: find this many genes of strongest effect, measure few others.")
    ] = None,
    bottom: Annotated[bool, typer.Option("--bottom", help="Adaptive: the genes at the other end instead.")] = False,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Adaptive: shifts of either direction, by their size.")
    ] = False,
    rank_by: Annotated[
        str | None,
        typer.Option(
            help="Adaptive: similarity, or the state whose shift is ranked. Default: --goal, else similarity."
        ),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Adaptive: the share of them that is to be found. 0.98.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Adaptive: of what is drawn. 0.")] = None,
    min_cells: Annotated[int | None, typer.Option(help="Adaptive: genes in fewer cells are not measured. 10.")] = None,
    strata: Annotated[
        str | None, typer.Option(help="Adaptive: obs column (donor) whose values share every block of cells.")
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option(help="Adaptive: finish, too, all genes that may have any effect at this false discovery rate."),
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Adaptive: encoder passes at most.")] = None,
    continue_full: Annotated[
        bool, typer.Option("--continue-full", help="With --resume: measure all that an adaptive run has not.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Perturb genes in cells and measure the shifts."""
    given = dict(locals())
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.verbs.screen import run_screen, say_cost
    from rankshift.screen.engine.options import Adaptive, Options

    options = Options.of({**given, "alt": tuple(s.strip() for s in alt.split(",") if s.strip())})
    adaptive = Adaptive.asked(given)
    if dry_run:
        say_cost(cells, bundle, options, say, adaptive)
    else:
        run_screen(
            cells,
            bundle,
            out,
            options,
            workers=workers,
            resume=resume,
            adaptive=adaptive,
            budget=budget,
            continue_full=continue_full,
            say=say,
        )


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="Run folder that a screen was writing.")],
    bundle: Annotated[Path | None, typer.Option(help="Where the run's bundle is now. Default: where it was.")] = None,
    workers: WorkersOption = None,
    top: Annotated[int | None, typer.Option(help="Of an adaptive screen: find more genes than were asked for.")] = None,
    budget: Annotated[int | None, typer.Option(help="Of an adaptive screen: encoder passes at most.")] = None,
    continue_full: Annotated[
        bool, typer.Option("--continue-full", help="Of an adaptive screen: measure all that it has not.")
    ] = False,
) -> None:
    """Go on with a screen that was stopped; what to do stands in its folder."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.verbs.screen import resume_screen

    resume_screen(run, bundle, workers=workers, top=top, budget=budget, continue_full=continue_full, say=say)


@app.command()
def query(
    run: Annotated[Path, typer.Argument(help="Folder of a run or a study.")],
    sql: Annotated[
        str | None, typer.Argument(help="One SELECT over shifts, cells, perturbations, hits … (docs/sql.md).")
    ] = None,
    others: Annotated[
        list[str] | None, typer.Option("--with", metavar="NAME=RUN", help="Another run: its views are NAME.shifts, ….")
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="NAME=FILE", help="A .csv, .tsv, .parquet or .json to join, as NAME."),
    ] = None,
    views: Annotated[
        bool, typer.Option("--views", help="Print the CREATE VIEW statements for another DuckDB client.")
    ] = False,
    format: Annotated[
        str | None, typer.Option(help="table, csv, parquet or json. Default: the ending of --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write instead of the terminal.")] = None,
) -> None:
    """Ask a run in SQL."""
    if (run / "study.json").is_file():
        # Late: --help and a wrong option must not wait for what computes.
        from rankshift.jobs.cohort.asking import query_study
        from rankshift.jobs.cohort.folder import Folder

        study = Folder.open(run)
        query_study(study, sql, others=others or (), tables=tables or (), views=views, format=format, out=out, say=say)
        return
    # Late, for the same reason.
    from rankshift.jobs.verbs.query import query as ask

    ask(run, sql, others=others or (), tables=tables or (), views=views, format=format, out=out, say=say)


@app.command()
def compact(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Sort a run's rows into few files beside its parts, for quick queries."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.verbs.compact import compact_run

    compact_run(run, say=say)


@app.command()
def stats(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet. Without, the run keeps the table for its view hits.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="goal, null, mixture, aggregate or genes. Default: null with --null, else the run's own."),
    ] = None,
    null: Annotated[Path | None, typer.Option(help="Run to compare with, of --mode null.")] = None,
    reference_names: Annotated[
        bool, typer.Option("--reference-names", help="Columns, order and numbers as published.")
    ] = False,
    by: Annotated[str | None, typer.Option(help="obs column (donor, sample) whose values count once each.")] = None,
    min_cells: Annotated[
        int | None, typer.Option(help="Perturbations in fewer cells are not tested. Default: 10.")
    ] = None,
    bootstrap: Annotated[int | None, typer.Option(help="Resamples of the intervals, 0 for none. Default: 200.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn. Default: 0.")] = None,
) -> None:
    """Statistics of a run, one row per perturbation (docs/stats.md)."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.verbs.stats import stats as run_stats

    judging = _judging(by, min_cells, bootstrap, seed)
    run_stats(run, out, mode=mode, null=null, reference_names=reference_names, judging=judging, say=say)


def _judging(by: str | None, min_cells: int | None, bootstrap: int | None, seed: int | None) -> "StatOptions":
    """The options given, the rest by default."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.screen.stats.options import StatOptions

    given = {"by": by, "min_cells": min_cells, "bootstrap": bootstrap, "seed": seed}
    return StatOptions(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: OutOption,
    by: Annotated[str | None, typer.Option(help="obs column (donor, sample) whose values count once each.")] = None,
    min_cells: Annotated[
        int | None, typer.Option(help="Perturbations in fewer cells are not tested. Default: 10.")
    ] = None,
    bootstrap: Annotated[int | None, typer.Option(help="Resamples of the intervals, 0 for none. Default: 200.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn. Default: 0.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Where the run's bundle is now, for the map of states.")] = None,
    cells: Annotated[Path | None, typer.Option(help="Where the screened token table is now, for that map.")] = None,
    no_embed: Annotated[
        bool, typer.Option("--no-embed", help="Load no model: draw that map from the stored cosines.")
    ] = False,
    sets: Annotated[
        Path | None, typer.Option(help=".gmt of gene sets that are compared with the tested genes.")
    ] = None,
) -> None:
    """A run to look at: one HTML file that loads nothing (docs/report.md)."""
    if (run / "study.json").is_file():
        # Late: --help and a wrong option must not wait for what computes.
        from rankshift.jobs.cohort.folder import Folder
        from rankshift.jobs.cohort.page.write import write_page

        if by or min_cells or bootstrap is not None or seed is not None or bundle or cells or no_embed or sets:
            raise InputError(f"{run} is a study, which has judged already: give --out alone")
        write_page(Folder.open(run), out)
        say(f"{out}: the page of the study")
        return
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.screen.report import write_report
    from rankshift.screen.runs.run import Run

    judging = _judging(by, min_cells, bootstrap, seed)
    embed = not no_embed
    write_report(Run.open(run), out, judging=judging, bundle=bundle, cells=cells, embed=embed, sets=sets, say=say)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: OutOption,
    format: Annotated[
        str | None,
        typer.Option(
            help="csv, xlsx, duckdb, h5ad; reference: pickles of the published code. Default: by --out's ending."
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Of reference: part of every file name. Default: the run's.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="obs column (donor, sample) whose values count once each.")] = None,
    min_cells: Annotated[
        int | None, typer.Option(help="Perturbations in fewer cells are not tested. Default: 10.")
    ] = None,
) -> None:
    """A run as one file for other programs (docs/export.md), or in the files of the published code."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.verbs.export import export as run_export
    from rankshift.screen.report.exported import FORMATS, export_file
    from rankshift.screen.runs.run import Run

    if format == "reference" or (format is None and out.suffix.removeprefix(".") not in FORMATS):
        run_export(run, out, prefix=prefix, say=say)
    elif prefix is not None:
        raise InputError(f"--prefix is of --format reference, --format is {format or out.suffix}: leave it out")
    else:
        export_file(Run.open(run), out, format=format, judging=_judging(by, min_cells, None, None), say=say)
