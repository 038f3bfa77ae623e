"""Verbs of the cluster: the pool of workers, and jobs sent to it."""

from pathlib import Path
from typing import Annotated

import typer

from rankshift.jobs.cli.app import app, say
from rankshift.screen.errors import InputError
from rankshift.screen.extras import need

pool = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The workers that commands share (docs/cluster.md)."
)
app.add_typer(pool, name="pool")


@pool.command()
def start(
    workers: Annotated[int | None, typer.Option(help="Default: one a GPU, else one for two CPUs.")] = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds a silent driver keeps its workers. Default: 15.")] = None,
) -> None:
    """Start the pool on the cluster at RAY_ADDRESS, or on this machine."""
    need("cluster", "a pool of workers")
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.pool.auth import first_token
    from rankshift.jobs.pool.cluster import address

    if address() is None:
        first_token()
    from rankshift.jobs.pool.admin import start_pool  # late: it imports Ray, which asks once whether there is a token

    start_pool(workers, ttl, say=say)


@pool.command()
def status() -> None:
    """Workers, leases and warm models."""
    need("cluster", "a pool of workers")
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.pool.admin import show_pool

    show_pool()


@pool.command()
def stop() -> None:
    """End the pool and its workers. What they committed stays; --resume goes on."""
    need("cluster", "a pool of workers")
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.pool.admin import stop_pool

    stop_pool(say=say)


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    command: Annotated[
        list[str] | None, typer.Argument(help="After --: a verb and its options.", metavar="-- VERB …")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of the dashboard, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS, or here.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the log until the job ends, and exit as it does.")
    ] = False,
    folder: Annotated[Path | None, typer.Option(help="Where relative paths begin. Default: this folder.")] = None,
    status: Annotated[str | None, typer.Option(metavar="ID", help="Say how a job is.")] = None,
    stop: Annotated[str | None, typer.Option(metavar="ID", help="Stop a job.")] = None,
    logs: Annotated[str | None, typer.Option(metavar="ID", help="Show the log of a job.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the jobs of the cluster.")] = False,
) -> None:
    """Run any verb as a job of the cluster (docs/cluster.md)."""
    need("cluster", "a job")
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.pool import submit as jobs

    asked = [x for x in (command, status, stop, logs, list_ or None) if x]
    if len(asked) != 1:
        raise InputError("give one of: -- VERB …, --status ID, --stop ID, --logs ID, --list")
    if command:
        _check_verb(command[0])
    client = jobs.connect(address)
    if command:
        code = jobs.submit(client, command, folder=folder, follow=follow, say=say)
    elif logs is not None:
        code = jobs.follow(client, logs, say=say)
    else:
        code = jobs.stop(client, stop, say=say) if stop is not None else jobs.show(client, status)
    raise typer.Exit(code)


def _check_verb(verb: str) -> None:
    """Refuse what no command of ours is called, before a job is sent: a cluster would keep it waiting."""
    verbs = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # of a group
    if verb not in verbs:
        raise InputError(f"{verb!r} is no verb: use one of {', '.join(verbs)}")
