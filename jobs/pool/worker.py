"""A worker: one GPU, or a share of the CPUs, that keeps models warm and computes for whoever holds it by a lease.

Every call that computes carries the epoch of its lease; one of an older epoch is refused, and one that is running when
the worker changes hands stops at its next sign of progress. Calls of the control group are answered meanwhile.
"""

import os
import socket
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    import numpy as np

    from rankshift.jobs.training.gang import Seat
    from rankshift.screen.bundle.bundle import Bundle
    from rankshift.screen.cells.cells import Cells
    from rankshift.screen.engine.screener import Screener


class StaleLease(Exception):
    """A call of a lease that no longer holds the worker. What it wanted is for the present holder to do."""


class Worker:
    """Shards of a run, or a seat in a training. It knows neither pool nor driver."""

    def __init__(self, name: str, threads: int | None) -> None:
        import torch

        from rankshift.jobs.pool.model_cache import Warm

        if threads is not None:
            torch.set_num_threads(threads)
        self._name, self._device = name, "cuda" if torch.cuda.is_available() else "cpu"
        self._warm = Warm()
        self._published: dict[str, list[ray.ObjectRef]] = {}
        self._run: tuple[str, Screener, Bundle] | None = None
        self._trained: dict | None = None
        self._epoch, self._stopping = 0, 0
        self._holder: tuple[str, int, bool] | None = None
        self._lock = threading.Lock()
        self._steps, self._note = 0, ""

    # ---- control: answered at any time

    @ray.method(concurrency_group="control")
    def fence(self, epoch: int, holder: tuple[str, int, bool] | None) -> None:
        """The worker changed hands: calls below this epoch end. holder: lease, its number of workers, is it a gang."""
        if epoch >= self._epoch:
            self._epoch, self._holder = epoch, holder

    @ray.method(concurrency_group="control")
    def stop(self, epoch: int) -> None:
        """Ask the training of this epoch to save itself and stop."""
        self._stopping = max(self._stopping, epoch)

    @ray.method(concurrency_group="control")
    def told(self) -> tuple[int, str]:
        """Steps since the run was opened or the training began, and the last word beside them. A lost answer loses nothing."""
        with self._lock:
            return self._steps, self._note

    @ray.method(concurrency_group="control")
    def place(self) -> tuple[str, int]:
        """The node's address, and a port on it that is free now: where a gang can meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    @ray.method(concurrency_group="control")
    def status(self) -> dict[str, Any]:
        """What it is, who holds it, and what it keeps: process, node, device, epoch, holder, models, loads, published."""
        return {
            "process": os.getpid(),
            "node": ray.util.get_node_ip_address(),
            "device": self._device,
            "epoch": self._epoch,
            "holder": self._holder,
            "models": self._warm.models,
            "loads": list(self._warm.loads),
            "published": dict(self._published),
        }

    # ---- compute: one call at a time

    def drain(self, epoch: int) -> dict[str, Any]:
        """Answered when everything before it has ended."""
        self._enter(epoch)
        return self.status()

    def ready(self, epoch: int, run: str, bundle: str, weights: list) -> str:
        """Open a run and make its encoder warm. weights: [reference to them in the object store], or [].

        Returns where the encoder came from: warm, memory, peer or disk.
        """
        from rankshift.screen.engine.screener import Screener

        self._enter(epoch)
        opened = self._bundle(bundle)
        screener = Screener.open(run, opened)
        opened.check(screener.run.manifest["bundle"]["weights_sha256"])
        self._run, self._steps = (run, screener, opened), 0
        loads = len(self._warm.loads)
        self._warm.encoder(opened, screener.run.manifest["dtype"], _fetcher(weights))
        return self._warm.loads[-1][2] if len(self._warm.loads) > loads else "warm"

    def compute(self, epoch: int, run: str, index: int) -> int:
        """Compute and commit a shard of the run that `ready` opened; returns its rows."""
        self._enter(epoch)
        screener, bundle = self._opened(run)
        encoder = self._warm.encoder(bundle, screener.run.manifest["dtype"])
        return screener.compute(screener.shards[index], encoder, self._counter(epoch))

    def noise_floor(self, epoch: int, run: str) -> dict:
        """The noise floor of the finished run, measured where the device is."""
        self._enter(epoch)
        screener, bundle = self._opened(run)
        return screener.noise_floor(bundle)

    def warm_up(self, epoch: int, bundle: str, dtype: str) -> None:
        """Make the encoder of a bundle warm."""
        self._enter(epoch)
        self._steps = 0
        self._warm.encoder(self._bundle(bundle), dtype)

    def embed(self, epoch: int, bundle: str, dtype: str, cells: "Cells", level: str, layer_count: int) -> "np.ndarray":
        """Embeddings of cells (`originals.embed`)."""
        from rankshift.screen.embed.cell_embeddings import embed
        from rankshift.screen.engine.prepare import TOKEN_BUDGET

        self._enter(epoch)
        encoder = self._warm.encoder(self._bundle(bundle), dtype)
        tokens, done = TOKEN_BUDGET[self._device], self._counter(epoch)
        return embed(cells, encoder, level=level, layer_count=layer_count, tokens=tokens, done=done)

    def train(self, epoch: int, seat: "Seat", function: str, job: Any) -> dict:
        """Take a seat in a training, `module:function` called as function(seat, job, report); returns its result.

        The result's "weights", {name: tensor}, stay here for `keep`. A training that was stopped returns {"stopped": True}:
        Ray would take the KeyboardInterrupt for a cancelled call.
        """
        self._enter(epoch)
        self._warm.drop_encoders()
        self._steps, self._note = 0, ""
        if seat.meeting is not None and "127.0.0.1" in seat.meeting:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        module, name = function.split(":")
        try:
            result = dict(getattr(import_module(module), name)(seat, job, _Report(self, epoch)))
        except KeyboardInterrupt:
            return {"stopped": True}
        self._trained = result.pop("weights", None)
        return result

    def keep(self, epoch: int, bundle: str, publish: bool) -> list:
        """Keep the weights of the training just done as those of the bundle it wrote.

        With `publish` they are put into the object store too, for workers that were not in the gang: [sha256, [reference]].
        """
        self._enter(epoch)
        if self._trained is None:
            return []
        sha256 = self._bundle(bundle).weights_sha256
        self._warm.keep(sha256, self._trained)
        self._trained = None
        if not publish:
            return []
        self._published = {sha256: [ray.put(self._warm.trained(sha256))]}
        return [sha256, self._published[sha256]]

    # ---- inside

    def _enter(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise StaleLease(f"{self._name} was lent again: epoch {epoch} is over, {self._epoch} is now")
        self._epoch = epoch

    def _bundle(self, place: str) -> "Bundle":
        from rankshift.screen.bundle.bundle import Bundle
        from rankshift.screen.files.object_store import fetched

        return Bundle.open(fetched(place))

    def _opened(self, run: str) -> "tuple[Screener, Bundle]":
        if self._run is None or self._run[0] != run:
            raise StaleLease(f"{self._name} does not have {run} open: it was restarted")
        return self._run[1:]

    def _counter(self, epoch: int) -> Callable[[int], None]:
        def count(steps: int) -> None:
            if self._epoch > epoch:
                raise StaleLease(f"{self._name} was lent to another")
            self._told(steps, "")

        return count

    def _told(self, steps: int, note: str) -> None:
        with self._lock:
            self._steps += steps
            self._note = note or self._note


class _Report:
    """A training's line to its driver, kept by the worker until the driver asks."""

    def __init__(self, worker: Worker, epoch: int) -> None:
        self._worker, self._epoch = worker, epoch

    def __call__(self, n: int, note: str = "") -> None:
        self._worker._told(n, note)

    def stopped(self) -> bool:
        return self._worker._epoch > self._epoch or self._worker._stopping >= self._epoch


def _fetcher(weights: list) -> Callable[[str], Any]:
    def fetch(sha256: str) -> Any:
        try:
            return ray.get(weights[0], timeout=60) if weights else None
        except ray.exceptions.RayError:
            return None  # the worker that put them there is gone: the disk has them too

    return fetch
