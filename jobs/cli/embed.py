"""The verb `embed`: what a model makes of cells, genes, states and pairs of genes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rankshift.jobs.cli.app import BundleOption, OutOption, app, say
from rankshift.screen.errors import InputError


@app.command()
def embed(
    cells: Annotated[Path, typer.Argument(help="Token table (.parquet) or .dataset folder.")],
    bundle: BundleOption,
    out: OutOption,
    level: Annotated[
        str, typer.Option(help="cell (mean over genes), cls, gene (over the cells that have it), attention, or auto.")
    ] = "auto",
    layer: Annotated[
        str, typer.Option(help="0 the last layer, -1 the one before, and so on; --level attention: or all.")
    ] = "-1",
    by: Annotated[
        str | None, typer.Option(help="obs column: one vector per state to a .json; of genes, rows per state.")
    ] = None,
    summary: Annotated[
        str | None, typer.Option(help="mean (the default) or median over the cells of a state, or of a gene.")
    ] = None,
    genes: Annotated[
        str, typer.Option(help="--level gene, attention: all, ids or symbols by commas, or a file of them.")
    ] = "all",
    per_cell: Annotated[
        bool, typer.Option("--per-cell", help="--level gene: every gene of every cell, not aggregated.")
    ] = False,
    per_head: Annotated[bool, typer.Option("--per-head", help="--level attention: each head, too.")] = False,
    normalise: Annotated[
        str | None, typer.Option(help="--level attention: none, or length: times length over the model's limit.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="--level attention: edges of a source gene at most. Default: 20.")
    ] = None,
    overall: Annotated[bool, typer.Option("--overall", help="--level attention: --top counts them all.")] = False,
    rank_by: Annotated[
        str | None, typer.Option(help="--level attention: mean, max, mean_both or max_both decides --top.")
    ] = None,
    min_cells: Annotated[
        int | None, typer.Option(help="--level attention: cells that share a pair. Default: 10.")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="--level attention: GiB of sums at most. Default: 4.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a map of the rows to a .png, .pdf or .svg.")] = None,
    heat_map: Annotated[Path | None, typer.Option(help="Draw a clustered heat map of the rows, likewise.")] = None,
    color: Annotated[str | None, typer.Option(help="Column that colours the pictures.")] = None,
    projection: Annotated[str, typer.Option(help="Of --plot: umap (needs rankshift[plots]) or pca.")] = "umap",
    where: Annotated[str | None, typer.Option(help="SQL condition over the obs columns.")] = None,
    max_cells: Annotated[int | None, typer.Option(help="Sample of cells (per state with --by).")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16 for matrix products.")] = "float32",
    workers: Annotated[
        int | None,
        typer.Option(help="Ray workers that embed cells; 0: this process. Default: the pool's, or GPUs, else 0."),
    ] = None,
) -> None:
    """Embed cells, genes or states of cells, or add up attention between genes (docs/embeddings.md)."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.show.pictures import Pictures
    from rankshift.jobs.verbs.attention import embed_attention
    from rankshift.jobs.verbs.embed import embed as run_embed
    from rankshift.screen.embed.attention import Choice

    common: dict[str, Any] = {
        "layer": _layer(layer), "genes": genes, "where": where, "max_cells": max_cells, "dtype": dtype, "say": say,
    }  # fmt: skip
    vectors = _given(by=by, per_cell=per_cell or None, summary=summary)
    drawing = _given(plot=plot, heat_map=heat_map, color=color)
    network = _given(per_head=per_head or None, normalise=normalise, memory=memory)
    choice = _given(min_cells=min_cells, top=top, overall=overall or None, rank_by=rank_by)
    misplaced = vectors | drawing if level == "attention" else network | choice
    if misplaced:
        name = next(iter(misplaced)).replace("_", "-")
        raise InputError(f"--{name} does not go with --level {level}: leave it out, or give another level")
    if level == "attention":
        embed_attention(cells, bundle, out, choice=Choice(**choice), **network, **common)
    else:
        pictures = Pictures(map=plot, heat_map=heat_map, color=color, projection=projection)
        run_embed(cells, bundle, out, level=level, pictures=pictures, workers=workers, **vectors, **common)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _layer(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"--layer {text!r} is no whole number: give 0 for the last layer, -1 for the one before"
        ) from None
