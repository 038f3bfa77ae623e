"""Evaluation: what predictions on held-out units are worth, over all classes of a task, by fold and across folds.

Macro F1 counts every class, also one that nobody was predicted to be; the published code leaves absent ones out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import (
    confusion_matrix,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
    roc_curve,
)  # fmt: skip

GRID = np.linspace(0, 1, 101)  # false positive rates at which ROC curves are averaged


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Predictions:
    """Predictions of one task on n units of one fold. truth: class ids, or numbers. given: (n, C) probabilities, or (n, 1).

    units: which of the table's (cells, or genes) they are.
    """

    fold: str
    units: np.ndarray
    truth: np.ndarray
    given: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest class, the first of equals; or the number."""
        return self.given.argmax(axis=1) if self.given.shape[1] > 1 else self.given[:, 0]


def classification(judged: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Scores of one fold: n, macro_f1, accuracy, by class precision, recall, f1, support and roc_auc, and the confusion.

    roc_auc is one class against the rest, None where the fold holds only one of both; confusion[truth][predicted] counts.
    """
    ids = np.arange(len(classes))
    truth, predicted = judged.truth, judged.predicted
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=ids, zero_division=0.0)
    areas = [_area(truth == i, judged.given[:, i]) for i in ids]
    known = [area for area in areas if area is not None]
    return {
        "n": len(truth),
        "macro_f1": float(f1.mean()),
        "accuracy": float((truth == predicted).mean()),
        "macro_roc_auc": float(np.mean(known)) if known else None,
        "classes": {
            name: {
                "precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                "support": int(support[i]), "roc_auc": areas[i],
            }
            for i, name in enumerate(classes)
        },
        "confusion": confusion_matrix(truth, predicted, labels=ids).tolist(),
    }  # fmt: skip


def regression(judged: Predictions) -> dict[str, Any]:
    """Scores of one fold: n, r2 (beside the fold's mean), pearson, mae (in the label's unit); None where undefined."""
    truth, predicted = judged.truth, judged.predicted
    varied = len(truth) > 1 and np.ptp(truth) > 0
    return {
        "n": len(truth),
        "r2": float(r2_score(truth, predicted)) if varied else None,
        "pearson": float(pearsonr(truth, predicted).statistic) if varied and np.ptp(predicted) > 0 else None,
        "mae": float(mean_absolute_error(truth, predicted)),
    }


def scores(judged: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Scores of a fold of either kind: numbers where there are no classes."""
    return classification(judged, classes) if classes else regression(judged)


def across(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) over folds of every single number, each fold counting once; confusions summed."""
    out: dict[str, Any] = {"folds": len(folds), "n": sum(fold["n"] for fold in folds)}
    for name in ("macro_f1", "accuracy", "macro_roc_auc", "r2", "pearson", "mae"):
        values = [fold[name] for fold in folds if fold.get(name) is not None]
        if values:
            out[name] = {
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
    if all("confusion" in fold for fold in folds):
        out["confusion"] = np.sum([fold["confusion"] for fold in folds], axis=0).tolist()
    return out


def mean_roc(folds: Sequence[Predictions], at: int) -> tuple[np.ndarray, np.ndarray] | None:
    """True positive rates (mean, sd) on GRID of class `at` against the rest, each fold counting once; None if undefined."""
    curves = []
    for fold in folds:
        positive = fold.truth == at
        if positive.any() and not positive.all():
            false, true, _ = roc_curve(positive, fold.given[:, at])
            curve = np.interp(GRID, false, true)
            curve[0] = 0.0
            curves.append(curve)
    return (np.mean(curves, axis=0), np.std(curves, axis=0)) if curves else None


def _area(positive: np.ndarray, score: np.ndarray) -> float | None:
    return float(roc_auc_score(positive, score)) if positive.any() and not positive.all() else None
