"""The command `rankshift`. Exit codes: 0 done, 1 failed, 2 bad usage or input (one line), 3 stopped, resumable."""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rankshift.screen.errors import InputError

STOPPED = "stopped; the same command with --resume goes on where it was"
INTERRUPTED = 128 + 2  # what typer makes of Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="In-silico perturbation screens with Geneformer-type models.",
)
BundleOption = Annotated[Path, typer.Option("--bundle", help="Folder made by `rankshift bundle`.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where to write.")]
LayerOption = Annotated[int, typer.Option("--layer", help="Layer to measure: -1 the second to last, 0 the last.")]


def say(line: str) -> None:
    """A line for the user, beside the data."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """The entry point of the command."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line and turn what happened into an exit code; unexpected errors are raised."""
    try:
        code = app(arguments, standalone_mode=False) or 0
        return _fail(STOPPED, 3) if code == INTERRUPTED else code
    except InputError as e:
        return _fail(str(e), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(STOPPED, 3)
    except typer.Exit as e:
        return e.exit_code
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        return _fail(f"the disk is full ({e}): free some space, then continue with --resume", 2)
    except Exception as e:
        if not hasattr(e, "exit_code"):
            raise
        return _fail(e.format_message(), e.exit_code)  # type: ignore[attr-defined]  # a usage error of the command line itself


def _fail(message: str, code: int) -> int:
    say(f"rankshift: {' '.join(message.split())}")
    return code


@app.command()
def bundle(
    checkpoint: Annotated[Path, typer.Argument(help="Hugging Face checkpoint folder (config.json and weights).")],
    vocabulary: Annotated[Path, typer.Option(help="vocabulary.parquet, or {gene: token} as .json, .csv or .pkl.")],
    out: OutOption,
    medians: Annotated[Path | None, typer.Option(help="{gene: median}, for tokenizing.")] = None,
    names: Annotated[Path | None, typer.Option(help="{symbol: gene}.")] = None,
    aliases: Annotated[Path | None, typer.Option(help="{alias or retired id: gene}.")] = None,
) -> None:
    """Tie a model and its vocabulary together in one folder."""
    from rankshift.screen.bundle import make_bundle

    made = make_bundle(checkpoint, vocabulary, out, medians, names, aliases)
    c = made.config
    say(
        f"{out}: {made.generation}, {made.vocabulary.size} tokens, {c['num_hidden_layers']} layers of {c['hidden_size']}, "
        f"lists up to {made.input_size}, weights {made.weights_sha256[:12]}"
    )


@app.command()
def vocabulary(
    data: Annotated[list[Path], typer.Argument(help="h5ad files, or folders of them.")],
    out: OutOption,
    generation: Annotated[str, typer.Option(help="v1 (plain lists) or v2 (framed by <cls> and <eos>).")] = "v1",
    gene_column: Annotated[str | None, typer.Option(help="var column that holds the gene ids.")] = None,
) -> None:
    """Medians and tokens from a corpus of cells."""
    from rankshift.screen.corpus import build_vocabulary

    say(str(build_vocabulary(data, out, generation=generation, gene_column=gene_column)))


@app.command()
def tokenize(
    data: Annotated[Path, typer.Argument(help="h5ad file, or a folder of them.")],
    out: OutOption,
    bundle: Annotated[Path | None, typer.Option(help="Folder made by `rankshift bundle`.")] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Instead of --bundle: vocabulary.parquet of a model to pretrain.")
    ] = None,
    keep: Annotated[str, typer.Option(help="obs columns to keep, separated by commas.")] = "",
    where: Annotated[str | None, typer.Option(help="SQL condition over the obs columns.")] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Longest list, specials included. Default: the model's.")
    ] = None,
    gene_column: Annotated[str | None, typer.Option(help="var column that holds the gene ids.")] = None,
    min_mapped: Annotated[float, typer.Option(help="Refuse below this share of known genes.")] = 0.1,
) -> None:
    """Rank lists from counts."""
    from rankshift.screen.bundle import Bundle
    from rankshift.screen.ranks import tokenize as rank
    from rankshift.screen.tokens import Draft

    if (bundle is None) == (vocabulary is None):
        raise InputError("tokens come from --bundle, or from --vocabulary before there is a model: give one of them")
    columns = [c.strip() for c in keep.split(",") if c.strip()]
    report = rank(
        data,
        Draft.open(vocabulary, input_size) if vocabulary is not None else Bundle.open(bundle),  # type: ignore[arg-type]
        out,
        keep=columns,
        where=where,
        input_size=input_size,
        min_mapped=min_mapped,
        gene_column=gene_column,
    )
    say(str(report))


@app.command()
def screen(
    cells: Annotated[Path, typer.Argument(help="Token table (.parquet) or .dataset folder.")],
    bundle: BundleOption,
    out: OutOption,
    perturb: Annotated[str, typer.Option(help="delete, overexpress, activate or inhibit.")],
    genes: Annotated[str, typer.Option(help="all, ids or symbols separated by commas, or a file of them.")] = "all",
    how: Annotated[
        str, typer.Option(help="each gene by itself, all listed genes together, or pairs of them.")
    ] = "each",
    anchor: Annotated[str | None, typer.Option(help="Gene that every pair holds, with --how pairs.")] = None,
    rank_shift: Annotated[int | None, typer.Option(help="activate, inhibit: by 1, 2 or 3 quartiles.")] = None,
    to: Annotated[
        float | None, typer.Option(help="activate, inhibit: to this fraction of the ranks, 0 the front.")
    ] = None,
    gene_shifts: Annotated[bool, typer.Option("--gene-shifts", help="Keep how every other gene moved.")] = False,
    by: Annotated[str | None, typer.Option(help="Gene shifts apart for each value of this obs column.")] = None,
    per_cell: Annotated[bool, typer.Option("--per-cell", help="Gene shifts of every cell, not aggregated.")] = False,
    embedding: Annotated[
        str, typer.Option(help="cell (mean over genes), cls, or auto: cls where cells have it.")
    ] = "auto",
    layer: LayerOption = -1,
    states: Annotated[Path | None, typer.Option(help="states.json with one vector per state.")] = None,
    state_key: Annotated[str | None, typer.Option(help="obs column of the cell state.")] = None,
    start: Annotated[str | None, typer.Option(help="State of the cells to perturb.")] = None,
    goal: Annotated[str | None, typer.Option(help="State to move towards.")] = None,
    alt: Annotated[str, typer.Option(help="Other states to measure, separated by commas.")] = "",
    where: Annotated[str | None, typer.Option(help="SQL condition over the obs columns.")] = None,
    max_cells: Annotated[int | None, typer.Option(help="Screen a sample of this many cells.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16 for matrix products.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(help="Ray workers; 0: in this process. Default: the GPUs or cluster there are, else 0."),
    ] = None,
    token_budget: Annotated[int | None, typer.Option(help="Rows of a batch at most.")] = None,
    shard_tokens: Annotated[int | None, typer.Option(help="Rows of a shard, about.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, compute nothing.")] = False,
    reference_overflow: Annotated[
        bool, typer.Option("--reference-overflow", help="Cut overflowing originals as the published code does.")
    ] = False,
) -> None:
    """Perturb genes in cells and measure the shifts."""
    from rankshift.jobs.screening import run_screen
    from rankshift.screen.preparation import Options

    options = Options(
        perturb=perturb,
        genes=genes,
        how=how,
        embedding=embedding,
        layer=layer,
        states=states,
        state_key=state_key,
        start=start,
        goal=goal,
        alt=tuple(s.strip() for s in alt.split(",") if s.strip()),
        where=where,
        max_cells=max_cells,
        dtype=dtype,
        token_budget=token_budget,
        shard_tokens=shard_tokens,
        reference_overflow=reference_overflow,
        anchor=anchor,
        rank_shift=rank_shift,
        to=to,
        gene_shifts=gene_shifts,
        by=by,
        per_cell=per_cell,
    )
    run_screen(cells, bundle, out, options, workers=workers, resume=resume, dry_run=dry_run, say=say)


@app.command()
def query(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    sql: Annotated[str, typer.Argument(help="One SELECT over shifts, cells and perturbations.")],
    format: Annotated[str, typer.Option(help="table, csv, parquet or json.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write instead of the terminal.")] = None,
) -> None:
    """Ask a run in SQL."""
    from rankshift.jobs.query import query as ask

    ask(run, sql, format=format, out=out, say=say)


@app.command()
def embed(
    cells: Annotated[Path, typer.Argument(help="Token table (.parquet) or .dataset folder.")],
    bundle: BundleOption,
    out: OutOption,
    level: Annotated[str, typer.Option(help="cell (mean over genes), cls, or auto.")] = "auto",
    layer: LayerOption = -1,
    by: Annotated[str | None, typer.Option(help="obs column: write one vector per state to a .json.")] = None,
    summary: Annotated[str, typer.Option(help="mean or median over the cells of a state.")] = "mean",
    max_cells: Annotated[int | None, typer.Option(help="Sample of cells (per state with --by).")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16 for matrix products.")] = "float32",
) -> None:
    """Embed cells, or states of cells."""
    from rankshift.jobs.embed import embed as run_embed

    run_embed(
        cells, bundle, out, level=level, layer=layer, by=by, summary=summary, max_cells=max_cells, dtype=dtype, say=say
    )


@app.command()
def pretrain(
    cells: Annotated[Path, typer.Argument(help="Token table (.parquet) or .dataset folder.")],
    vocabulary: Annotated[Path, typer.Option(help="vocabulary.parquet the cells were tokenized with.")],
    out: OutOption,
    layers: Annotated[
        int | None, typer.Option(help="Encoder layers. Defaults are the published V1-10M model's.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Hidden size.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.")] = None,
    inner: Annotated[int | None, typer.Option(help="Inner size of a layer.")] = None,
    input_size: Annotated[int | None, typer.Option(help="Positions. Default: the longest list.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times every cell is seen.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Places of a batch at most, padding included.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the peak of the schedule.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the training until the peak.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the matrices.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Hidden and attention.")] = None,
    hidden_share: Annotated[float | None, typer.Option(help="Share of the genes to hide and name.")] = None,
    initializer: Annotated[float | None, typer.Option(help="Standard deviation of new weights.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the cells that is never trained on.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16 for matrix products.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was stopped.")] = False,
) -> None:
    """Masked-gene pretraining: a first bundle from a vocabulary and its cells."""
    from rankshift.jobs.pretrain import Pretraining
    from rankshift.jobs.pretrain import pretrain as run_pretrain

    given = {
        "layers": layers, "width": width, "heads": heads, "inner": inner, "input_size": input_size, "epochs": epochs,
        "batch_tokens": batch_tokens, "learning_rate": learning_rate, "warmup": warmup, "weight_decay": weight_decay,
        "dropout": dropout, "hidden_share": hidden_share, "initializer": initializer, "held_out": held_out, "dtype": dtype,
        "seed": seed,
    }  # fmt: skip
    options = Pretraining(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    run_pretrain(cells, vocabulary, out, options, resume=resume, say=say)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to work in.")] = Path("demo"),
    workers: Annotated[int, typer.Option(help="Ray workers that screen; 0: in this process.")] = 2,
    max_cells: Annotated[int, typer.Option(help="Cells of 0 h to screen.")] = 30,
    input_size: Annotated[int, typer.Option(help="Genes of a cell, from the top of its rank list.")] = 512,
    epochs: Annotated[int, typer.Option(help="Times the encoder sees every cell.")] = 5,
) -> None:
    """The whole way on 271 real cells that come with the package: pretrain, screen, ask, plot. Some minutes on a CPU."""
    # Read when torch is loaded: threads that wait sleep, because spinning ones take the cores of whatever else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rankshift.jobs.demo import demo as run_demo

    run_demo(out, workers=workers, max_cells=max_cells, input_size=input_size, epochs=epochs, say=say)


@app.command()
def stats(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: OutOption,
    mode: Annotated[str, typer.Option(help="goal, null, mixture, aggregate or genes.")],
    null: Annotated[Path | None, typer.Option(help="Run to compare with, of --mode null.")] = None,
    reference_names: Annotated[
        bool, typer.Option("--reference-names", help="Columns, order and numbers as published.")
    ] = False,
    by: Annotated[str | None, typer.Option(help="obs column (donor, sample) whose values count once each.")] = None,
    min_cells: Annotated[int | None, typer.Option(help="Perturbations in fewer cells are not tested. 10.")] = None,
    bootstrap: Annotated[int | None, typer.Option(help="Resamples of the intervals, 0 for none. 200.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything drawn. 0.")] = None,
) -> None:
    """Statistics of a run, one row per perturbation (docs/stats.md)."""
    from rankshift.jobs.stats import stats as run_stats
    from rankshift.screen.stats.effects import Judging

    given = {"by": by, "min_cells": min_cells, "bootstrap": bootstrap, "seed": seed}
    judging = Judging(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    run_stats(run, out, mode=mode, null=null, reference_names=reference_names, judging=judging, say=say)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: OutOption,
    format: Annotated[str, typer.Option(help="reference: the pickles of the published code.")] = "reference",
    prefix: Annotated[str | None, typer.Option(help="Part of every file name. Default: the run's name.")] = None,
) -> None:
    """A run in the files of the published code, for existing notebooks (docs/migrating.md)."""
    from rankshift.jobs.export import export as run_export

    run_export(run, out, format=format, prefix=prefix, say=say)


if __name__ == "__main__":
    main()
