"""The loop by itself, on a toy that is no cell: equal numbers for every cut, resume, curve, and losses that blow up."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rankshift.jobs.training import Recipe, Step, Trainer, rank_slices
from rankshift.jobs.training import metrics as curves
from rankshift.jobs.training.checkpoint import STATE, read_record
from rankshift.jobs.training.gang import Collective, Rank
from rankshift.jobs.training.metrics import COLUMNS, Metrics, read
from rankshift.screen.errors import InputError, Stopped, TrainingFailed

ALONE = Collective(Rank())
X = torch.from_numpy(np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32))
Y = X @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.3


class Points:
    """Two epochs of six batches of four points, cut into passes."""

    def __init__(self, accumulate: int = 1) -> None:
        self.accumulate = accumulate

    def steps(self) -> list[int]:
        return [6, 6]

    def step(self, epoch: int, index: int) -> Step:
        rows = np.random.default_rng((epoch,)).permutation(24)[index * 4 : index * 4 + 4]
        return Step(
            cells=4, tokens=40, passes=[r if len(r) else None for r in rank_slices(rows, ALONE, self.accumulate)]
        )


class Report:
    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.asked, self.cells, self.notes = stop_at, 0, 0, set[str]()

    def __call__(self, n: int, note: str = "") -> None:
        self.cells += n
        self.notes.add(note)

    def stopped(self) -> bool:
        self.asked += 1
        return self.asked == self.stop_at


def squares(model: torch.nn.Module, rows: np.ndarray) -> tuple[torch.Tensor, int]:
    return ((model(X[rows])[:, 0] - Y[rows]) ** 2).sum(), len(rows)


def trainer(folder: Path, *, report: Report | None = None, identity: dict | None = None, **options) -> Trainer:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
    model[0].bias.requires_grad_(False)
    recipe = Recipe(**{"learning_rate": 0.05, "log_every": 2, **options})
    return Trainer(
        model=model, loss=squares, source=Points(recipe.accumulate), recipe=recipe, collective=ALONE, folder=folder,
        report=report or Report(), identity=identity or {"what": [1, "toy"]}, evaluated=("error",),
        evaluate=lambda: {"error": float(squares(model, np.arange(24))[0]) / 24},
    )  # fmt: skip


def columns(folder: Path, *names: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in names) for row in read(folder / "metrics" / "metrics.csv")]


def test_first_step_is_plain_adamw_on_the_mean_loss(tmp_path):
    options = {"warmup": 0.0, "weight_decay": 0.1, "clip": 0.5, "log_every": 1}
    ours = trainer(tmp_path, report=Report(stop_at=1), **options)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
    rate = 0.05 * 11.5 / 12
    plain = torch.optim.AdamW(
        [{"params": [model[0].weight, model[1].weight], "weight_decay": 0.1}, {"params": [model[1].bias]}],
        lr=rate, weight_decay=0.0,
    )  # fmt: skip
    rows = Points().step(0, 0).passes[0]
    ((model(X[rows])[:, 0] - Y[rows]) ** 2).mean().backward()
    norm = torch.nn.utils.clip_grad_norm_([model[0].weight, *model[1].parameters()], 0.5)
    plain.step()
    with pytest.raises(Stopped):
        ours.fit()
    for mine, theirs in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    (row,) = read(tmp_path / "metrics" / "metrics.csv")
    assert (float(row["learning_rate"]), float(row["gradient_norm"])) == pytest.approx((rate, float(norm)))


@pytest.mark.parametrize("accumulate", [2, 3, 7])
def test_passes_change_nothing_even_when_some_are_empty(tmp_path, accumulate):
    whole, cut = trainer(tmp_path / "whole"), trainer(tmp_path / "cut", accumulate=accumulate)
    assert whole.fit()["error"] == pytest.approx(cut.fit()["error"], rel=1e-5)
    assert float(whole.recent) == pytest.approx(float(cut.recent), rel=1e-5)


def test_the_curve_is_the_same_after_a_stop_anywhere(tmp_path):
    whole = trainer(tmp_path / "whole")
    result = whole.fit()
    names = ("step", "epoch", "learning_rate", "loss", "gradient_norm", "error")
    curve = columns(tmp_path / "whole", *names)
    assert [row[0] for row in curve] == ["2", "4", "6", "8", "10", "12"]
    assert [bool(row[-1]) for row in curve] == [False, False, True, False, False, True]  # judged after every epoch
    assert float(curve[-1][3]) < 0.5 * float(curve[0][3])
    for stop in (1, 5, 6, 12):
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            trainer(folder, report=Report(stop_at=stop)).fit()
        report = Report()
        again = trainer(folder, report=report)
        assert (again.step, again.cells) == (stop, 4 * stop)
        assert again.fit() == result
        assert report.cells == 48  # those seen before the stop, too
        assert columns(folder, *names) == curve
        assert torch.equal(again.model[1].weight, whole.model[1].weight)  # type: ignore[index]


def test_rows_after_the_saved_step_are_written_again(tmp_path):
    with pytest.raises(Stopped):
        trainer(tmp_path, report=Report(stop_at=4)).fit()
    with (tmp_path / "metrics" / "metrics.csv").open("a") as file:
        file.write("6,1,9,9,9,9,9,9,\n")  # of a step that was never saved
    trainer(tmp_path).fit()
    assert columns(tmp_path, "step") == [("2",), ("4",), ("6",), ("8",), ("10",), ("12",)]
    assert ("6", "9") not in columns(tmp_path, "step", "loss")


def test_columns_of_the_curve(tmp_path):
    report = Report()
    trainer(tmp_path, report=report, judge_every=4).fit()
    rows = read(tmp_path / "metrics" / "metrics.csv")
    assert tuple(rows[0]) == (*COLUMNS, "error")
    assert [row["step"] for row in rows if row["error"]] == ["4", "6", "8", "12"]
    for row in rows:
        assert float(row["tokens_per_second"]) == pytest.approx(10 * float(row["cells_per_second"]))
        assert float(row["cells_per_second"]) > 0
    assert report.cells == 48
    assert f"loss {float(rows[-1]['loss']):.3f}" in report.notes


def test_the_curve_is_in_tensorboard_too(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer(tmp_path).fit()
    board = accumulator.EventAccumulator(str(tmp_path / "metrics")).Reload()
    rows = read(tmp_path / "metrics" / "metrics.csv")
    for name in ("loss", "learning_rate", "gradient_norm", "cells_per_second"):
        events = board.Scalars(name)
        assert [event.step for event in events] == [int(row["step"]) for row in rows]
        assert [event.value for event in events] == pytest.approx([float(row[name]) for row in rows], rel=1e-6)
    assert [event.step for event in board.Scalars("error")] == [6, 12]


def test_without_tensorboard_it_says_so_and_keeps_the_csv(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    report = Report()
    trainer(tmp_path, report=report).fit()
    assert curves.ABSENT in report.notes
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["metrics.csv"]


def test_saves_by_the_clock_hold_what_the_caller_adds(tmp_path):
    first = trainer(tmp_path, save_every=0.0, report=Report(stop_at=3))
    first.record["best"] = 0.5
    with pytest.raises(Stopped):
        first.fit()
    assert read_record(tmp_path)["step"] == 3
    assert trainer(tmp_path).record == {"best": 0.5}


def test_another_training_does_not_go_on_from_it(tmp_path):
    with pytest.raises(Stopped):
        trainer(tmp_path, report=Report(stop_at=2)).fit()
    with pytest.raises(InputError, match="is a training of other cells or options"):
        trainer(tmp_path, identity={"what": [2, "toy"]})
    (tmp_path / STATE).write_bytes(b"torn")
    with pytest.raises(InputError, match="is not an unfinished training of this model"):
        trainer(tmp_path)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    with pytest.raises(TrainingFailed, match=r"loss is (nan|inf) at step \d+: lower the learning rate"):
        trainer(tmp_path, learning_rate=1e30, warmup=0.0).fit()


def test_the_callers_random_numbers_stay_as_they_were(tmp_path):
    made = trainer(tmp_path)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    made.fit()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", ["step,loss\n1,2\n", "\x00", "step\n", None])
def test_a_damaged_curve_is_refused(text, tmp_path):
    Metrics(tmp_path, ("error",)).write({"step": 1, "loss": 2.0})
    whole = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(whole + (whole if text is None else text))
    with pytest.raises(InputError, match=r"metrics.csv is damaged .*: remove it and go on with --resume"):
        Metrics(tmp_path, ("error",), kept=1)
    (tmp_path / "metrics.csv").unlink()
    Metrics(tmp_path, ("error",), kept=1)


def test_a_curve_is_appended_to(tmp_path):
    Metrics(tmp_path, ("error",)).write({"step": 1, "loss": 2.0})
    Metrics(tmp_path, ("error",), kept=1).write({"step": 2, "loss": 1.0, "error": 3.0})
    assert [(r["step"], r["loss"], r["error"]) for r in read(tmp_path / "metrics.csv")] == [
        ("1", "2.0", ""),
        ("2", "1.0", "3.0"),
    ]
