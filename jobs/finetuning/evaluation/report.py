"""Judgements: from logits on held-out units to scores, tables and plots in the folder `evaluation` of the bundle.

There is one entry per task. A gene task is judged twice: by gene, with mean probabilities over cells, and by position.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.jobs.finetuning.evaluation import baseline
from rankshift.jobs.finetuning.evaluation.metrics import Predictions, across, scores
from rankshift.jobs.finetuning.evaluation.plots import plot_confusion, plot_numbers, plot_predictions, plot_roc
from rankshift.jobs.finetuning.evaluation.predictions import Places, by_gene, probabilities
from rankshift.jobs.finetuning.labels.gene_labels import GeneLabels
from rankshift.jobs.finetuning.labels.splits import Fold
from rankshift.jobs.finetuning.preparation import Prepared
from rankshift.screen.files.atomic import replacing

FINAL = "final"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TaskReport:
    """One task as one kind of judge sees it. folds: of the cross-validation; final: on the test part, if there is one.

    units: annotations of the judged units by their number, for the table.
    """

    name: str
    classes: tuple[str, ...]
    folds: tuple[Predictions, ...]
    final: Predictions | None
    units: pa.Table

    def scores(self) -> dict[str, Any]:
        """{final: scores, folds: [scores], mean: over folds}, only what there is."""
        out: dict[str, Any] = {}
        if self.final is not None:
            out[FINAL] = scores(self.final, self.classes)
        if self.folds:
            each = [scores(fold, self.classes) for fold in self.folds]
            out["folds"], out["mean"] = each, across(each)
        return out

    @property
    def shown(self) -> tuple[Predictions, ...]:
        """What plots show: the folds if there are any, which hold every training unit, else the test part."""
        return self.folds or ((self.final,) if self.final else ())

    def table(self) -> pa.Table:
        """Predictions: the units' annotations, fold (null of the final model), split, true, predicted, probability_<class>."""
        parts = []
        for fold, judged in [*enumerate(self.folds), *([(None, self.final)] if self.final else [])]:
            names = np.array(self.classes, object)
            true = names[judged.truth] if self.classes else judged.truth
            predicted = names[judged.predicted] if self.classes else judged.predicted
            part = self.units.take(pa.array(judged.units))
            n = len(judged.truth)
            columns: dict[str, pa.Array] = {
                "fold": pa.array([fold] * n, pa.int32()),
                "split": pa.array(["test" if fold is None else "fold"] * n),
                "true": pa.array(true),
                "predicted": pa.array(predicted),
                **{f"probability_{c}": pa.array(judged.given[:, i], pa.float32()) for i, c in enumerate(self.classes)},
            }
            for name, column in columns.items():
                part = part.append_column(name, column)
            parts.append(part)
        return pa.concat_tables(parts)


def task_reports(prepared: Prepared, logits: Mapping[str, np.ndarray]) -> list[TaskReport]:
    """Judge every fold. logits: by the fold's name, on its judged units (see `predictions.predict`)."""
    if isinstance(prepared.labels, GeneLabels):
        return _gene_reports(prepared, prepared.labels, logits)
    ids = prepared.table.obs.select(["cell_id"]).take(pa.array(prepared.rows))
    out = []
    for t, (task, part) in enumerate(zip(prepared.head.tasks, prepared.head.slices, strict=True)):

        def judge(fold: Fold, t: int = t, part: slice = part, numeric: bool = not task.classes) -> Predictions:
            truth, given = prepared.truths(fold.judged)[t], logits[fold.name][:, part]
            known = np.ones(len(truth), bool) if numeric else truth >= 0
            given = given.astype(np.float64) if numeric else probabilities(given)
            return Predictions(fold=fold.name, units=fold.judged[known], truth=truth[known], given=given[known])

        out.append(_task_report(prepared, task.name, task.classes, judge, ids))
    return out


def _gene_reports(prepared: Prepared, labels: GeneLabels, logits: Mapping[str, np.ndarray]) -> list[TaskReport]:
    vocabulary = prepared.bundle.vocabulary
    places = {fold.name: Places.of(prepared.eval_set(fold)) for fold in _judged_folds(prepared)}
    starts = np.cumsum([0, *(len(p.row) for p in places.values())])
    start = dict(zip(places, starts, strict=False))

    def judge_genes(fold: Fold) -> Predictions:
        tokens = labels.tokens[fold.judged]
        given, _ = by_gene(places[fold.name].token, probabilities(logits[fold.name]), tokens)
        return Predictions(fold=fold.name, units=fold.judged, truth=labels.values[fold.judged], given=given)

    def judge_places(fold: Fold) -> Predictions:
        token = places[fold.name].token
        truth = labels.values[np.searchsorted(labels.tokens, token)]
        units = start[fold.name] + np.arange(len(token))
        return Predictions(fold=fold.name, units=units, truth=truth, given=probabilities(logits[fold.name]))

    cells = np.zeros(len(labels.tokens), np.int64)
    for p in places.values():
        cells += np.bincount(np.searchsorted(labels.tokens, p.token), minlength=len(cells))
    of = [(vocabulary.ensembl_id[t], vocabulary.symbol[t]) for t in labels.tokens]
    genes = pa.table(
        {"ensembl_id": [i for i, _ in of], "symbol": pa.array([s for _, s in of], pa.string()), "cells": cells}
    )
    row, place, token = (
        np.concatenate([getattr(p, name) for p in places.values()]) if places else np.empty(0, np.int64)
        for name in ("row", "place", "token")
    )
    each = prepared.table.obs.select(["cell_id"]).take(pa.array(row))
    each = each.append_column("ensembl_id", pa.array([vocabulary.ensembl_id[t] for t in token], pa.string()))
    each = each.append_column("place", pa.array(place, pa.int32()))
    classes = labels.task.classes
    return [
        _task_report(prepared, "genes", classes, judge_genes, genes),
        _task_report(prepared, "places", classes, judge_places, each),
    ]


def _task_report(prepared: Prepared, name: str, classes: tuple[str, ...], judge: Any, units: pa.Table) -> TaskReport:
    splits = prepared.splits
    return TaskReport(
        name=name,
        classes=classes,
        folds=tuple(judge(fold) for fold in splits.folds),
        final=judge(splits.final) if len(splits.final.judged) else None,
        units=units,
    )


def _judged_folds(prepared: Prepared) -> list[Fold]:
    return [fold for fold in (*prepared.splits.folds, prepared.splits.final) if len(fold.judged)]


def baselines(prepared: Prepared) -> list[TaskReport]:
    """A linear model on rank features in place of the fine-tuned one, on the same splits.

    Features of a cell are the ranks of its genes, features of a gene its ranks in the cells.
    """
    features = baseline.rank_features(prepared.table, prepared.rows, prepared.bundle.vocabulary.is_gene)
    if isinstance(prepared.labels, GeneLabels):
        features = features.T.tocsr()[prepared.labels.tokens]
    balanced = prepared.job.options.class_weights == "balanced"
    none = pa.table({})
    out = []
    for t, task in enumerate(prepared.head.tasks):
        values = prepared.truths(np.arange(len(prepared.labels.values)))[t]

        def judge(fold: Fold, values: np.ndarray = values, classes: int = len(task.classes)) -> Predictions:
            known = np.ones(len(values), bool) if not classes else values >= 0
            train, judged = fold.train[known[fold.train]], fold.judged[known[fold.judged]]
            if classes:
                given = baseline.classify(features, values, train, judged, classes, balanced)
            else:
                given = baseline.regress(features, values, train, judged)
            return Predictions(fold=fold.name, units=judged, truth=values[judged], given=given)

        out.append(_task_report(prepared, task.name, task.classes, judge, none))
    return out


def write(
    folder: Path, judged: Sequence[TaskReport], linear: Sequence[TaskReport], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write metrics.json, and per task predictions and plots (in folders of their own where there are several).

    Returns what metrics.json holds: {tasks: {name: scores}, baseline: {name: scores}, and the facts}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {**facts, "tasks": {report.name: report.scores() for report in judged}}
    if linear:
        metrics["baseline"] = {report.name: report.scores() for report in linear}
    for report in judged:
        place = folder / re.sub(r"[^\w.-]", "_", report.name) if len(judged) > 1 else folder
        place.mkdir(exist_ok=True)
        with replacing(place / "predictions.parquet") as temporary:
            pq.write_table(report.table(), temporary, compression="zstd")
        if report.classes:
            plot_confusion(report.shown, report.classes, place / "confusion.png")
            plot_roc(report.shown, report.classes, place / "roc.png")
            plot_predictions(report.shown, report.classes, place / "predictions.png")
        else:
            plot_numbers(report.shown, report.name, place / "predictions.png")
    with replacing(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def summary(metrics: Mapping[str, Any]) -> list[str]:
    """A line a task: the scores that count, beside the linear model's."""
    lines = []
    for name, found in metrics["tasks"].items():
        linear = metrics.get("baseline", {}).get(name)
        for part, what in (("final", "held-out"), ("mean", "folds")):
            if part in found:
                beside = f" (linear model on ranks: {_line(linear[part])})" if linear else ""
                lines.append(f"{name}, {what}: {_line(found[part])}{beside}")
    return lines


def _line(found: Mapping[str, Any]) -> str:
    parts = []
    for key, words in (
        ("macro_f1", "macro F1"),
        ("accuracy", "accuracy"),
        ("r2", "R²"),
        ("pearson", "r"),
        ("mae", "MAE"),
    ):
        value = found.get(key)
        if isinstance(value, Mapping):
            spread = f" ± {value['sd']:.3f}" if value["sd"] is not None else ""
            parts.append(f"{words} {value['mean']:.3f}{spread}")
        elif value is not None:
            parts.append(f"{words} {value:.3f}")
    return ", ".join(parts)
