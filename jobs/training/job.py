"""What the jobs of all trainings share: where they go, where they live until then, and who runs them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankshift.screen.errors import InputError

# Runs a `train(rank, job, report)` on a gang, given the job and how many cells it will report in all; returns what rank 0
# returned.
Launch = Callable[[Callable[..., dict[str, Any]], Any, int], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """What every rank of a training is told. The paths must be the same files on all of them."""

    out: Path

    @property
    def unfinished(self) -> Path:
        """Where the training lives until the bundle is there."""
        return self.out.with_name(self.out.name + ".training")

    def check_place(self, resume: bool) -> None:
        """Refuse an `out` that is taken, and an unfinished training that is not to be resumed."""
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"{self.out} exists: give another --out")
        if self.unfinished.exists() and not resume:
            raise InputError(f"{self.unfinished} is an unfinished training: continue it with --resume, or remove it")
