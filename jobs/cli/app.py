"""The command's application object, and what several verbs share."""

import sys
import tomllib
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from rankshift.jobs.show.escapes import printable
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.text_file import read_text

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
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Ray workers; 0: in this process. Default: the GPUs or cluster there are, else 0."),
]
LayerOption = Annotated[
    int, typer.Option("--layer", help="Hidden states to measure: 0 of the last layer, -1 of the one before, and so on.")
]


def _configured(context: typer.Context, file: Path | None) -> Path | None:
    """Take what a configuration file gives for the options that the command line leaves out."""
    if file is None:
        return None
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name is not None}
    values: dict[str, Any] = {}
    for key, value in read_config(file).items():
        name = key.replace("-", "_")
        if name not in known or name in ("config", "help"):
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0].replace('_', '-')}?" if near else "see --help for the options"
            raise InputError(f"{file}: {key} is no option of {context.command.name}: {fix}")
        several = known[name].nargs == -1 or known[name].multiple
        values[name] = value if several or not isinstance(value, list) else ",".join(map(str, value))
        if several and not isinstance(value, list):
            values[name] = [value]
    context.default_map = {**(context.default_map or {}), **values}
    return file


def read_config(file: Path) -> dict[str, Any]:
    """What a .toml of options says: {option: value}; raises InputError where it cannot be read or holds tables."""
    try:
        found = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"--config {file} is no TOML ({first_line(error)}): write lines like max-cells = 100"
        ) from error
    for key, value in found.items():
        if isinstance(value, dict):
            raise InputError(f"{file}: [{key}] is a table, options are lines of their own: take the heading out")
    return found


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_configured,
        is_eager=True,
        help="A .toml of these options, as every run keeps its own in screen.toml; what is given here as well counts.",
    ),
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
