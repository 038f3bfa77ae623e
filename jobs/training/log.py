"""What a training says of its steps, row by row: losses, rates and gradients since the last row. It writes nothing."""

import math
from collections.abc import Mapping
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from rankshift.jobs.training.step import Step
from rankshift.screen.errors import TrainingFailed


class Log:
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
        """Go on from a `state`."""
        self._loss.fill_(state["loss"])
        self._steps = state["steps"]

    def add(self, step: Step, loss: Tensor, norm: Tensor) -> None:
        """Count a step, with the mean loss of its batch and the length of its gradient before clipping."""
        self._loss += loss
        self._norm = norm
        self._steps, self._cells, self._tokens = self._steps + 1, self._cells + step.cells, self._tokens + step.tokens

    def row(self, step: int, epoch: int, rate: float) -> dict[str, float]:
        """The row of all steps since the last one. Raises TrainingFailed where the loss is no number."""
        loss, now = float(self._loss) / self._steps, monotonic()
        if not math.isfinite(loss):
            raise TrainingFailed(f"loss is {loss} at step {step}: lower the learning rate")
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
