"""The verb that studies a cohort: from labelled cells of several donors to a verdict for every gene."""

from pathlib import Path
from typing import Annotated

import typer

from rankshift.jobs.cli.app import BundleOption, ConfigOption, OutOption, WorkersOption, app, say


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@app.command()
def study(
    cells: Annotated[
        list[Path],
        typer.Argument(help="Token tables, or counts: .h5ad, .loom, .zarr, .h5mu, 10x .h5 or mtx folder, .csv."),
    ],
    bundle: BundleOption,
    out: OutOption,
    label: Annotated[str, typer.Option(help="obs column of the state.")],
    start: Annotated[str, typer.Option(help="State of the cells to perturb.")],
    goal: Annotated[str, typer.Option(help="State to move towards.")],
    donor: Annotated[str, typer.Option(help="obs column of the donor; no donor is scored by a model that saw it.")],
    alt: Annotated[str, typer.Option(help="Other states to learn and measure, separated by commas.")] = "",
    batch: Annotated[
        str, typer.Option(help="obs columns (study, chemistry) that labels must not be confounded with.")
    ] = "",
    balance: Annotated[str, typer.Option(help="obs columns that the folds keep in proportion.")] = "",
    folds: Annotated[int, typer.Option(help="Groups of donors; for each a model learns from the others.")] = 5,
    cells_per_donor: Annotated[int, typer.Option(help="Cells of a donor and state that are judged, at most.")] = 100,
    pool_per_donor: Annotated[
        int, typer.Option(help="Cells of a donor and state that are learnt from, at most.")
    ] = 1000,
    genes: Annotated[str, typer.Option(help="all, or names or a file of them.")] = "all",
    controls: Annotated[
        int | None, typer.Option(help="Of a list: genes of like detection and rank drawn beside it. Default: 100.")
    ] = None,
    arms: Annotated[str, typer.Option(help="delete, overexpress, or both.")] = "delete,overexpress",
    goal_of: Annotated[
        str, typer.Option(help="Whose goal state counts: that of the training donors, or the same donor's.")
    ] = "training",
    min_cells: Annotated[int, typer.Option(help="A gene in fewer start cells of a donor has no value there.")] = 5,
    cell_type: Annotated[
        str | None, typer.Option(help="obs column of the cell type, for genes that others may leak.")
    ] = None,
    confounded: Annotated[
        bool, typer.Option("--confounded", help="Go on where a state is only in batches of its own.")
    ] = False,
    despite_gate: Annotated[
        bool, typer.Option("--despite-gate", help="Go on where the models cannot tell the states apart.")
    ] = False,
    layer: Annotated[int, typer.Option(help="Hidden states to measure, as for screen.")] = -1,
    dtype: Annotated[str, typer.Option(help="Of the screens' matrix products, as for screen.")] = "auto",
    epochs: Annotated[int | None, typer.Option(help="Times a model sees every cell. Default: 10.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the fine-tuning. Default: 5e-05.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of a step. Default: 24576.")] = None,
    freeze: Annotated[int, typer.Option(help="Encoder layers, from the first, that stay as they are.")] = 0,
    gene_column: Annotated[str | None, typer.Option(help="Of counts: var column with the genes.")] = None,
    counts_layer: Annotated[str | None, typer.Option(help="Of counts: raw, X or a layer's name.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0,
    workers: WorkersOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the study in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say the audit and the cost, compute nothing.")] = False,
    config: ConfigOption = None,
) -> None:
    """Labelled cells of several donors become a verdict for every gene (docs/study.md)."""
    given = dict(locals())
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.cohort.options import Study
    from rankshift.jobs.cohort.study import run_study

    several = {name: _names(given[name]) for name in ("alt", "batch", "balance", "arms")}
    asked = Study.of({**given, **several})
    source = cells if len(cells) > 1 else cells[0]
    run_study(source, bundle, out, asked, workers=workers, resume=resume, dry_run=dry_run, say=say)


@app.command()
def validate(
    place: Annotated[Path, typer.Argument(help="Folder of a study, or of a run with a start and a goal state.")],
    truth: Annotated[
        Path, typer.Option(help="A .csv, .tsv or .parquet of genes: gene_id or symbol; hit, direction; or score.")
    ],
    out: Annotated[Path | None, typer.Option(help="A .csv or .parquet for the table.")] = None,
    page: Annotated[Path | None, typer.Option(help="An .html to look at.")] = None,
    trained_on: Annotated[
        Path | None, typer.Option(help="A file of genes, a line each, that a model was trained on: they are left out.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the intervals, at least 40.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0,
) -> None:
    """What the wet lab says beside what a study or a screen says (docs/study.md)."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.cohort.truth.validate import validate as run_validate
    from rankshift.screen.files.text_file import read_text

    left_out = [] if trained_on is None else [line for line in read_text(trained_on).splitlines() if line.strip()]
    run_validate(place, truth, out, page=page, trained_on=left_out, bootstrap=bootstrap, seed=seed, say=say)
