"""The verb that shows all the others."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rankshift.jobs.cli.app import app, say


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to work in.")] = Path("demo"),
    workers: Annotated[int, typer.Option(help="Ray workers that train and screen; 0: this process.")] = 2,
    max_cells: Annotated[int, typer.Option(help="Cells of 0 h to screen.")] = 30,
    input_size: Annotated[int, typer.Option(help="Genes of a cell, from the top of its rank list.")] = 512,
    epochs: Annotated[int, typer.Option(help="Times the encoder sees every cell.")] = 5,
) -> None:
    """The whole way on 271 real cells that come with the package: pretrain, screen, ask, plot. Some minutes on a CPU."""
    # Read when torch is loaded: threads that wait sleep, because spinning ones take the cores of whatever else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.verbs.demo import demo as run_demo

    run_demo(out, workers=workers, max_cells=max_cells, input_size=input_size, epochs=epochs, say=say)
