"""Pretraining that goes on from a bundle: it begins where the bundle is, keeps what belongs to it, and can be stopped."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import BertForMaskedLM, BertForTokenClassification

from rankshift.jobs.cli import run_command
from rankshift.jobs.pretraining.objective import MaskedBatches, split
from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.pretrain import pretrain
from rankshift.jobs.training import trainer
from rankshift.jobs.training.metrics import read as read_metrics
from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError, Stopped
from rankshift.screen.genes.vocabulary import make_vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

GENES = [f"ENSG{i:011d}" for i in range(24)]
FIRST = Pretraining(
    layers=1, width=16, heads=1, inner=16, epochs=30, batch_tokens=64, learning_rate=2e-2, held_out=0.1, dropout=0.0,
    initializer=0.1,
)  # fmt: skip
NEXT = Pretraining(epochs=2, batch_tokens=64, learning_rate=1e-3, held_out=0.1, log_every=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """cells.parquet, vocabulary.parquet with symbols and medians, and the bundle `first` with an alias."""
    folder = tmp_path_factory.mktemp("first")
    table = make_vocabulary(
        {name: token for token, name in enumerate(["<pad>", "<mask>", *GENES])},
        names={"TP53": GENES[3]},
        medians={gene: 1.0 + i for i, gene in enumerate(GENES)},
    )
    table.write(folder / "vocabulary.parquet")
    rng = np.random.default_rng(0)
    lists = [2 + 8 * (i % 3) + rng.permutation(8)[:6] for i in range(60)]  # three programmes of eight genes
    offsets = np.arange(len(lists) + 1) * 6
    obs = pa.table({"cell_id": [f"c{i}" for i in range(len(lists))]})
    cells = Cells(ids=np.concatenate(lists).astype(np.int32), offsets=offsets, obs=obs, frame=table.frame_tokens.frame)
    cells.write(folder / "cells.parquet", table)
    made = pretrain(folder / "cells.parquet", folder / "vocabulary.parquet", folder / "plain", FIRST, say=quiet)
    aliases = folder / "aliases.json"
    aliases.write_text(json.dumps({"ENSG99999999999": GENES[0]}))
    make_bundle(made.path, made.path / "vocabulary.parquet", folder / "first", aliases=aliases)
    return folder


def quiet(line: str) -> None:
    """Say nothing."""


def go_on(folder: Path, out: Path, options: Pretraining = NEXT, **given) -> Bundle:
    given = {"start": folder / "first", "say": quiet, **given}
    return pretrain(folder / "cells.parquet", given.pop("vocabulary", None), out, options, **given)


def first_loss(bundle: Path) -> float:
    return float(read_metrics(bundle / "metrics" / "metrics.csv")[0]["loss"])


def test_the_first_step_finds_the_loss_of_the_bundle(folder, tmp_path):
    made = go_on(folder, tmp_path / "next")
    # The loss of transformers itself, on the genes that the first step hides.
    model = BertForMaskedLM.from_pretrained(folder / "first").eval()
    first = Bundle.open(folder / "first")
    cells = Cells.read(folder / "cells.parquet", first)
    train, _ = split(len(cells), NEXT)
    (batch,) = MaskedBatches(cells, train, first.vocabulary, NEXT, torch.device("cpu")).step(0, 0).passes
    labels = torch.full_like(batch.shown, -100)
    labels[batch.hidden] = batch.genes
    with torch.no_grad():
        theirs = float(model(input_ids=batch.shown, attention_mask=batch.real, labels=labels).loss)
    assert first_loss(made.path) == pytest.approx(theirs, abs=1e-4)
    # A new model of that shape knows only how common genes are.
    fresh = replace(NEXT, layers=1, width=16, heads=1, inner=16, dropout=0.0)
    new = pretrain(folder / "cells.parquet", folder / "vocabulary.parquet", tmp_path / "new", fresh, say=quiet)
    assert first_loss(new.path) > theirs + 0.3


def test_what_the_new_bundle_keeps_and_tells(folder, tmp_path):
    first, made = Bundle.open(folder / "first"), go_on(folder, tmp_path / "next")
    assert made.config["pretraining"]["from_weights_sha256"] == first.weights_sha256 != made.weights_sha256
    assert "from_weights_sha256" not in first.config["pretraining"]
    assert (made.sizes, made.aliases) == (first.sizes, first.aliases)
    assert made.vocabulary_sha256 == first.vocabulary_sha256
    # With almost no learning rate the weights stay what they were.
    still = go_on(folder, tmp_path / "still", replace(NEXT, learning_rate=1e-12, epochs=1))
    was, now = first.encoder_weights(), still.encoder_weights()
    assert was.keys() == now.keys()
    for name, tensor in was.items():
        torch.testing.assert_close(now[name], tensor, rtol=0, atol=1e-7)


def test_it_can_be_stopped(folder, tmp_path, monkeypatch):
    whole, save, saved = go_on(folder, tmp_path / "whole"), trainer.save, []

    def save_and_press(*arguments):
        save(*arguments)
        saved.append(arguments[3]["step"])
        if len(saved) == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save", save_and_press)
        with pytest.raises(Stopped):
            go_on(folder, tmp_path / "out", replace(NEXT, save_every=0.0))
    with pytest.raises(InputError, match="other cells or options"):  # the same cells from another beginning
        go_on(folder, tmp_path / "out", start=whole.path, resume=True)
    assert go_on(folder, tmp_path / "out", resume=True).weights_sha256 == whole.weights_sha256


def test_from_the_command_line(folder, tmp_path, capfd):
    line = ["pretrain", str(folder / "cells.parquet"), "--out", str(tmp_path / "out"), "--epochs", "1"]
    assert run_command(line) == 2
    assert "give --vocabulary, or --from BUNDLE" in capfd.readouterr().err
    line += ["--from", str(folder / "first")]
    for option in (["--preset", "v1-10m"], ["--layers", "2"], ["--dropout", "0.1"]):
        assert run_command([*line, *option]) == 2
        assert f"--from and {option[0]} both give the shape: use one of them" in capfd.readouterr().err
    assert run_command([*line, "--input-size", "9"]) == 2
    assert "input_size 9 is not the config's 6 positions" in capfd.readouterr().err
    assert run_command([*line, "--vocabulary", str(folder / "vocabulary.parquet"), "--workers", "0"]) == 0
    assert Bundle.open(tmp_path / "out").config["num_hidden_layers"] == 1


def test_what_does_not_fit(folder, tmp_path):
    other = make_vocabulary({"<pad>": 0, "<mask>": 1, GENES[0]: 2})
    other.write(tmp_path / "other.parquet")
    with pytest.raises(
        InputError, match=r"has 3 tokens that are not the 26 of .*first: give the cells in that bundle's"
    ):
        go_on(folder, tmp_path / "out", vocabulary=tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"width is given, and the model goes on from .*first, which has its own"):
        go_on(folder, tmp_path / "out", replace(NEXT, width=32))
    with pytest.raises(InputError, match="is not a bundle"):
        go_on(folder, tmp_path / "out", start=tmp_path)
    tuned = tmp_path / "tuned"
    BertForTokenClassification.from_pretrained(folder / "first").save_pretrained(tuned)
    make_bundle(tuned, folder / "vocabulary.parquet", tmp_path / "headless")
    with pytest.raises(InputError, match=r"headless holds no cls\.predictions\..*: its model names no hidden genes"):
        go_on(folder, tmp_path / "out", start=tmp_path / "headless")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / "out.training", ignore_errors=True)
