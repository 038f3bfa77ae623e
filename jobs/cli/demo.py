"""The verb that shows all the others."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rankshift.jobs.cli.app import app, say
from rankshift.screen.errors import InputError


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to work in. Default: demo, with --study demo-study.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Ray workers that train and screen; 0: this process.")] = 2,
    max_cells: Annotated[int, typer.Option(help="Cells of 0 h to screen.")] = 30,
    input_size: Annotated[int, typer.Option(help="Genes of a cell, from the top of its rank list.")] = 512,
    epochs: Annotated[int, typer.Option(help="Times the encoder sees every cell.")] = 5,
    study: Annotated[
        bool, typer.Option("--study", help="Instead: a drawn cohort of ten donors, from counts to verdicts.")
    ] = False,
) -> None:
    """The whole way on 271 real cells that come with the package: pretrain, screen, ask, plot. Some minutes on a CPU.

    With --study: a cohort that is drawn from a known network, studied to a verdict for every gene (docs/study.md).
    """
    given = [name for name, value in (("--max-cells", max_cells != 30), ("--input-size", input_size != 512)) if value]
    if study and (given or epochs != 5):
        raise InputError(f"{(given or ['--epochs'])[0]} is of the demo with the myoblasts: leave it out of --study")
    # Read when torch is loaded: threads that wait sleep, because spinning ones take the cores of whatever else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if study:
        # Late: --help and a wrong option must not wait for what computes.
        from rankshift.jobs.cohort.planted.demo import demo_study

        demo_study(out or Path("demo-study"), workers=workers, say=say)
        return
    # Late, for the same reason.
    from rankshift.jobs.verbs.demo import demo as run_demo

    run_demo(out or Path("demo"), workers=workers, max_cells=max_cells, input_size=input_size, epochs=epochs, say=say)
