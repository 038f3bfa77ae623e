"""Verbs of a model: embed cells with it, train it."""

from pathlib import Path
from typing import Annotated

import typer

from rankshift.jobs.commands.app import BundleOption, LayerOption, OutOption, app, say


@app.command()
def embed(
    cells: Annotated[Path, typer.Argument(help="Token table (.parquet) or .dataset folder.")],
    bundle: BundleOption,
    out: OutOption,
    level: Annotated[
        str, typer.Option(help="cell (mean over genes), cls, gene (over the cells that have it), or auto.")
    ] = "auto",
    layer: LayerOption = -1,
    by: Annotated[
        str | None, typer.Option(help="obs column: one vector per state to a .json; of genes, rows per state.")
    ] = None,
    summary: Annotated[str, typer.Option(help="mean or median over the cells of a state, or of a gene.")] = "mean",
    genes: Annotated[str, typer.Option(help="--level gene: all, ids or symbols by commas, or a file of them.")] = "all",
    per_cell: Annotated[
        bool, typer.Option("--per-cell", help="--level gene: every gene of every cell, not aggregated.")
    ] = False,
    where: Annotated[str | None, typer.Option(help="SQL condition over the obs columns.")] = None,
    max_cells: Annotated[int | None, typer.Option(help="Sample of cells (per state with --by).")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16 for matrix products.")] = "float32",
) -> None:
    """Embed cells, genes, or states of cells (docs/embeddings.md)."""
    from rankshift.jobs.embed import embed as run_embed

    run_embed(
        cells, bundle, out, level=level, layer=layer, by=by, summary=summary, genes=genes, per_cell=per_cell, where=where,
        max_cells=max_cells, dtype=dtype, say=say,
    )  # fmt: skip


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
    from rankshift.jobs.pretrain import pretrain as run_pretrain
    from rankshift.jobs.pretraining.options import Pretraining

    given = {
        "layers": layers, "width": width, "heads": heads, "inner": inner, "input_size": input_size, "epochs": epochs,
        "batch_tokens": batch_tokens, "learning_rate": learning_rate, "warmup": warmup, "weight_decay": weight_decay,
        "dropout": dropout, "hidden_share": hidden_share, "initializer": initializer, "held_out": held_out, "dtype": dtype,
        "seed": seed,
    }  # fmt: skip
    options = Pretraining(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    run_pretrain(cells, vocabulary, out, options, resume=resume, say=say)
