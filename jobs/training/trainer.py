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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rankshift.jobs.training.checkpoint import STATE, load, read_record, save
from rankshift.jobs.training.gang import Broken, Collective, Report
from rankshift.jobs.training.log import Log
from rankshift.jobs.training.metrics import Metrics
from rankshift.jobs.training.recipe import Recipe, adamw
from rankshift.jobs.training.step import Source, Step
from rankshift.screen.errors import InputError, Stopped, TrainingFailed
from rankshift.screen.families.operators import settle
from rankshift.screen.files.atomic import sweep

METRICS = "metrics"  # lies in the folder of an unfinished training
RECENT = 100  # steps that the training loss is averaged over
DROP = 3  # stream of random numbers of dropout: (seed, DROP, step, rank, pass)


Loss = Callable[[torch.nn.Module, Any], tuple[Tensor, Tensor | float]]
Evaluate = Callable[[], Mapping[str, float]]


def rank_slices(rows: np.ndarray, collective: Collective, accumulate: int) -> list[np.ndarray]:
    """The rows of a batch that this rank takes in each of its passes: every (ranks x passes)-th, perhaps none.

    >>> from rankshift.jobs.training.gang import Rank
    >>> [rank_slices(np.arange(5), Collective(Rank(number=r, world=2, rendezvous="tcp://h:1")), 1)[0].tolist() for r in (0, 1)]
    [[0, 2, 4], [1, 3]]
    """
    rank = collective.rank
    return [rows[rank.number * accumulate + i :: rank.world * accumulate] for i in range(accumulate)]


@dataclass(kw_only=True)
class Trainer:
    """A training under way.

    model: on its device; parameters that do not require a gradient stay as they are. Every other one must be part of every
    loss (freeze what is not).
    loss: `loss(model, batch) -> (sum, count)`: the loss summed over the things counted in one pass's batch, and how many
    those are (or their summed weights). Both may be 0, as long as the sum hangs on the weights.
    source: the steps. recipe: how to step. collective: from `gang.group`. report: is told of cells by rank 0 (first of those
    seen before an interruption); asked on every rank whether to stop.
    folder: where the unfinished training lives, on a path all ranks see: STATE, and METRICS with the curve (see Metrics).
    identity: plain values that say which training this is; one with another identity does not go on from it.
    evaluate: measures the model on held-out data, in eval mode without gradients. Called on every rank at the same steps
    (`mean_loss` and `collective.total` share the work); every rank must return the same plain values. evaluated: their names.
    record: plain values of the caller's that are saved with the training, and restored.

    step: steps done. cells: seen in them, by the whole gang. recent: mean loss of the last RECENT steps.
    """

    model: torch.nn.Module
    loss: Loss
    source: Source
    recipe: Recipe
    collective: Collective
    report: Report
    folder: Path
    identity: Mapping[str, Any]
    evaluate: Evaluate | None = None
    evaluated: Sequence[str] = ()
    record: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    cells: int = 0

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        settle(self.device)  # a training's lists are as various as a screen's, forwards and backwards
        self.optimizer = adamw(self.model, self.recipe)
        self.recent = torch.zeros((), device=self.device)
        self._log = Log(self.device)
        if (self.folder / STATE).exists():
            self._load()

    def fit(self) -> Mapping[str, float]:
        """Train to the end, from the step the training is at; returns the last evaluation.

        Raises Stopped after saving when any rank was asked to stop, on all ranks after the same step. Raises
        WorkerGone, through `gang.group`, when a rank died: the last complete step is saved then. The caller's random
        numbers stay as they were.
        """
        try:
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices), self._metrics() as write:
                return self._fit(write)
        except (Stopped, TrainingFailed):
            raise
        except Exception as error:
            if not self.collective.lost(error):
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
        try:
            self.step, self.cells = int(record["step"]), int(record["cells"])
            self.record.update(record["record"])
            self.recent.fill_(record["loss"])
            self._log.restore(record["log"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"the record of {self.folder / STATE} is damaged ({error!r}): remove the folder and train again"
            ) from error

    def _fit(self, write: Callable[[Mapping[str, float]], None]) -> Mapping[str, float]:
        self._agree()
        wrapped = self.collective.wrap(_Pass(self.model, self.loss))
        plan = self.source.steps()
        total, saved = sum(plan), monotonic()
        found: Mapping[str, float] = {}
        if self.collective.first and self.cells:
            self.report(self.cells)
        self.model.train()
        for epoch, steps in enumerate(plan):
            for index in range(max(0, self.step - sum(plan[:epoch])), steps):
                step = self.source.step(epoch, index)
                rate = self.recipe.rate(self.step + 1, total)
                self._log.add(step, *self._step(wrapped, step, rate))
                due = self._evaluation_due(index == steps - 1)
                found = self._evaluation() if due else found
                if due or self.step % self.recipe.log_every == 0 or self.step == total:
                    write({**self._log.row(self.step, epoch + 1, rate), **(found if due else {})})
                if self.collective.first:
                    self.report(step.cells, self._log.note)
                    if monotonic() - saved > self.recipe.save_every:
                        self.save()
                        saved = monotonic()
                if self.collective.any(self.report.stopped()):
                    if self.collective.first:
                        self.save()
                    raise Stopped(f"stopped after step {self.step}: {self.folder} keeps it, go on with --resume")
        return found or self._evaluation()

    def _step(self, wrapped: torch.nn.Module, step: Step, rate: float) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; returns the mean loss of the whole batch and the length of its gradient."""
        counted = torch.zeros(2, device=self.device)  # summed loss, count
        for i, batch in enumerate(step.passes):
            torch.manual_seed(_seed(self.recipe.seed, DROP, self.step + 1, self.collective.rank.number, i))
            last = i == len(step.passes) - 1
            unshared = nullcontext() if last or self.collective.rank.world == 1 else wrapped.no_sync()  # type: ignore[operator]
            with unshared:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.half(self.device)):
                    loss, count = wrapped(batch)
                loss.backward()
            counted += torch.stack([loss.detach().float(), torch.as_tensor(count, device=self.device).float()])
        self.collective.total(counted)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        # DDP gave the mean over ranks of the summed losses' gradients.
        torch._foreach_mul_([p.grad for p in weights if p.grad is not None], self.collective.rank.world / counted[1])
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

    def _evaluation_due(self, epoch_ends: bool) -> bool:
        every = self.recipe.judge_every
        return self.evaluate is not None and (epoch_ends or (every is not None and self.step % every == 0))

    @torch.no_grad()
    def _evaluation(self) -> Mapping[str, float]:
        if self.evaluate is None:
            return {}
        self.model.eval()
        found = self.evaluate()
        self.model.train()
        return found

    @contextmanager
    def _metrics(self) -> Iterator[Callable[[Mapping[str, float]], None]]:
        if not self.collective.first:
            yield lambda row: None
            return
        sweep(self.folder)  # what a process that died had begun
        with closing(Metrics(self.folder / METRICS, self.evaluated, self.step)) as metrics:
            for note in metrics.notes:
                self.report(0, note)
            yield metrics.write

    def _agree(self) -> None:
        """Raise TrainingFailed unless all ranks go on after the same step."""
        least, most = self.collective.bounds(self.step)
        if least != most:
            raise TrainingFailed(f"ranks are at steps {least} to {most}: {self.folder} must be a path all workers see")

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
    if record.get("identity") != json.loads(json.dumps(identity)):
        raise InputError(f"{folder} is a training of other cells or options: give those again, or remove it")
    return int(record["step"])


@torch.no_grad()
def mean_loss(model: torch.nn.Module, loss: Loss, passes: Iterable[Any], collective: Collective) -> float:
    """Mean loss over this rank's `passes` and everyone else's, summed in float64: what most evaluations are made of."""
    device = next(model.parameters()).device
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for batch in passes:
        if batch is not None:
            total += torch.stack([torch.as_tensor(x, device=device).double() for x in loss(model, batch)])
    summed, count = collective.total(total).tolist()
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


def _seed(*stream: int) -> int:
    return int(np.random.SeedSequence(stream).generate_state(1)[0])
