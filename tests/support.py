"""What several test files need; no test of its own."""

import glob
import gzip
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankshift.screen.genes.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"  # values of the published code

# The screen of several shards that is repeated in processes, on workers and in buckets; the fixture `alone` has its rows.
SCREEN = {"perturb": "delete", "embedding": "cell", "shard_tokens": 600}
ROWS = "FROM shifts ORDER BY cell, perturbation"

DEMO = {"--max-cells": 12, "--input-size": 128, "--epochs": 1}  # of the fixture `finished`, a demo in small

STUDY: dict[str, Any] = {  # of the small cohort in tests/jobs/cohort
    "label": "state", "start": "sick", "goal": "well", "donor": "donor", "folds": 3, "cells_per_donor": 10, "epochs": 6,
    "learning_rate": 1e-2, "batch_tokens": 300, "layer": 0, "workers": 0, "say": lambda line: None,
}  # fmt: skip

PATIENCE = (
    300.0  # seconds for anything that ends by itself: a hopeless case, a busy machine starts Ray in half a minute
)

HALTS = "RANKSHIFT_TEST_HALTS"  # the variable with the folder of marks that tests/halting reads

LEVEL = {"v1": "cell", "v2": "cls"}  # the embedding that the golden values of a generation are of


def golden_cases(name: str) -> dict[str, dict[str, Any]]:
    """{generation: {case: values}} of the published code: "shifts" or "embeddings"."""
    files = {g: GOLDEN / g / f"{name}.json.gz" for g in LEVEL}
    return {g: json.loads(gzip.decompress(file.read_bytes())) for g, file in files.items()}


def labelled(folder: Path, **columns: Any) -> Path:
    """A token table of the first six golden cells with these obs columns, arrow arrays."""
    import pyarrow.parquet as pq

    held = pq.read_table(GOLDEN / "v1/cells.parquet").slice(0, 6).select(["input_ids", "length"])
    for name, values in columns.items():
        held = held.append_column(name, values)
    pq.write_table(held, folder / "cells.parquet")
    return folder / "cells.parquet"


def random_bundle(folder: Path, table: "Vocabulary", dropout: float = 0.0) -> Path:
    """folder/bundle, a masked model of two layers and 16 positions with random weights; beside it what it was made from."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from rankshift.screen.bundle.bundle import make_bundle

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=table.size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, hidden_act="relu", hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder / "model")
    table.write(folder / "vocabulary.parquet")
    make_bundle(folder / "model", folder / "vocabulary.parquet", folder / "bundle")
    return folder / "bundle"


def until(true: Callable[[], bool], seconds: float = 600.0) -> None:
    """Wait until it is true; the seconds are those of a hopeless case, a busy machine needs many."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


class Halt:
    """A mark at which processes stop themselves: those that are about to give `path` its name (tests/halting).

    From `wait` on there is one that is stopped, whatever the speed of the machine, until `go_on`.
    """

    def __init__(self, path: Path) -> None:
        self._mark = Path(os.environ[HALTS]) / str(path).replace(os.sep, "%")
        self._mark.touch()

    def wait(self) -> int:
        """A process that stands at the mark, once one does."""
        until(lambda: self.standing() is not None)
        process = self.standing()
        assert process is not None
        return process

    def standing(self) -> int | None:
        """A process that stands at the mark now, if one does."""
        return next((process for process in self._noted() if state(process) == "T"), None)

    def lift(self) -> None:
        """Whoever comes now passes."""
        self._mark.unlink(missing_ok=True)

    def go_on(self) -> None:
        """Lift the mark once somebody stands at it, and let go on all who do, also one that was just about to stop."""
        self.wait()
        self.lift()
        until(lambda: not self._woken())

    def _noted(self) -> list[int]:
        notes = self._mark.parent.glob(f"{glob.escape(self._mark.name)}.*")
        return [int(note.name.rpartition(".")[2]) for note in notes]

    def _woken(self) -> set[int]:
        """Those that live and have not passed yet, after another call to go on."""
        waiting = alive(self._noted())
        for process in waiting:
            if state(process) == "T":
                os.kill(process, signal.SIGCONT)
        return waiting


def state(process: int) -> str:
    """R, S, D, T for stopped, Z for one that nobody has asked for yet; empty where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def family(process: int) -> set[int]:
    """A process and all that it has started, and they, as far as their parents still live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, new = {process}, [process]
    while new:
        new = [child for one in new for child in children.get(one, [])]
        found.update(new)
    return found


def alive(processes: Iterable[int]) -> set[int]:
    """Those that have not ended."""
    return {process for process in processes if state(process) not in ("", "Z")}
