"""A worker as an actor of Ray, with one GPU or a share of the CPUs: what a `Worker` does, and only what is Ray's beside it.

Calls of the control group are answered while another one computes.
"""

import os
import socket
from typing import TYPE_CHECKING, Any

import ray

from rankshift.jobs.pool.worker import Job, Worker

if TYPE_CHECKING:
    from rankshift.jobs.training.gang import Rank

FETCH = 60.0  # seconds that published weights may take to arrive, before the disk is read instead


class WorkerActor(Worker):
    """A worker in a process of its own. References to the weights it has published live as long as it does."""

    def __init__(self, name: str, threads: int | None) -> None:
        super().__init__(name, threads)
        self._published: dict[str, list[ray.ObjectRef]] = {}

    # ---- control

    @ray.method(concurrency_group="control")
    def fence(self, epoch: int, holder: tuple[str, int, bool] | None) -> None:
        """See `Worker.fence`."""
        super().fence(epoch, holder)

    @ray.method(concurrency_group="control")
    def hold(self, epoch: int, turn: int) -> None:
        """See `Worker.hold`."""
        super().hold(epoch, turn)

    @ray.method(concurrency_group="control")
    def stop(self, epoch: int) -> None:
        """See `Worker.stop`."""
        super().stop(epoch)

    @ray.method(concurrency_group="control")
    def progress(self) -> tuple[int, str]:
        """See `Worker.progress`."""
        return super().progress()

    @ray.method(concurrency_group="control")
    def rendezvous(self) -> tuple[str, int]:
        """The node's address, and a port on it that is free now: where the ranks of a training can meet."""
        with socket.socket() as probe:
            probe.bind((ray.util.get_node_ip_address(), 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    @ray.method(concurrency_group="control")
    def status(self) -> dict[str, Any]:
        """See `Worker.status`; besides, its node, where Ray's process listens there, and what it has published."""
        node, port = ray.util.get_node_ip_address(), ray._private.worker._global_node.node_manager_port
        return {**super().status(), "node": node, "host": (node, port), "published": dict(self._published)}

    # ---- compute

    def open_job(self, epoch: int, key: str, job: Job, weights: list) -> None:
        """`Worker.open`. weights: [reference to those of the job in the object store], or []."""

        def fetch(sha256: str) -> Any:
            try:
                return ray.get(weights[0], timeout=FETCH) if weights else None
            except ray.exceptions.RayError:
                return None  # the worker that put them there is gone: the disk has them too

        self.open(epoch, key, job, fetch)

    def train(self, epoch: int, rank: "Rank", function: str, job: Any) -> dict:
        """See `Worker.train`. Ranks that meet on this node speak over its loopback."""
        if rank.rendezvous is not None and "127.0.0.1" in rank.rendezvous:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        return super().train(epoch, rank, function, job)

    def publish(self, epoch: int, sha256: str) -> list:
        """Put weights that are kept here into the object store, for workers that were not in the gang: [reference]."""
        self._enter(epoch)
        self._published = {sha256: [ray.put(self.models.trained(sha256))]}
        return self._published[sha256]
