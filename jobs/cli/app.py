"""The command's application object, and what several verbs share."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from rankshift.jobs.show.escapes import printable
from rankshift.screen.errors import redacted

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
BundleOption = Annotated[Path, typer.Option("--bundle", help="Folder made by `rankshift bundle`.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where to write.")]
GangOption = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Ray workers that train together; 0: this process. Default: the pool's, or GPUs, else 0."
    ),
]
LayerOption = Annotated[
    int, typer.Option("--layer", help="Hidden states to measure: 0 of the last layer, -1 of the one before, and so on.")
]


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"rankshift {version('rankshift')}")
        raise typer.Exit


@app.callback()
def command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """In-silico perturbation screens with Geneformer-type models. `rankshift VERB --help` says more of a verb."""


def say(line: str) -> None:
    """A line for the user, beside the data; keys of URLs are left out, and what would control the terminal is shown."""
    print(printable(redacted(line), keep="\n\t"), file=sys.stderr, flush=True)


def launch(workers: int | None) -> Any:
    """What runs a training: on a gang of so many workers, in this process (0), or on what there is (None)."""
    # Late, because torch must not be waited for by whoever only asks for --help.
    from rankshift.jobs.executor.registry import launcher

    return launcher(workers, say=say)
