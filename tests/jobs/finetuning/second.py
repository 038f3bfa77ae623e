"""Rank 1 of a gang of two, as a process of its own: meeting point and job on the command line, as JSON."""

import json
import sys
from pathlib import Path

import torch

from rankshift.jobs.finetuning.finetune import train
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.finetuning.preparation import FinetuneJob
from rankshift.jobs.training.gang import Rank


class Deaf:
    """A report that nobody reads and that never stops."""

    def __call__(self, n: int, note: str = "") -> None:
        pass

    def stopped(self) -> bool:
        return False


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    options = Finetuning(**{**given["options"], "label": tuple(given["options"]["label"])})
    job = FinetuneJob(**{name: Path(path) for name, path in given["paths"].items()}, options=options)
    learnt = train(Rank(number=1, world=2, rendezvous=given["rendezvous"]), job, Deaf())
    assert "tasks" not in learnt  # rank 0 judges
    assert "classifier.weight" in learnt["weights"]
