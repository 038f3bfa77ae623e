"""The curve of a training, as a CSV for tables and an event file for TensorBoard. Written by rank 0 only."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing, sweep
from rankshift.screen.files.one_line import one_line

COLUMNS = (
    "step",
    "epoch",
    "seconds",
    "learning_rate",
    "loss",
    "gradient_norm",
    "cells_per_second",
    "tokens_per_second",
)
FILE = "metrics.csv"
ABSENT = 'tensorboard is not installed: the curve goes to metrics.csv only (pip install "rankshift[tensorboard]")'


class Metrics:
    """Appends rows to `folder`/metrics.csv and to a TensorBoard event file beside it.

    Columns: step (steps done), epoch (from 1), seconds (since this process began or resumed), learning_rate (of this
    step), loss (mean since the last row, per counted item), gradient_norm (before clipping, of this step),
    cells_per_second and tokens_per_second (of the whole gang since the last row, padding not counted), then `evaluated`:
    what was measured on held-out data after this step, empty where nothing was. Rows after the step `kept` are
    dropped first: a training that goes on writes them again. notes: what a user should hear.
    """

    def __init__(self, folder: Path, evaluated: Sequence[str], kept: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        self._path = folder / FILE
        self._columns = (*COLUMNS, *evaluated)
        rows = self._until(kept) if self._path.exists() else []
        with replacing(self._path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self.notes: list[str] = []
        self._board: Any = None
        try:
            # Late: it is optional.
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.notes.append(ABSENT)
        else:
            self._board = SummaryWriter(str(folder), purge_step=kept + 1)

    def _until(self, kept: int) -> list[dict[str, str]]:
        """Rows up to the step `kept`; raises InputError where the file is none of this training's."""
        try:
            rows = read(self._path)
            if any(tuple(row) != self._columns for row in rows):
                raise ValueError("its columns are not those of this training")
            return [row for row in rows if int(row["step"]) <= kept]
        except (ValueError, TypeError, csv.Error) as error:
            raise InputError(
                f"{self._path} is damaged ({one_line(error)}): remove it and go on with --resume, the curve then begins here"
            ) from error

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row; columns it does not name stay empty."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(row)
        if self._board is not None:
            for name, value in row.items():
                if name not in ("step", "seconds"):
                    self._board.add_scalar(name, value, int(row["step"]))
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            self._board.close()


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv, all values as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
