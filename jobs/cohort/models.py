"""The model of a fold: fine-tuned on donors of the other folds, judged on this fold's, and the state vectors that it gives.

No cell of a donor is seen by the model that screens it; the token table of a fold holds none to learn from.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankshift.jobs.cohort.folder import Folder
from rankshift.jobs.cohort.options import Study
from rankshift.jobs.cohort.source import OTHER, SPLIT, TEST, TRAIN
from rankshift.jobs.executor.embedding_work import embed_on
from rankshift.jobs.executor.registry import executor
from rankshift.jobs.finetuning.finetune import finetune
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.training.job import Launch
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.embed.states import write_states
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import measured_layers
from rankshift.screen.progress import progress

Say = Callable[[str], None]
PREDICTIONS = "evaluation/predictions.parquet"  # of a fine-tuned bundle


def recipe(study: Study) -> Finetuning:
    """How the model of every fold is fine-tuned; classes count alike, because donors have more cells of one state."""
    given = {"epochs": study.epochs, "learning_rate": study.learning_rate, "batch_tokens": study.batch_tokens}
    return Finetuning(
        task="cell",
        label=(study.label,),
        where=f"{SPLIT} IN ('{TRAIN}', '{TEST}')",
        split_column=SPLIT,
        class_weights="balanced",
        freeze=study.freeze,
        seed=study.seed,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )


def train(folder: Folder, fold: int, bundle: Path, launch: Launch | None, say: Say) -> None:
    """Fine-tune the model of a fold; a training that was stopped goes on."""
    finetune(
        folder.tokens(fold), bundle, folder.bundle(fold), recipe(folder.study), resume=True, say=say, launch=launch
    )


def judged(folder: Folder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True label, predicted label and donor, object [n], of the analysis cells of all folds, by models new to them."""
    parts = []
    for fold in range(folder.study.folds):
        found = pq.read_table(folder.bundle(fold) / PREDICTIONS, columns=["cell_id", "true", "predicted"])
        table = pq.read_table(folder.tokens(fold), columns=["cell_id", folder.study.donor, SPLIT])
        table = table.filter(pc.equal(table[SPLIT], TEST))
        if found["cell_id"].to_pylist() != table["cell_id"].to_pylist():
            raise InputError(f"{folder.bundle(fold)} was judged on other cells than {folder.tokens(fold)}: remove both")
        columns = (found["true"], found["predicted"], labels_of(table, folder.study.donor, "--donor"))
        parts.append(np.array([column.to_pylist() for column in columns], dtype=object))
    true, predicted, donor = np.concatenate(parts, axis=1)
    return true, predicted, donor


def own_goal(goal: str, donor: str) -> str:
    """Name of the goal state of one donor."""
    return f"{goal} of {donor}"


def embed_states(folder: Folder, fold: int, states: list[str], workers: int | None, say: Say) -> None:
    """One vector per state, every training donor counting once: the mean over donors of the mean over their analysis cells.

    With `goal_of` donor also the goal of every donor of the fold, from its own analysis cells.
    """
    study, opened = folder.study, Bundle.open(folder.bundle(fold))
    table = Cells.read(folder.tokens(fold), opened)
    part = np.array(table.obs[SPLIT].to_pylist(), dtype=object)
    table = table.take(np.flatnonzero(part != TRAIN))
    part = part[part != TRAIN]
    label = np.array(labels_of(table.obs, study.label, "--label").to_pylist(), dtype=object)
    donor = np.array(labels_of(table.obs, study.donor, "--donor").to_pylist(), dtype=object)
    wanted = part == OTHER
    if study.goal_of == "donor":
        wanted |= (part == TEST) & (label == states[1])
    rows = np.flatnonzero(wanted)
    with progress("cells", len(rows)) as done, executor(workers, what="study", say=say) as there:
        vectors = embed_on(
            there,
            table.take(rows),
            opened.path,
            level="cls" if table.frame.head else "cell",
            layer_count=measured_layers(opened.config, study.layer),
            dtype="float32",
            done=done,
        )
    part, label, donor = part[rows], label[rows], donor[rows]

    def mean(some: np.ndarray) -> np.ndarray:
        each = [vectors[some & (donor == one)].mean(0, dtype=np.float64) for one in sorted(set(donor[some]))]
        return np.mean(each, 0).astype(np.float32)

    found = {state: mean((part == OTHER) & (label == state)) for state in states}
    if study.goal_of == "donor":
        for one in sorted(set(donor[part == TEST])):
            found[own_goal(states[1], one)] = mean((part == TEST) & (donor == one))
    write_states(found, folder.states(fold))
