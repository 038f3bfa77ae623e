"""A worker: one GPU, or a share of the CPU, that keeps the encoder warm and computes shards of a run."""

import os
import threading
from pathlib import Path

import ray


class Worker:
    """Computes shards of one run. Calls of the control group are answered while a shard is being computed."""

    def __init__(self, run: str, bundle: str, threads: int | None) -> None:
        import torch

        from rankshift.screen.bundle import Bundle
        from rankshift.screen.screening import Screener, load_encoder

        if threads is not None:
            torch.set_num_threads(threads)
        self._bundle = Bundle.open(Path(bundle))
        self._screener = Screener.open(Path(run), self._bundle)
        self._encoder = load_encoder(self._screener.run, self._bundle)
        self._rows = 0
        self._lock = threading.Lock()

    def compute(self, index: int) -> int:
        """Compute and commit the shard `index`; returns its rows."""
        return self._screener.compute(self._screener.shards[index], self._encoder, self._count)

    def noise_floor(self) -> dict:
        """The noise floor of the finished run, measured where the encoder is."""
        return self._screener.noise_floor(self._bundle)

    def _count(self, rows: int) -> None:
        with self._lock:
            self._rows += rows

    @ray.method(concurrency_group="control")
    def rows(self) -> int:
        """Rows computed since the last call."""
        with self._lock:
            rows, self._rows = self._rows, 0
        return rows

    @ray.method(concurrency_group="control")
    def process(self) -> int:
        """Its process id, as a sign of life."""
        return os.getpid()


def start(count: int, run: Path, bundle: Path) -> list["ray.actor.ActorHandle"]:
    """Start `count` workers on the cluster: a GPU each where it has any, else an equal share of the CPUs.

    They restart when they crash; a call that was running then fails, and the commit on disk tells whether it was done.
    """
    resources = ray.cluster_resources()
    gpus, cpus = resources.get("GPU", 0), resources.get("CPU", 1)
    share = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": cpus / count if count > cpus else cpus // count}
    threads = None if gpus else max(1, (os.cpu_count() or 1) // count)
    actor = ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"control": 1}, **share)(Worker)
    return [actor.remote(str(run.resolve()), str(bundle.resolve()), threads) for _ in range(count)]
