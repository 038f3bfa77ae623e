"""A run that is removed while it is written: its writers stop, and of the run nothing stays behind, unless it can be read."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener
from rankshift.screen.files.atomic import MovedAway, _machine
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.writing import tidied, whole_or_gone, writing
from support import GOLDEN, SCREEN, until

SIGN = ("run.json", "screen.toml", "cells.parquet", "perturbations.parquet", "lists.parquet", "shards.parquet")


@pytest.fixture
def screener(bundles, tmp_path) -> Screener:
    """A prepared run with its first shard committed."""
    bundle = Bundle.open(bundles["v1"])
    run = prepare(GOLDEN / "v1/cells.parquet", bundle, tmp_path / "run", Options(**SCREEN))
    screener = Screener.open(run.path, bundle)
    screener.compute(screener.shards[0], Encoder(bundle))
    return screener


def shard(screener: Screener, bundles: dict[str, Path], number: int) -> None:
    screener.compute(screener.shards[number], Encoder(Bundle.open(bundles["v1"])))


def test_remains_of_a_run_that_was_removed_go_when_its_next_shard_is_done(screener, bundles):
    """What rm leaves where a worker has put a part into a folder that was listed already."""
    _ = screener.perturbation_of  # read before
    for name in (*SIGN, "shifts/empty.parquet"):
        (screener.run.path / name).unlink()
    with pytest.raises(MovedAway, match="was moved or removed while it was written"):
        shard(screener, bundles, 1)
    assert not screener.run.path.exists()


def test_a_removal_that_is_under_way_is_waited_for(screener):
    run = screener.run.path
    (run / "run.json").unlink()
    ended = threading.Event()

    def write() -> None:
        with pytest.raises(MovedAway), writing(run, run / "shifts/shard-000001.parquet"):
            pass
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    shutil.rmtree(run, ignore_errors=True)  # it may find that the writer was faster
    until(ended.is_set)
    writer.join()
    assert not run.exists()


def test_a_part_that_took_its_place_as_the_run_went_goes_too(screener):
    run = screener.run.path

    def write() -> None:
        with whole_or_gone(run):
            with writing(run, run / "shifts/shard-000001.parquet") as temporary:
                temporary.write_bytes(b"part")
            for name in (*SIGN, "shifts/empty.parquet"):
                (run / name).unlink()
            Run.open(run)

    with pytest.raises(ValueError, match="not a run folder"):
        write()
    assert not run.exists()


def test_a_run_that_lost_its_manifest_alone_keeps_its_rows(screener, monkeypatch):
    from rankshift.screen.runs import writing as module

    monkeypatch.setattr(module, "REMOVING", 0.1)
    run = screener.run.path
    (run / "run.json").rename(run.with_name("kept.json"))
    with pytest.raises(MovedAway), writing(run, run / "shifts/shard-000001.parquet"):
        pass
    assert (run / "commits/shard-000000.json").exists()
    run.with_name("kept.json").rename(run / "run.json")
    assert list(Run.open(run).committed) == ["shard-000000"]


def test_what_others_have_put_there_stays(screener):
    run = screener.run.path
    (run / "notes.txt").write_text("mine")
    for name in SIGN:
        (run / name).unlink()
    with pytest.raises(MovedAway), writing(run, run / "shifts/shard-000001.parquet"):
        pass
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "commits").exists()


def test_an_error_of_another_kind_removes_nothing(screener):
    def fail() -> None:
        with whole_or_gone(screener.run.path):
            raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError):
        fail()
    assert pq.read_metadata(screener.run.path / "shifts/shard-000000.parquet").num_rows > 0


def test_what_a_writer_that_died_had_begun_is_gone_when_the_screen_ends(screener):
    died = [sys.executable, "-c", "import os; print(os.getpid())"]
    gone = int(subprocess.run(died, capture_output=True, text=True).stdout)
    begun = screener.run.path / f"shifts/.shard-000007.parquet.{_machine()}-{gone}-0123abcd.tmp"
    with tidied(screener.run.path):
        begun.write_text("half")
    assert not begun.exists()
