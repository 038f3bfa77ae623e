"""The verb of a model: embed cells with it."""

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
