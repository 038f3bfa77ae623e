"""Plots of an evaluation as files of the kind that their name ends in: confusion, ROC curves, predictions beside the truth."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from rankshift.jobs.finetuning.evaluation.metrics import GRID, Predictions, across, classification, mean_roc
from rankshift.jobs.show.shift_plot import DPI, INK
from rankshift.screen.files.atomic import replacing


def plot_confusion(folds: Sequence[Predictions], classes: Sequence[str], out: Path) -> None:
    """Confusion over all folds: rows are the truth, colour is the share of a row, numbers count."""
    draw_confusion(np.array(across([classification(fold, classes) for fold in folds])["confusion"]), classes, out)


def draw_confusion(counts: np.ndarray, classes: Sequence[str], out: Path, title: str = "") -> None:
    """A confusion of whole numbers (classes, classes), the truth in rows."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.4 + 0.55 * len(classes)
    with figure_of(out, side + 1, side) as (figure, panel):
        image = panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), n in np.ndenumerate(counts):
            panel.text(
                column, row, f"{n:,}", ha="center", va="center", color="white" if share[row, column] > 0.5 else INK
            )
        names = [f"{name} (n={n:,})" for name, n in zip(classes, counts.sum(axis=1), strict=True)]
        panel.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        panel.set_yticks(range(len(classes)), names)
        panel.set_title(title)
        panel.set_xlabel("predicted")
        panel.set_ylabel("truth")
        figure.colorbar(image, label="share of the class")


def plot_roc(folds: Sequence[Predictions], classes: Sequence[str], out: Path) -> None:
    """Mean ROC curve with its standard deviation over folds: of the second of two classes, or of each against the rest."""
    with figure_of(out, 6.4, 5.6) as (_, panel):
        panel.plot([0, 1], [0, 1], color="#9aa5b1", linestyle="--", linewidth=1)
        scored = [classification(fold, classes)["classes"] for fold in folds]
        for at in [1] if len(classes) == 2 else range(len(classes)):
            curve = mean_roc(folds, at)
            if curve is None:
                continue
            areas = [fold[classes[at]]["roc_auc"] for fold in scored if fold[classes[at]]["roc_auc"] is not None]
            spread = f" ± {np.std(areas, ddof=1):.3f}" if len(areas) > 1 else ""
            (line,) = panel.plot(GRID, curve[0], label=f"{classes[at]}: AUC {np.mean(areas):.3f}{spread}")
            if len(areas) > 1:
                low, high = np.clip(curve[0] - curve[1], 0, 1), np.clip(curve[0] + curve[1], 0, 1)
                panel.fill_between(GRID, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set_xlabel("false positive rate")
        panel.set_ylabel("true positive rate")
        panel.legend(frameon=False, loc="lower right")


def plot_predictions(
    folds: Sequence[Predictions], classes: Sequence[str], out: Path, *, truth_name: str = "truth"
) -> None:
    """Heat map of probabilities: units from top to bottom by their class, the surest first; columns are the classes."""
    truth = np.concatenate([fold.truth for fold in folds])
    given = np.concatenate([fold.given for fold in folds])
    order = np.lexsort((-given[np.arange(len(truth)), truth], truth))
    ends = np.searchsorted(truth[order], np.arange(len(classes)), side="right")
    with figure_of(out, 3 + 0.7 * len(classes), 6.4) as (figure, panel):
        image = panel.imshow(given[order], aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="none")
        for end in ends[:-1]:
            panel.axhline(end - 0.5, color="white", linewidth=1)
        panel.set_yticks((ends + np.concatenate([[0], ends[:-1]])) / 2 - 0.5, classes)
        panel.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        panel.set_xlabel("predicted")
        panel.set_ylabel(truth_name)
        figure.colorbar(image, label="probability")


def plot_numbers(folds: Sequence[Predictions], name: str, out: Path) -> None:
    """Predicted numbers against the truth."""
    truth = np.concatenate([fold.truth for fold in folds])
    given = np.concatenate([fold.predicted for fold in folds])
    with figure_of(out, 5.6, 5.6) as (_, panel):
        ends = [min(truth.min(), given.min()), max(truth.max(), given.max())]
        panel.plot(ends, ends, color="#9aa5b1", linestyle="--", linewidth=1)
        panel.scatter(truth, given, s=14, color="#c2410c", alpha=0.6, linewidths=0)
        panel.set_xlabel(f"{name}, truth")
        panel.set_ylabel(f"{name}, predicted")


@contextmanager
def figure_of(out: Path, width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """A figure with one panel, written to `out` when the block ends, as a .png or .pdf."""
    matplotlib.use("agg")
    # Late: a command that draws nothing must not wait for matplotlib.
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 10, "axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK}):
        figure, panel = plt.subplots(figsize=(width, height), layout="constrained", dpi=DPI)
        try:
            yield figure, panel
            with replacing(out) as temporary:
                figure.savefig(temporary, format=out.suffix[1:])
        finally:
            plt.close(figure)
