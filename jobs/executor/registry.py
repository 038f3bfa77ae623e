"""The executors there are, and the one place that chooses between them.

A new one is a file with a subclass of `Executor`, and a line in EXECUTORS.
"""

import os
from importlib import import_module
from typing import Any

from rankshift.jobs.executor.executor import Executor, Say, Train
from rankshift.jobs.pool.cluster import default_workers
from rankshift.jobs.training.job import Launch
from rankshift.screen.errors import InputError
from rankshift.screen.extras import need

# By name: module and class. They are imported when chosen, because Ray takes a second to import and may be left out.
EXECUTORS = {
    "local": "rankshift.jobs.executor.local:Local",
    "ray": "rankshift.jobs.executor.ray:OnRay",
}
CHOICE = (
    "RANKSHIFT_EXECUTOR"  # environment variable: which executor computes where workers are asked for, by default ray
)


def executor(workers: int | None, *, what: str = "", say: Say = lambda line: None, name: str | None = None) -> Executor:
    """The executor of a command. workers: 0 for this process; None for what there is: a pool, a cluster, GPUs, else 0.

    name: one of EXECUTORS; by default this process where there are no workers, else what CHOICE says, else Ray.
    """
    if workers is None:
        workers = default_workers()
    if workers < 0:
        raise InputError(f"{workers} workers were asked for: ask for 1 or more, or 0 for this process")
    name = name or ("local" if workers == 0 else os.environ.get(CHOICE, "ray"))
    if name not in EXECUTORS:
        raise InputError(f"executor {name!r} is unknown ({CHOICE}): use one of {', '.join(EXECUTORS)}")
    if name == "ray":
        need("cluster", f"--workers {workers}")
    module, kind = EXECUTORS[name].split(":")
    chosen: type[Executor] = getattr(import_module(module), kind)
    return chosen(workers, what=what, say=say)


def launcher(workers: int | None, *, say: Say = lambda line: None) -> Launch | None:
    """What runs one training after the other, each by an executor of its own that ends with it.

    None where there are no workers: then a verb trains in its own process, with what it has read already.
    """
    count = default_workers() if workers is None else workers
    if count == 0:
        return None

    def launch(train: Train, job: Any, total: int) -> dict[str, Any]:
        with executor(count, say=say) as there:
            return there.train(train, job, total)

    return launch
