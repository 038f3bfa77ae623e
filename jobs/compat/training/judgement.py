"""What the published classifier reports of predictions, under its keys, and its pictures of them.

Shapes: n predictions, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from sklearn.metrics import auc, confusion_matrix, f1_score, roc_curve

from rankshift.compat.inputs import PathLike, deviates, output_file
from rankshift.compat.training.learning import Judged
from rankshift.jobs.finetuning.evaluation.metrics import Predictions
from rankshift.jobs.finetuning.evaluation.plots import draw_confusion, figure_of, plot_predictions
from rankshift.jobs.finetuning.evaluation.predictions import probabilities
from rankshift.screen.errors import InputError
from rankshift.screen.files.plain_pickle import read_pickle

RATES = np.linspace(0, 1, 100)  # false positive rates at which curves are given


def class_names(file: PathLike) -> list[str]:
    """The classes of an id_class_dict, {id: class}, by id."""
    held = read_pickle(Path(file))
    if not isinstance(held, dict) or sorted(map(str, held)) != sorted(map(str, range(len(held)))):
        raise InputError(f"{file} is not {{id: class}} with ids from 0: give the _id_class_dict.pkl of prepare_data")
    names = {int(key): str(value) for key, value in held.items()}
    if len(names) < 2 or len(set(names.values())) < len(names):
        raise InputError(f"{file} names {len(set(names.values()))} classes: at least two different ones are needed")
    return [names[i] for i in range(len(names))]


def metrics(folds: Sequence[Judged], classes: Sequence[str], *, several: bool) -> dict[str, Any]:
    """conf_matrix, macro_f1, acc and all_roc_metrics (None but for two classes) of the folds; several: as lists of folds.

    Macro F1 is over the classes that occur in truth or prediction, as published. Curves of folds are averaged with the
    numbers of their points as weights, as published (TS 3.8).
    """
    ids = np.arange(len(classes))
    predicted = [fold.logits.argmax(axis=1) for fold in folds]
    counts = sum(confusion_matrix(fold.truth, p, labels=ids) for fold, p in zip(folds, predicted, strict=True))
    f1 = [float(f1_score(fold.truth, p, average="macro")) for fold, p in zip(folds, predicted, strict=True)]
    right = [float((fold.truth == p).mean()) for fold, p in zip(folds, predicted, strict=True)]
    return {
        "conf_matrix": pd.DataFrame(counts, index=list(classes), columns=list(classes)),
        "macro_f1": f1 if several else f1[0],
        "acc": right if several else right[0],
        "all_roc_metrics": _roc(folds, several) if len(classes) == 2 else None,
    }


def _roc(folds: Sequence[Judged], several: bool) -> dict[str, Any] | None:
    curves, areas, points = [], [], []
    for fold in folds:
        if len(np.unique(fold.truth)) < 2:
            continue  # without both classes there is no curve
        false, true, _ = roc_curve(fold.truth, probabilities(fold.logits)[:, 1])
        curve = np.interp(RATES, false, true)
        curve[0] = 0.0
        curves.append(curve)
        areas.append(float(auc(false, true)))
        points.append(len(true))
    if not curves:
        return None
    if not several:
        return {"mean_tpr": curves[0], "mean_fpr": RATES, "all_roc_auc": areas[0]}
    weights = np.array(points) / sum(points)
    mean = weights @ np.array(curves)
    mean[-1] = 1.0
    middle = float(weights @ areas)
    spread = float(np.sqrt(weights @ (np.array(areas) - middle) ** 2))
    return {"mean_tpr": mean, "mean_fpr": RATES, "all_roc_auc": areas, "roc_auc": middle, "roc_auc_sd": spread}


def predictions(found: Judged) -> dict[str, list]:
    """pred_ids, label_ids and predictions (logits) as plain lists."""
    return {
        "pred_ids": found.logits.argmax(axis=1).tolist(),
        "label_ids": found.truth.tolist(),
        "predictions": found.logits.astype(float).tolist(),
    }


def draw_matrices(
    tables: Mapping[str, pd.DataFrame], folder: PathLike, prefix: str, order: Sequence[str] | None
) -> None:
    """{prefix}_conf_mat.pdf of the only model, {prefix}_{model}_conf_mat.pdf of several."""
    for name, table in tables.items():
        names = [str(c) for c in (table.columns if order is None else order)]
        table = table.set_axis([str(c) for c in table.columns], axis=1).set_axis([str(c) for c in table.index], axis=0)
        _check_order(names, list(table.columns))
        suffix = "_conf_mat.pdf" if len(tables) == 1 else f"_{name}_conf_mat.pdf"
        counts = table.loc[names, names].to_numpy().round().astype(int)
        draw_confusion(counts, names, _made(output_file(folder, prefix, suffix)), title=str(name))


def draw_curves(
    curves: Mapping[str, Mapping[str, Any]],
    styles: Mapping[str, Mapping[str, Any]] | None,
    title: str,
    folder: PathLike,
    prefix: str,
) -> None:
    """{prefix}_roc.pdf: a curve for each model."""
    empty = [name for name, found in curves.items() if not isinstance(found, Mapping)]
    if not curves or empty:
        raise InputError(f"roc_metric_dict has no curve of {''.join(empty[:1]) or 'any model'}: two classes make one")
    with figure_of(_made(output_file(folder, prefix, "_roc.pdf")), 6.4, 5.6) as (_, panel):
        panel.plot([0, 1], [0, 1], color="#9aa5b1", linestyle="--", linewidth=1)
        for name, found in curves.items():
            area = found.get("roc_auc", found["all_roc_auc"])
            spread = f" ± {found['roc_auc_sd']:.2f}" if "roc_auc_sd" in found else ""
            label = f"{name} (AUC {float(area):.2f}{spread})"
            panel.plot(found["mean_fpr"], found["mean_tpr"], label=label, **dict((styles or {}).get(name, {})))
        panel.set_xlabel("false positive rate")
        panel.set_ylabel("true positive rate")
        panel.set_title(title)
        panel.legend(frameon=False, loc="lower right")


def draw_predictions(
    file: PathLike, classes: Sequence[str], title: str, folder: PathLike, prefix: str, order: Sequence[str] | None
) -> None:
    """{prefix}_pred.pdf: cells from top to bottom by their class, probabilities of the classes as colours."""
    held = read_pickle(Path(file))
    if not isinstance(held, dict) or not {"label_ids", "predictions"} <= held.keys():
        raise InputError(
            f"{file} has no label_ids and predictions: give the _pred_dict.pkl of validate or evaluate_saved_model"
        )
    logits, truth = np.array(held["predictions"], np.float64), np.array(held["label_ids"], np.int64)
    if logits.ndim != 2 or logits.shape[1] != len(classes) or len(truth) != len(logits):
        raise InputError(f"{file} has predictions of shape {list(logits.shape)}, there are {len(classes)} classes")
    names = list(classes) if order is None else [str(name) for name in order]
    _check_order(names, list(classes))
    places = np.array([list(classes).index(name) for name in names])
    shown = np.isin(truth, places)
    given = probabilities(logits)[shown][:, places]
    rank = {int(place): at for at, place in enumerate(places)}
    moved = np.array([rank[int(t)] for t in truth[shown]])
    fold = Predictions(fold="final", units=np.arange(len(moved)), truth=moved, given=given)
    plot_predictions((fold,), names, _made(output_file(folder, prefix, "_pred.pdf")), truth_name=title)


def told_epochs() -> None:
    """Say which of the epochs' models is kept."""
    deviates(
        "the model of the last epoch is kept; the published code takes the epoch of the least loss on the cells that judge"
    )


def _check_order(names: Sequence[str], there: Sequence[str]) -> None:
    unknown = [name for name in names if name not in there]
    if unknown or len(set(names)) < len(names) or not names:
        raise InputError(f"custom_class_order names {list(names)}, the classes are {', '.join(there)}: name each once")


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
