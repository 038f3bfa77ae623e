"""The training loop: batches in, weights out. It knows no masks and no labels, and refuses to depend on how many train.

A step is one batch of the whole gang. Each rank computes its share of it, in as many passes as `accumulate` says; losses
and gradients are summed over passes and ranks and divided by the number of things counted in the whole batch. So neither
the size of the gang nor the passes change the numbers (beyond rounding, and which units dropout drops), and a training
that a gang of three began can be finished by one.

Plain torch, with DistributedDataParallel over `gang.group`. Measured with torch 2.13, gangs of 2 -> 1 -> 2 -> 3 formed in
living processes: accelerate 1.15 and Lightning Fabric 2.6 do train there, to the same losses. But they find the gang in
environment variables of the process, accelerate through singletons that only private methods reset (and it changes the
process's number of threads), Fabric through a patched cluster environment; both average a batch's passes and ranks as if
they counted alike. They would replace the two lines of autocast and DDP here, not the accounting, so they are not used.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rankshift.jobs.training.checkpoint import STATE, load, read_record, save
from rankshift.jobs.training.gang import Broken, Peers, Report
from rankshift.jobs.training.metrics import Metrics
from rankshift.jobs.training.recipe import Recipe, adamw
from rankshift.screen.errors import InputError

METRICS = "metrics"  # in the folder of an unfinished training
RECENT = 100  # steps that the training loss is averaged over
DROP = 3  # stream of random numbers of dropout: (seed, DROP, step, rank, pass)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One rank's work in a step. cells, tokens: of the whole batch, all ranks, padding not counted.

    passes: one batch a pass, in the form the loss takes; None where this rank has nothing to do. As many on every rank.
    """

    cells: int
    tokens: int
    passes: Sequence[Any]


class Source(Protocol):
    """Where the steps come from. What a step holds depends on the epoch and its number alone, never on what was before."""

    def steps(self) -> Sequence[int]:
        """Steps of each epoch."""

    def step(self, epoch: int, index: int) -> Step:
        """Step `index` of `epoch`, both from 0: this rank's share of it, on the device."""


Loss = Callable[[torch.nn.Module, Any], tuple[Tensor, Tensor | float]]
Judge = Callable[[], Mapping[str, float]]


def shares(rows: np.ndarray, peers: Peers, accumulate: int) -> list[np.ndarray]:
    """The rows of a batch that this rank takes in each of its passes: every (ranks x passes)-th, perhaps none.

    >>> from rankshift.jobs.training.gang import Seat
    >>> [shares(np.arange(5), Peers(Seat(rank=r, world=2, meeting="tcp://h:1")), 1)[0].tolist() for r in (0, 1)]
    [[0, 2, 4], [1, 3]]
    """
    seat = peers.seat
    return [rows[seat.rank * accumulate + i :: seat.world * accumulate] for i in range(accumulate)]


@dataclass(kw_only=True)
class Trainer:
    """A training under way.

    model: on its device; parameters that do not require a gradient stay as they are. Every other one must be part of every
    loss (freeze what is not).
    loss: `loss(model, batch) -> (sum, count)`: the loss summed over the things counted in one pass's batch, and how many
    those are (or their summed weights). Both may be 0, as long as the sum hangs on the weights.
    source: the steps. recipe: how to step. peers: the gang, from `gang.group`. report: is told of cells by rank 0 (first of
    those seen before an interruption); asked on every rank whether to stop.
    folder: where the unfinished training lives, on a path all ranks see: STATE, and METRICS with the curve (see Metrics).
    identity: plain values that say which training this is; one with another identity does not go on from it.
    judge: measures the model on held-out data, in eval mode without gradients. Called on every rank at the same steps
    (`mean_loss` and `peers.total` share the work); every rank must return the same plain values. judged: their names.
    record: plain values of the caller's that are saved with the training, and restored.

    step: steps done. cells: seen in them, by the whole gang. recent: mean loss of the last RECENT steps.
    """

    model: torch.nn.Module
    loss: Loss
    source: Source
    recipe: Recipe
    peers: Peers
    report: Report
    folder: Path
    identity: Mapping[str, Any]
    judge: Judge | None = None
    judged: Sequence[str] = ()
    record: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    cells: int = 0

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.optimizer = adamw(self.model, self.recipe)
        self.recent = torch.zeros((), device=self.device)
        self._log = _Log(self.device)
        if (self.folder / STATE).exists():
            self._load()

    def fit(self) -> Mapping[str, float]:
        """Train to the end, from the step the training is at; returns the last judgement.

        Raises KeyboardInterrupt after saving when any rank was asked to stop, on all ranks after the same step. Raises
        WorkerGone, through `gang.group`, when a rank died: the last complete step is saved then. The caller's random
        numbers stay as they were.
        """
        try:
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices), self._metrics() as write:
                return self._fit(write)
        except Exception as error:
            if not self.peers.lost(error):
                raise
        # Outside the except clause, where the error and the frames it holds are gone.
        raise Broken(self._keep_what_is_left())

    def save(self) -> None:
        """Write everything that is needed to go on."""
        state = {"step": self.step, "cells": self.cells, "loss": float(self.recent), "log": self._log.state()}
        record = {**state, "identity": self.identity, "record": self.record}
        save(self.folder, self.model, self.optimizer, record)

    def _load(self) -> None:
        check_identity(self.folder, self.identity)
        record = load(self.folder, self.model, self.optimizer)
        self.step, self.cells = record["step"], record["cells"]
        self.record.update(record["record"])
        self.recent.fill_(record["loss"])
        self._log.restore(record["log"])

    def _fit(self, write: Callable[[Mapping[str, float]], None]) -> Mapping[str, float]:
        self._agree()
        wrapped = self.peers.wrap(_Pass(self.model, self.loss))
        plan = self.source.steps()
        total, saved = sum(plan), monotonic()
        judged: Mapping[str, float] = {}
        if self.peers.first and self.cells:
            self.report(self.cells)
        self.model.train()
        for epoch, steps in enumerate(plan):
            for index in range(max(0, self.step - sum(plan[:epoch])), steps):
                step = self.source.step(epoch, index)
                rate = self.recipe.rate(self.step + 1, total)
                self._log.add(step, *self._step(wrapped, step, rate))
                due = self._judge_due(index == steps - 1)
                judged = self._judgement() if due else judged
                if due or self.step % self.recipe.log_every == 0 or self.step == total:
                    write({**self._log.row(self.step, epoch + 1, rate), **(judged if due else {})})
                if self.peers.first:
                    self.report(step.cells, self._log.note)
                    if monotonic() - saved > self.recipe.save_every:
                        self.save()
                        saved = monotonic()
                if self.peers.any(self.report.stopped()):
                    if self.peers.first:
                        self.save()
                    raise KeyboardInterrupt
        return judged or self._judgement()

    def _step(self, wrapped: torch.nn.Module, step: Step, rate: float) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; returns the mean loss of the whole batch and the length of its gradient."""
        counted = torch.zeros(2, device=self.device)  # summed loss, count
        for i, batch in enumerate(step.passes):
            torch.manual_seed(_seed(self.recipe.seed, DROP, self.step + 1, self.peers.seat.rank, i))
            last = i == len(step.passes) - 1
            unshared = nullcontext() if last or self.peers.seat.world == 1 else wrapped.no_sync()  # type: ignore[operator]
            with unshared:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.half(self.device)):
                    loss, count = wrapped(batch)
                loss.backward()
            counted += torch.stack([loss.detach().float(), torch.as_tensor(count, device=self.device).float()])
        self.peers.total(counted)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        # DDP gave the mean over ranks of the summed losses' gradients.
        torch._foreach_mul_([p.grad for p in weights if p.grad is not None], self.peers.seat.world / counted[1])
        norm = torch.nn.utils.clip_grad_norm_(weights, self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.cells += step.cells
        loss = counted[0] / counted[1]
        self.recent += (loss - self.recent) / min(self.step, RECENT)
        return loss, norm

    def _judge_due(self, epoch_ends: bool) -> bool:
        every = self.recipe.judge_every
        return self.judge is not None and (epoch_ends or (every is not None and self.step % every == 0))

    @torch.no_grad()
    def _judgement(self) -> Mapping[str, float]:
        if self.judge is None:
            return {}
        self.model.eval()
        judged = self.judge()
        self.model.train()
        return judged

    @contextmanager
    def _metrics(self) -> Iterator[Callable[[Mapping[str, float]], None]]:
        if not self.peers.first:
            yield lambda row: None
            return
        with closing(Metrics(self.folder / METRICS, self.judged, self.step)) as metrics:
            for note in metrics.notes:
                self.report(0, note)
            yield metrics.write

    def _agree(self) -> None:
        """Raise InputError unless all ranks go on after the same step."""
        least, most = self.peers.bounds(self.step)
        if least != most:
            raise InputError(f"ranks are at steps {least} to {most}: {self.folder} must be a path all workers see")

    def _keep_what_is_left(self) -> str:
        """Save the last complete step, which every rank holds, and say so; an older state never replaces a newer one."""
        if self.step == 0:
            return "before the first step was complete: start again"
        if not (self.folder / STATE).exists() or read_record(self.folder)["step"] < self.step:
            self.save()
        return f"after step {self.step}: {self.folder} keeps it, go on with --resume"


def check_identity(folder: Path, identity: Mapping[str, Any]) -> int:
    """Steps done of the unfinished training in `folder`. Raises InputError when it is another than `identity` says."""
    record = read_record(folder)
    if record["identity"] != json.loads(json.dumps(identity)):
        raise InputError(f"{folder} is a training of other cells or options: give those again, or remove it")
    return int(record["step"])


@torch.no_grad()
def mean_loss(model: torch.nn.Module, loss: Loss, passes: Iterable[Any], peers: Peers) -> float:
    """Mean loss over this rank's `passes` and everyone else's, summed in float64: what most judgements are made of."""
    device = next(model.parameters()).device
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for batch in passes:
        if batch is not None:
            total += torch.stack([torch.as_tensor(x, device=device).double() for x in loss(model, batch)])
    summed, count = peers.total(total).tolist()
    return float(summed / count)


class _Pass(torch.nn.Module):
    """What DDP wraps: a pass from batch to summed loss."""

    def __init__(self, model: torch.nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | float]:
        if batch is not None:
            return self._loss(self.model, batch)
        # Nothing to do, but the others wait for this rank's gradients.
        return torch.stack([p.sum() * 0 for p in self.model.parameters() if p.requires_grad]).sum(), 0.0


class _Log:
    """What a row of the metrics is made of. Losses stay on the device between rows, because reading one waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._began = self._since = monotonic()
        self._loss = torch.zeros((), device=device)
        self._norm = self._loss.clone()
        self._steps = self._cells = self._tokens = 0
        self.note = ""

    def state(self) -> dict[str, float]:
        """What the next row has so far, for a training that is interrupted before it is due."""
        return {"loss": float(self._loss), "steps": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._loss.fill_(state["loss"])
        self._steps = state["steps"]

    def add(self, step: Step, loss: Tensor, norm: Tensor) -> None:
        self._loss += loss
        self._norm = norm
        self._steps, self._cells, self._tokens = self._steps + 1, self._cells + step.cells, self._tokens + step.tokens

    def row(self, step: int, epoch: int, rate: float) -> dict[str, float]:
        loss, now = float(self._loss) / self._steps, monotonic()
        if not math.isfinite(loss):
            raise InputError(f"loss is {loss} at step {step}: lower the learning rate")
        took = max(now - self._since, 1e-9)
        row = {
            "step": step, "epoch": epoch, "seconds": now - self._began, "learning_rate": rate, "loss": loss,
            "gradient_norm": float(self._norm), "cells_per_second": self._cells / took,
            "tokens_per_second": self._tokens / took,
        }  # fmt: skip
        self.note = f"loss {loss:.3f}"
        self._loss.zero_()
        self._steps = self._cells = self._tokens = 0
        self._since = now
        return row


def _seed(*stream: int) -> int:
    return int(np.random.SeedSequence(stream).generate_state(1)[0])
