"""One model of the published classifier: cells or genes with classes in the order of an id_class_dict, learnt and judged.

It trains in this process, through the fine-tuning of `rankshift finetune`. Shapes: n judged cells or places, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rankshift.jobs.finetuning.evaluation.predictions import Places, predict
from rankshift.jobs.finetuning.fit import learn
from rankshift.jobs.finetuning.labels.gene_labels import GeneLabels, gene_labels
from rankshift.jobs.finetuning.labels.labels import CellLabels, Task
from rankshift.jobs.finetuning.labels.splits import Fold, Splits
from rankshift.jobs.finetuning.models import Classifier as Model
from rankshift.jobs.finetuning.models import Head
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.finetuning.preparation import FinetuneJob, Prepared
from rankshift.jobs.training.alone import alone
from rankshift.jobs.training.families.family import trained_family
from rankshift.jobs.training.families.plain_model import save_plain
from rankshift.jobs.training.gang import Rank, group
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.bundle.checkpoint import read_tensors
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.encoder.device import default_device
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.genes.vocabulary import Vocabulary

LABEL = "label"  # the column of class ids in prepared data sets, as published


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Judged:
    """Predictions. truth: int (n,) class ids. logits: float32 (n, C)."""

    truth: np.ndarray
    logits: np.ndarray


def cell_classes(cells: Cells, classes: Sequence[str]) -> CellLabels:
    """The class ids of prepared cells, which lie in their column `label`."""
    told = labels_of(cells.obs, LABEL, "prepared cells: the column").to_pylist()
    known = {str(i): i for i in range(len(classes))}
    wrong = [value for value in told if value not in known]
    if wrong:
        raise InputError(
            f"the column label holds {wrong[0]!r}, the id_class_dict has 0 to {len(classes) - 1}: use prepare_data's files"
        )
    ids = np.array([known[value] for value in told], np.int64)
    return CellLabels(rows=np.arange(len(ids)), tasks=(Task(name=LABEL, classes=tuple(classes)),), values=ids[:, None])


def gene_classes(
    cells: Cells, wanted: Mapping[str, Sequence[str]], classes: Sequence[str], vocabulary: Vocabulary
) -> GeneLabels:
    """The classes of the genes that occur in the cells, ids in the order of `classes`."""
    found = gene_labels(cells, np.arange(len(cells)), wanted, vocabulary, {})
    order = np.array([list(classes).index(name) for name in found.task.classes])
    task = Task(name="genes", classes=tuple(classes))
    return GeneLabels(task=task, tokens=found.tokens, values=order[found.values], notes=found.notes)


def prepared(
    bundle: Bundle,
    cells: Cells,
    labels: CellLabels | GeneLabels,
    options: Finetuning,
    fold: Fold,
    folder: Path,
) -> Prepared:
    """A fine-tuning with one cut. The head of a cell classifier reads the first row, as published. folder: for its state."""
    genes = isinstance(labels, GeneLabels)
    pool = None if genes else ("cls" if cells.frame.head else "first")
    tasks = (labels.task,) if isinstance(labels, GeneLabels) else labels.tasks
    limit = bundle.input_size
    if int(cells.lengths.max()) > limit:
        raise InputError(
            f"cells have up to {int(cells.lengths.max())} tokens, the model takes {limit}: tokenize for that model"
        )
    return Prepared(
        job=FinetuneJob(cells=folder, bundle=bundle.path, out=folder / fold.name, options=options),
        bundle=bundle,
        table=cells,
        rows=np.arange(len(cells)),
        labels=labels,
        head=Head(tasks=tasks, per_row=genes),
        pool=pool,
        splits=Splits(folds=(), final=fold, inner=None),
        identity={},
        notes=(),
    )


def learnt(job: Prepared) -> Model:
    """The model that the training units of the job's cut make."""
    with alone("cells", job.work()) as report, group(Rank(), torch.device(default_device())) as collective:
        return learn(job, job.splits.final, torch.device(default_device()), collective, report)


def judged(job: Prepared, model: Model) -> Judged:
    """What the model says of the job's judged units: of cells, or of every place at which a judged gene stands."""
    fold = job.splits.final
    examples = job.eval_set(fold)
    with group(Rank(), torch.device(default_device())) as collective:
        logits = predict(model, examples, job.job.options.batch_tokens, collective)
    if isinstance(job.labels, GeneLabels):
        token = Places.of(examples).token
        return Judged(truth=job.labels.values[np.searchsorted(job.labels.tokens, token)], logits=logits)
    return Judged(truth=job.labels.values[fold.judged, 0], logits=logits)


def stored_model(bundle: Bundle, head: Head, where: object) -> Model:
    """The classifier that a checkpoint holds, of this package or the published one. where: it lies, for messages."""
    family = trained_family(bundle.family)
    names = dict(enumerate(head.names))
    config = family.stored_config({**bundle.config, "id2label": names, "label2id": {n: i for i, n in names.items()}})
    model = family.classifier(config, head.per_row)
    bundle.encoder_weights()  # they are whole, and what was recorded
    wanted, tensors = model.state_dict(), read_tensors(bundle.path)
    for name, here in wanted.items():
        if name not in tensors:
            raise InputError(f"{where} holds no {name}: give the folder of a fine-tuned {_kind(head)} classifier")
        if tensors[name].shape != here.shape:
            raise InputError(
                f"{name} of the model is of shape {list(tensors[name].shape)}, {len(names)} classes need "
                f"{list(here.shape)}: give the id_class_dict that it was trained with"
            )
    model.load_state_dict({name: tensors[name].float() for name in wanted})
    return model.to(default_device()).eval()


def save(model: Model, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the model as plain transformers does, whole or not at all; facts stay in its config.json."""
    model.config.finetuning = dict(facts)
    with replacing(folder, folders=True) as making:
        making.mkdir()
        save_plain(model, making)


def _kind(head: Head) -> str:
    return "gene" if head.per_row else "cell"
