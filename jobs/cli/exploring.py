"""The verb `explore`: a page over runs in a browser."""

from typing import Annotated

import typer

from rankshift.jobs.cli.app import app, say


@app.command()
def explore(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, each RUN or NAME=RUN.")],
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="NAME=FILE", help="Your table (.csv, .tsv, .parquet, .json), joined by gene."),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="[NAME=]FILE",
            help="Where a run's cells are drawn: an .h5ad with a UMAP, or a table of cell_id and two columns.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port on the loopback. Default: a free one.", show_default=False)] = 0,
) -> None:
    """Look at runs in a browser: genes, cells, two runs side by side, SQL (docs/explore.md)."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.verbs.explore import explore as serve

    serve(runs, tables=tables or (), maps=maps or (), port=port, say=say, began=lambda url: print(url, flush=True))
