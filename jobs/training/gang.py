"""A gang: processes that train one model together, each of them a rank.

A training is a function `train(rank, job, report)` with a picklable `job`; it runs alone in this process, or once on every
worker of a gang lease. The torch.distributed group lives only as long as the training: the processes live on, warm.
"""

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rankshift.jobs.training.keepalive import open_sockets, watch_hosts
from rankshift.jobs.training.rendezvous import Rendezvous
from rankshift.screen.errors import InputError, Interrupted

PATIENCE = timedelta(
    minutes=5
)  # a collective that takes longer fails; a host that is gone is noticed before (keepalive)
LIVENESS = 5.0  # seconds that those who are left wait for each other, to learn who is gone


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """One of the `world` processes of a training. rendezvous: tcp://host:port where rank 0 waits; a gang of one needs none."""

    number: int = 0
    world: int = 1
    rendezvous: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.world:
            raise InputError(f"there is no rank {self.number} of {self.world}: ranks run from 0 to {self.world - 1}")
        if self.world > 1 and self.rendezvous is None:
            raise InputError(f"{self.world} processes need a meeting point: give tcp://host:port")


class Report(Protocol):
    """How a training talks to whoever waits for it, and hears that it should stop."""

    def __call__(self, n: int, note: str = "") -> None:
        """Count n steps of progress, with a word to show beside them."""

    def stopped(self) -> bool:
        """Should the training save itself and stop (raise Stopped) after this step?"""


class WorkerGone(Interrupted):
    """A worker of the gang died; the message says which, and what is left of the training."""


class Broken(Exception):
    """A collective failed because a peer is gone. `left` says what is left; `group` turns it into WorkerGone."""

    def __init__(self, left: str) -> None:
        super().__init__(left)
        self.left = left


class Collective:
    """The gang as one of its ranks sees it. Every method but `lost` is to be called by all ranks, in the same order."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank

    @property
    def first(self) -> bool:
        """Is this rank 0, the one that writes and reports?"""
        return self.rank.number == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the ranks, in place."""
        if self.rank.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Does any rank say yes? Answered over the network of the hosts, so a GPU is not waited for."""
        if self.rank.world == 1:
            return flag
        return bool(self.total(torch.tensor(int(flag))))

    def bounds(self, value: int) -> tuple[int, int]:
        """The least and the greatest of the ranks' values."""
        pair = torch.tensor([-value, value])
        if self.rank.world > 1:
            dist.all_reduce(pair, dist.ReduceOp.MAX)
        return -int(pair[0]), int(pair[1])

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module with gradients averaged over the ranks in the backward pass; rank 0's weights are everybody's."""
        if self.rank.world == 1:
            return module
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def lost(self, error: BaseException) -> bool:
        """Is this error that of a collective whose peer is gone? gloo raises plain RuntimeErrors that name itself."""
        return self.rank.world > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


@contextmanager
def group(rank: Rank, device: torch.device, stopped: Callable[[], bool] = lambda: False) -> Iterator[Collective]:
    """The process group of a training, NCCL on GPUs and gloo on CPUs; nothing for a gang of one.

    Models wrapped for it must be gone when the block ends: a reducer that outlives its group hangs the process. When the
    block raises Broken, those who are left check who lives and raise WorkerGone, which names the ranks that do not answer.
    stopped: asked until all ranks have met; Stopped is raised on all of them where one is told to stop before.
    """
    if rank.world == 1:
        yield Collective(rank)
        return
    before = open_sockets()
    rendezvous = Rendezvous(str(rank.rendezvous), rank.number, rank.world, PATIENCE, stopped)
    store = rendezvous.store
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("group", store),
        rank=rank.number,
        world_size=rank.world,
        timeout=PATIENCE,
    )
    watch_hosts(before)
    if device.type != "cuda":  # NCCL may come back to the store when it likes
        rendezvous.close_door()
    left = None
    try:
        yield Collective(rank)
    except Broken as error:
        left = error.left
        traceback.clear_frames(error.__traceback__)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # the frames of the failed call still hold the wrapped model
        raise
    finally:
        gc.collect()
        dist.destroy_process_group()
    if left is not None:
        ranks = _missing(store, rank)
        who = (
            f"worker of rank {ranks[0]} is" if len(ranks) == 1 else f"workers of ranks {', '.join(map(str, ranks))} are"
        )
        raise WorkerGone(f"{who if ranks else 'a worker is'} gone {left}")


def _missing(store: dist.TCPStore, rank: Rank) -> list[int]:
    """Ranks that do not answer a liveness check. Rank 0 keeps the list; when it is silent, it is the one that is gone."""
    waiting = {other for other in range(rank.world) if other != rank.number}
    if rank.world == 2:
        return list(waiting)
    until = monotonic() + LIVENESS
    try:
        store.set(f"here/{rank.number}", "")
        while waiting and monotonic() < until:
            waiting = {other for other in waiting if not store.check([f"here/{other}"])}
            sleep(0.05)
    except dist.DistError:
        return [0] if 0 in waiting else sorted(waiting)
    return sorted(waiting)
