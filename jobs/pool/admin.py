"""`rankshift pool`: start the pool, show it, end it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankshift.jobs.pool.cluster import (
    TTL,
    address,
    cluster_size,
    connected,
    end_pool,
    make_pool,
    pool_size,
    running_pool,
    start_head,
)
from rankshift.jobs.pool.code_version import code_version
from rankshift.jobs.pool.connection import POOL, answered
from rankshift.jobs.show.escapes import printable
from rankshift.screen.errors import InputError

WIDE = 200  # columns where the output is no terminal, so that a worker is a line

Say = Callable[[str], None]


def start_pool(workers: int | None, ttl: float | None, *, say: Say = print) -> None:
    """Start the pool on the cluster there is, or start one on this machine. A pool that runs already stays as it is."""
    if ttl is not None and ttl < 1:
        raise InputError(f"a time to live of {ttl} s is shorter than a pause of the network: give 1 or more")
    if address() is None and not ray.is_initialized():
        start_head()
        say("a Ray cluster was started on this machine; `ray stop` ends it")
    with connected(1):
        pool = running_pool()
        if pool is not None:
            say(f"a pool of {pool_size(pool)} workers runs already")
            return
        pool = make_pool(POOL, workers or cluster_size(), ttl or TTL)
        say(f"a pool of {pool_size(pool)} workers; every command on this cluster uses it (rankshift pool status)")


@contextmanager
def _pool() -> Iterator[Any]:
    """The running pool of the cluster there is."""
    if address() is None and not ray.is_initialized():
        raise InputError("no Ray cluster runs on this machine: rankshift pool start, or set RAY_ADDRESS")
    with connected(1):
        pool = running_pool()
        if pool is None:
            raise InputError("no pool runs on this cluster: rankshift pool start")
        yield pool


def stop_pool(*, say: Say = print) -> None:
    """End the pool and its workers."""
    with _pool() as pool:
        end_pool(pool)
    say("the pool is gone; what was committed stays")


def show_pool() -> None:
    """Print workers and leases as tables."""
    with _pool() as pool:
        state = answered(pool.state.remote(), "the pool")
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    same = "this code" if state["code"] == code_version() else f"other code ({state['code'][:12]}): restart it"
    console.print(f"{len(state['workers'])} workers, {same}; a silent driver keeps its workers {state['ttl']:.0f} s")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("worker", "node", "device", "state", "lease", "warm models"):
        table.add_column(column)
    for name, worker in state["workers"].items():
        models = " ".join(sha[:8] for sha in worker.get("models", ()))
        what = worker["fault"] or (worker["state"] if "process" in worker else "does not answer")
        row = (name, worker.get("node", "?"), worker.get("device", "?"), what, worker["holder"] or "", models)
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console.print(table)
    for name, lease in state["leases"].items():
        kind = "gang" if lease["gang"] else "screen"
        console.print(Text(printable(f"{name}: {kind}, holds {len(lease['held'])} of {lease['want']}")))
