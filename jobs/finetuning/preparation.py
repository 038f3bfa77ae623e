"""Preparation: everything about a fine-tuning that can be known, checked and refused before the first step.

Every rank of a gang prepares for itself and comes to the same, because nothing here is drawn but by the seed.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.utils.class_weight import compute_class_weight

from rankshift.jobs.finetuning.examples import Examples
from rankshift.jobs.finetuning.labels.gene_labels import GeneLabels, gene_labels, read_classes
from rankshift.jobs.finetuning.labels.labels import NONE, CellLabels, cell_labels
from rankshift.jobs.finetuning.labels.splits import Fold, Splits, check_split, split, strata_of
from rankshift.jobs.finetuning.models import Head, readout
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.training.job import TrainingJob
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.cells.select import select
from rankshift.screen.errors import InputError

FREE = ("accumulate", "judge_every", "log_every", "save_every", "baseline")  # may be others when a training goes on


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneJob(TrainingJob):
    """A fine-tuning."""

    cells: Path
    bundle: Path
    options: Finetuning


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Prepared:
    """A checked job. rows: cells of the token table that are used. labels: of cells, or of genes.

    Folds count cells (`labels.rows`) or genes (`labels.tokens`). pool: None for genes. identity: of the training; another
    one must not go on from its state.
    """

    job: FinetuneJob
    bundle: Bundle
    table: Cells
    rows: np.ndarray
    labels: CellLabels | GeneLabels
    head: Head
    pool: str | None
    splits: Splits
    identity: dict[str, Any]
    notes: tuple[str, ...]

    def train_set(self, fold: Fold) -> Examples:
        """What a fold learns from its training units alone: labels, class weights, scale of numbers."""
        return self._examples(fold.train, fold.train)

    def eval_set(self, fold: Fold) -> Examples:
        """The fold's judged units, with weights and scale of its training ones: for the loss on them."""
        return self._examples(fold.judged, fold.train)

    def scale(self, fold: Fold) -> tuple[float, float]:
        """Mean and standard deviation of the numbers that a fold learns from."""
        numbers = self.labels.values[fold.train]
        return float(numbers.mean()), float(numbers.std())

    def truths(self, units: np.ndarray) -> list[np.ndarray]:
        """Labels of these units, an array a task."""
        values = self.labels.values[units]
        return [values] if values.ndim == 1 else list(values.T)

    def only(self, fold: Fold) -> "Prepared":
        """The same with this cut alone."""
        return replace(self, splits=Splits(folds=(), final=fold, inner=None))

    def work(self) -> int:
        """Cells that the training will report in all."""
        stages = [*self.splits.folds, self.splits.final]
        return round(self.job.options.passes * sum(len(self.train_set(fold).rows) for fold in stages))

    def _examples(self, units: np.ndarray, learnt: np.ndarray) -> Examples:
        shared: dict[str, Any] = {"table": self.table, "head": self.head, "pad": self.bundle.special.pad}
        weights = self._class_weights(learnt)
        if isinstance(self.labels, GeneLabels):
            by_token = self.labels.of_tokens(self.bundle.vocabulary.size, units)
            has = np.logical_or.reduceat(by_token[self.table.ids] >= 0, self.table.offsets[:-1])
            return Examples(**shared, rows=self.rows[has[self.rows]], by_token=by_token, weights=weights)
        values = self.labels.values
        if not self.head.tasks[0].classes:
            mean, sd = self.scale(Fold(name="", train=learnt, judged=units))
            values = ((values - mean) / sd).astype(np.float32)
        by_row = np.full((len(self.table), values.shape[1]), NONE, values.dtype)
        by_row[self.labels.rows] = values
        return Examples(**shared, rows=self.labels.rows[units], by_row=by_row, weights=weights)

    def _class_weights(self, learnt: np.ndarray) -> tuple[torch.Tensor, ...] | None:
        if self.job.options.class_weights == "none":
            return None
        weights = []
        for task, ids in zip(self.head.tasks, self.truths(learnt), strict=True):
            classes = np.arange(len(task.classes))
            weights.append(torch.tensor(compute_class_weight("balanced", classes=classes, y=ids[ids >= 0])).float())
        return tuple(weights)


def prepare(job: FinetuneJob, *, inner: bool = False) -> Prepared:
    """Read and check a job. inner: cut a part of the training units off to choose settings by.

    Raises InputError on what cannot be learnt, split or judged.
    """
    options = job.options
    bundle = Bundle.open(job.bundle)
    table = Cells.read(job.cells, bundle)
    pool: str | None = None
    labels: CellLabels | GeneLabels
    if options.task == "gene":
        assert options.genes is not None
        rows = np.sort(select(table, where=options.where, max_cells=options.max_cells))
        labels = gene_labels(table, rows, read_classes(options.genes), bundle.vocabulary, bundle.aliases)
        head = Head(tasks=(labels.task,), per_row=True)
        splits = split(len(labels.tokens), options.splitting, strata=labels.values, inner=inner)
    else:
        pool = readout(options.pool, table.frame)
        labels = cell_labels(
            table,
            options.label,
            numeric=options.task == "regression",
            weights=options.task_weights,
            where=options.where,
            rare=options.rare,
            max_cells=options.max_cells,
            max_cells_per_class=options.max_cells_per_class,
            seed=options.seed,
        )
        rows = labels.rows
        head = Head(tasks=labels.tasks, per_row=pool == "mean")
        splits = split(
            len(labels),
            options.splitting,
            strata=strata_of(labels.values, options.task == "regression"),
            groups=_column(table, options.split_by, "--split-by", rows),
            column=_column(table, options.split_column, "--split-column", rows),
            inner=inner,
        )
    if not 0 <= options.freeze <= bundle.config["num_hidden_layers"] - (options.lora is not None):
        layers = bundle.config["num_hidden_layers"]
        raise InputError(f"--freeze {options.freeze} of {layers} layers: leave adapters a layer, or give 0 to {layers}")
    prepared = Prepared(
        job=job,
        bundle=bundle,
        table=table,
        rows=rows,
        labels=labels,
        head=head,
        pool=pool,
        splits=splits,
        identity=_identity(options, bundle, table, rows, labels),
        notes=(*table.notes, *labels.notes),
    )
    _check_folds(prepared)
    return prepared


def _check_folds(prepared: Prepared) -> None:
    splits = prepared.splits
    for fold in (*splits.folds, splits.final, *([splits.inner] if splits.inner else [])):
        if prepared.job.options.task == "regression":
            if prepared.scale(fold)[1] == 0:
                name = prepared.head.tasks[0].name
                raise InputError(f"{name} has one value only to learn from in the {fold.name} split: split otherwise")
            continue
        everyone = np.arange(len(prepared.labels.values))
        for task, ids in zip(prepared.head.tasks, prepared.truths(everyone), strict=True):
            check_split(fold, task, ids)


def _column(table: Cells, name: str | None, option: str, rows: np.ndarray) -> Sequence[object] | None:
    if name is None:
        return None
    return labels_of(table.obs, name, option).take(pa.array(rows)).to_pylist()


def _identity(
    options: Finetuning, bundle: Bundle, table: Cells, rows: np.ndarray, labels: CellLabels | GeneLabels
) -> dict[str, Any]:
    """Plain values that say which training this is: options, cells, labels and the weights it begins with."""
    given = {name: value for name, value in asdict(options).items() if name not in FREE}
    told = labels.values.tobytes() + (labels.tokens.tobytes() if isinstance(labels, GeneLabels) else b"")
    record = {
        **given,
        "genes": None if options.genes is None else Path(options.genes).name,
        "cells_sha256": hashlib.sha256(table.ids.tobytes() + table.offsets.tobytes()).hexdigest(),
        "labels_sha256": hashlib.sha256(rows.tobytes() + told).hexdigest(),
        "pretrained_sha256": bundle.weights_sha256,
    }
    return dict(json.loads(json.dumps(record)))
