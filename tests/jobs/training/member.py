"""A process that trains on the seats it is told to, one after the other: commands as JSON lines, answers likewise.

A script of its own, because a gang's members must be processes, and what a test file defines they cannot import.
"""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.pretrain import PretrainJob, train
from rankshift.jobs.training import gang
from rankshift.jobs.training.gang import Rank


class Script:
    """A report that asks for a stop, kills its process, or cuts the `cable` of its host, when it has been asked often enough;
    it is asked every step. What it is asked before the ranks have met does not count.
    """

    def __init__(
        self,
        world: int,
        stop_at: int | None = None,
        die_at: int | None = None,
        cut_at: int | None = None,
        cable: str = "",
        patience: float | None = None,
    ) -> None:
        if patience is not None:
            gang.PATIENCE = timedelta(seconds=patience)
        self.stop_at, self.die_at, self.cut_at, self.cable = stop_at, die_at, cut_at, cable
        self.world, self.asked, self.cells = world, 0, 0

    def __call__(self, n: int, note: str = "") -> None:
        self.cells += n

    def stopped(self) -> bool:
        if self.world > 1 and not dist.is_initialized():
            return False
        self.asked += 1
        if self.asked == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.asked == self.cut_at:
            subprocess.run(["ip", "link", "set", self.cable, "down"], check=True)
        return self.asked == self.stop_at


def obey(command: dict) -> dict:
    job = PretrainJob(**{k: Path(v) for k, v in command["paths"].items()}, options=Pretraining(**command["options"]))
    report = Script(command["rank"]["world"], **command["script"])
    try:
        result = train(Rank(**command["rank"]), job, report)
        losses = {name: value for name, value in result.items() if name not in ("bundle", "weights")}
        return {"losses": losses, "cells": report.cells}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


torch.set_num_threads(1)
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print is no answer
for line in sys.stdin:
    print(json.dumps(obey(json.loads(line))), file=answers, flush=True)
