"""A gang: processes that train one model together, each on its seat.

A training is a function `train(seat, job, report)` with a picklable `job`; it runs alone in this process, or once on every
worker of a gang lease. The torch.distributed group lives only as long as the training: the processes live on, warm.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist

from rankshift.screen.errors import InputError

PATIENCE = timedelta(minutes=5)  # a collective that takes longer fails: someone is gone


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """One of `world` places in a training. meeting: tcp://host:port where rank 0 waits; a gang of one needs none."""

    rank: int = 0
    world: int = 1
    meeting: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise InputError(f"rank {self.rank} of {self.world} is no seat: ranks run from 0 to {self.world - 1}")
        if self.world > 1 and self.meeting is None:
            raise InputError(f"{self.world} processes need a meeting point: give tcp://host:port")


class Report(Protocol):
    """How a training talks to whoever waits for it, and hears that it should stop."""

    def __call__(self, n: int, note: str = "") -> None:
        """Count n steps of progress, with a word to show beside them."""

    def stopped(self) -> bool:
        """Should the training save itself and stop (raise KeyboardInterrupt) after this step?"""


@contextmanager
def group(seat: Seat, device: torch.device) -> Iterator[None]:
    """The process group of a training, NCCL on GPUs and gloo on CPUs; nothing for a gang of one.

    Models wrapped for it must be gone when the block ends: a reducer that outlives its group hangs the process.
    """
    if seat.world == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=seat.meeting, rank=seat.rank, world_size=seat.world, timeout=PATIENCE)
    try:
        yield
    finally:
        gc.collect()
        dist.destroy_process_group()
