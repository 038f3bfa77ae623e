"""Gangs of real processes over gloo: they agree on the numbers, come and go, stop together, and survive a death."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import BertForMaskedLM, BertModel

from rankshift.jobs.pretraining.objective import held_out_loss, split
from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.pretrain import pretrain
from rankshift.jobs.training.checkpoint import read_record
from rankshift.jobs.training.metrics import read as read_metrics
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.genes.vocabulary import make_vocabulary
from support import PATIENCE

# No dropout: which units it drops is the one thing that depends on who computes.
OPTIONS = Pretraining(
    layers=1, width=32, heads=2, inner=32, epochs=2, batch_tokens=400, dropout=0.0, learning_rate=5e-3, warmup=3,
    schedule="cosine", hidden_share=0.3, held_out=0.1, log_every=1, save_every=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """(cells.parquet, vocabulary.parquet): cells of 3 to 40 genes, every gene near its neighbours."""
    folder, rng = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    table = make_vocabulary({n: i for i, n in enumerate(["<pad>", "<mask>", *(f"ENSG{i:011d}" for i in range(60))])})
    lists = [2 + (rng.integers(60) + rng.permutation(n)) % 60 for n in rng.integers(3, 41, 150)]
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])])
    obs = pa.table({"cell_id": [f"c{i}" for i in range(len(lists))]})
    table.write(folder / "vocabulary.parquet")
    Cells(ids=np.concatenate(lists).astype(np.int32), offsets=offsets, obs=obs).write(folder / "cells.parquet", table)
    return folder / "cells.parquet", folder / "vocabulary.parquet"


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory) -> Bundle:
    """The training by this process alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return pretrain(*files, tmp_path_factory.mktemp("alone") / "bundle", OPTIONS, say=lambda line: None)
    finally:
        torch.set_num_threads(threads)


class Member:
    """A process that may be told to train, again and again."""

    def __init__(self, before: Sequence[str] = (), **environment: str) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, str(Path(__file__).with_name("member.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip

    def tell(self, command: dict) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        """What came of it; {} when the process died."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "no answer"
        return json.loads(self.process.stdout.readline() or "{}")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def members() -> Iterator[list[Member]]:
    """Three living processes; a test that kills one puts another in its place."""
    some = [Member() for _ in range(3)]
    yield some
    for member in some:
        member.end()


def gang(
    members: list[Member], files: tuple[Path, Path], out: Path, *scripts: dict, where: str | None = None, **options
) -> list[dict]:
    """Train on these members; `scripts`, by rank, say who stops or dies when. where: they meet; None for this host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous = where or f"tcp://127.0.0.1:{free.getsockname()[1]}"
    paths = {"cells": str(files[0]), "vocabulary": str(files[1]), "out": str(out)}
    for rank, member in enumerate(members):
        place = {"number": rank, "world": len(members), "rendezvous": rendezvous if len(members) > 1 else None}
        script = scripts[rank] if rank < len(scripts) else {}
        member.tell({"rank": place, "paths": paths, "options": {**asdict(OPTIONS), **options}, "script": script})
    return [member.answer() for member in members]


def curve(folder: Path) -> list[list[float]]:
    """Step, learning rate, loss and gradient norm of every row."""
    columns = ("step", "learning_rate", "loss", "gradient_norm")
    return [[float(row[name]) for name in columns] for row in read_metrics(folder / "metrics" / "metrics.csv")]


def test_gangs_of_two_one_two_and_three_in_the_same_processes_give_the_same_training(alone, members, files, tmp_path):
    a, b, c = members
    curves = [curve(alone.path)]
    cells = 2 * alone.config["pretraining"]["train_cells"]
    for number, who in enumerate(([a, b], [a], [b, a], [c, b, a])):
        out = tmp_path / f"bundle{number}"
        answers = gang(who, files, out)
        for answer in answers:
            assert answer["losses"] == pytest.approx(
                {name: alone.config["pretraining"][name] for name in answer["losses"]}, abs=2e-6
            )
        assert [answer["cells"] for answer in answers] == [cells, *[0] * (len(who) - 1)]  # rank 0 reports for all
        curves.append(curve(out))
        Bundle.open(out).verify()
    for other in curves[1:]:
        np.testing.assert_allclose(other, curves[0], rtol=2e-5, atol=1e-6)
    assert curves[2] == curves[0]  # alone again, bit for bit
    assert len(curves[0]) > 15


def test_passes_change_nothing(alone, members, files, tmp_path):
    gang(members[:2], files, tmp_path / "b", accumulate=3)  # six shares, of batches that have fewer cells, too
    np.testing.assert_allclose(curve(tmp_path / "b"), curve(alone.path), rtol=2e-5, atol=1e-6)
    gang(members[2:], files, tmp_path / "c", accumulate=50)
    np.testing.assert_allclose(curve(tmp_path / "c"), curve(alone.path), rtol=2e-5, atol=1e-6)


def test_a_rank_that_stops_stops_all_and_fewer_can_go_on(alone, members, files, tmp_path):
    out = tmp_path / "bundle"
    answers = gang(members[:2], files, out, {}, {"stop_at": 7})
    assert [answer["error"] for answer in answers] == ["Stopped"] * 2
    assert read_record(tmp_path / "bundle.training")["step"] == 7
    (answer,) = gang(members[2:], files, out)
    assert answer["losses"]["held_out_loss"] == pytest.approx(alone.config["pretraining"]["held_out_loss"], abs=1e-6)
    np.testing.assert_allclose(curve(out), curve(alone.path), rtol=2e-5, atol=1e-6)
    assert not (tmp_path / "bundle.training").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_is_named_and_the_last_step_is_kept(alone, members, files, tmp_path, victim):
    out, died = tmp_path / "bundle", 5
    scripts = [{"die_at": died} if rank == victim else {} for rank in range(3)]
    # Saved by no clock: what is there afterwards was saved by those who were left.
    answers = gang(members, files, out, *scripts, save_every=1e9)
    assert answers[victim] == {}
    members[victim].end()
    members[victim] = Member()
    folder = tmp_path / "bundle.training"
    for rank in {0, 1, 2} - {victim}:
        assert answers[rank] == {
            "error": "WorkerGone",
            "message": f"worker of rank {victim} is gone after step {died}: {folder} keeps it, go on with --resume",
        }
    assert read_record(folder)["step"] == died
    assert not out.exists()
    resumed = gang([members[2], members[1]], files, out)
    for answer in resumed:
        assert answer["losses"]["loss"] == pytest.approx(alone.config["pretraining"]["loss"], abs=1e-6)
    np.testing.assert_allclose(curve(out), curve(alone.path), rtol=2e-5, atol=1e-6)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two hosts on one cable, as network namespaces of this machine; each is the words that run a command there."""
    names = [f"rs{os.getpid()}-{end}" for end in "ab"]
    made = []
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("no network namespace can be made here: that needs root")
            made.append(name)
        ends = [word for name in names for word in ("cable", "netns", name)]
        subprocess.run(["ip", "link", "add", *ends[:3], "type", "veth", "peer", "name", *ends[3:]], check=True)
        for number, name in enumerate(names, 1):
            for line in (f"addr add 10.99.0.{number}/24 dev cable", "link set cable up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *line.split()], check=True)
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.skipif(shutil.which("ip") is None, reason="the command ip (iproute2) is not here")
def test_a_host_that_loses_its_network_is_noticed_long_before_the_patience_of_a_collective(
    hosts, alone, files, tmp_path
):
    """Nothing closes the connections, and without keepalive the ranks would wait for the hour that they have here."""
    members = [Member(["ip", "netns", "exec", name], GLOO_SOCKET_IFNAME="cable") for name in hosts]
    try:
        scripts = {"patience": 3600}, {"patience": 3600, "cut_at": 5, "cable": "cable"}
        answers = gang(members, files, tmp_path / "bundle", *scripts, where="tcp://10.99.0.1:4711", save_every=1e9)
    finally:
        for member in members:
            member.end()
    folder = tmp_path / "bundle.training"
    assert [answer["error"] for answer in answers] == ["WorkerGone"] * 2
    assert f"worker of rank 1 is gone after step 5: {folder} keeps it, go on with --resume" in answers[0]["message"]
    assert read_record(folder)["step"] == 5


def test_the_bundle_of_a_gang_opens_in_transformers_and_gives_the_recorded_loss(members, files, tmp_path):
    gang(members[:2], files, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    cells = Cells.read(files[0], bundle)
    _, judged = split(len(cells), OPTIONS)
    model = BertForMaskedLM.from_pretrained(bundle.path).eval()
    loss = held_out_loss(model, cells, judged, bundle.vocabulary, OPTIONS)
    assert loss == pytest.approx(bundle.config["pretraining"]["held_out_loss"], abs=1e-6)
    encoder = BertModel.from_pretrained(bundle.path, add_pooling_layer=False).eval()
    ids = torch.from_numpy(cells.ids_of(0)[None].astype(np.int64))
    with torch.no_grad():  # the head over the encoder's own output is the whole model
        logits = model.cls(encoder(ids).last_hidden_state)
        torch.testing.assert_close(model(ids).logits, logits, atol=1e-5, rtol=0)


def test_ranks_that_see_different_folders_are_refused(members, files, tmp_path):
    gang(members[:1], files, tmp_path / "bundle", {"stop_at": 3})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    for rank, out in enumerate(("bundle", "elsewhere")):
        paths = {"cells": str(files[0]), "vocabulary": str(files[1]), "out": str(tmp_path / out)}
        place = {"number": rank, "world": 2, "rendezvous": rendezvous}
        members[rank].tell({"rank": place, "paths": paths, "options": asdict(OPTIONS), "script": {}})
    for member in members[:2]:
        answer = member.answer()
        assert answer["error"] == "TrainingFailed"
        assert "ranks are at steps 0 to 3" in answer["message"]
