"""Scores of predictions, across folds and beside a linear model, and their plots."""

import numpy as np
import pyarrow as pa
import pytest

from rankshift.jobs.finetuning.evaluation.baseline import classify, rank_features, regress
from rankshift.jobs.finetuning.evaluation.metrics import GRID, Predictions, across, classification, mean_roc, regression
from rankshift.jobs.finetuning.evaluation.plots import plot_confusion, plot_numbers, plot_predictions, plot_roc
from rankshift.screen.cells.cells import Cells


def cells_of(lists: list[list[int]]) -> Cells:
    obs = pa.table({"cell_id": [str(i) for i in range(len(lists))]})
    offsets = np.cumsum([0, *map(len, lists)])
    return Cells(ids=np.concatenate(lists).astype(np.int32), offsets=offsets, obs=obs)


def judged(truth: list[int], predicted: list[int], classes: int, sure: float = 0.7) -> Predictions:
    given = np.full((len(truth), classes), (1 - sure) / (classes - 1))
    given[np.arange(len(truth)), predicted] = sure
    return Predictions(fold="final", units=np.arange(len(truth)), truth=np.array(truth), given=given)


def test_macro_f1_counts_every_class():
    scores = classification(judged([0, 0, 1, 1], [0, 0, 1, 0], 3), ["a", "b", "c"])
    assert scores["classes"]["a"] == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2, "roc_auc": 0.75}
    assert scores["classes"]["b"]["f1"] == pytest.approx(2 / 3)
    assert scores["classes"]["c"]["f1"] == 0.0  # absent from truth and prediction, and still a class
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert scores["accuracy"] == 0.75
    assert scores["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert scores["classes"]["c"]["roc_auc"] is None
    assert scores["macro_roc_auc"] == pytest.approx(0.75)


def test_folds_count_once_each():
    few, many = judged([0, 1], [0, 1], 2), judged([0] * 6 + [1] * 6, [1] * 12, 2)
    both = across([classification(fold, ["a", "b"]) for fold in (few, many)])
    assert both["accuracy"] == {"mean": 0.75, "sd": pytest.approx(np.sqrt(0.125))}
    assert both["confusion"] == [[1, 6], [0, 7]]
    assert (both["folds"], both["n"]) == (2, 14)
    curve = mean_roc([few, many], 1)
    assert curve is not None
    np.testing.assert_allclose(curve[0][1:], (1 + GRID[1:]) / 2)  # the mean of a perfect and a blind one
    assert curve[0][0] == 0
    assert mean_roc([judged([0, 0], [0, 1], 2)], 1) is None


def test_regression_scores():
    truth = np.array([0.0, 1.0, 2.0, 3.0])
    fold = Predictions(fold="final", units=np.arange(4), truth=truth, given=(truth + 1)[:, None])
    assert regression(fold) == {"n": 4, "r2": pytest.approx(1 - 4 / 5), "pearson": pytest.approx(1.0), "mae": 1.0}
    flat = Predictions(fold="final", units=np.arange(4), truth=truth, given=np.ones((4, 1)))
    assert regression(flat)["pearson"] is None


def test_rank_features_fall_evenly_and_leave_specials_out():
    table = cells_of([[2, 4, 6, 5, 3], [2, 7, 3]])
    is_gene = np.array([False] * 4 + [True] * 4)
    features = rank_features(table, np.array([1, 0]), is_gene).toarray()
    np.testing.assert_allclose(features, [[0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1 / 3, 2 / 3, 0]], atol=1e-7)


def test_linear_models_learn_from_the_training_rows_only():
    table = cells_of([[4, 5], [5, 4]] * 10)
    features = rank_features(table, np.arange(20), np.array([False] * 4 + [True] * 2))
    ids = np.arange(20) % 2
    given = classify(features, ids, np.arange(14), np.arange(14, 20), 3, balanced=True)
    assert given.argmax(axis=1).tolist() == ids[14:].tolist()
    assert given[:, 2].tolist() == [0.0] * 6  # a class it never saw
    numbers = regress(features, ids * 10.0, np.arange(14), np.arange(14, 20))
    assert np.corrcoef(numbers[:, 0], ids[14:])[0, 1] == pytest.approx(1.0)


@pytest.mark.slow
def test_plots_are_written_whole(tmp_path):
    rng = np.random.default_rng(0)
    folds = [judged(rng.integers(0, 3, 30).tolist(), rng.integers(0, 3, 30).tolist(), 3) for _ in range(3)]
    plot_confusion(folds, ["a", "b", "c"], tmp_path / "confusion.png")
    plot_roc(folds, ["a", "b", "c"], tmp_path / "roc.png")
    plot_predictions(folds, ["a", "b", "c"], tmp_path / "predictions.png")
    numbers = Predictions(fold="final", units=np.arange(5), truth=np.arange(5.0), given=np.arange(5.0)[:, None] ** 2)
    plot_numbers([numbers], "age", tmp_path / "numbers.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "confusion.png", "numbers.png", "predictions.png", "roc.png",
    ]  # fmt: skip
    for path in tmp_path.iterdir():
        assert path.read_bytes()[:4] == b"\x89PNG"
