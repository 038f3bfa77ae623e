"""A driver whose pool or cluster goes away, or that is asked to end: one line, exit code 3, and nothing left running."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from rankshift.jobs.pool.cluster import end_pool, make_pool
from rankshift.jobs.pool.connection import _same_signal, answered
from rankshift.jobs.pool.lease import Lease
from rankshift.screen.errors import Interrupted
from rankshift.screen.runs.run import Run
from support import GOLDEN, PATIENCE, ROOT, Halt, alive, family, until


def test_a_lease_of_a_pool_that_was_stopped_says_so(ray_cluster):
    pool = make_pool("stopped", 1)
    with Lease(pool, 1) as lease:
        assert lease.wait()
        end_pool(pool)
        with pytest.raises(Interrupted, match="the pool was stopped, what was committed stays: rankshift pool start"):
            until(lambda: lease.granted(lease.ask()), PATIENCE)


@ray.remote
class Sleeper:
    """An actor that takes its time, or dies."""

    def sleep(self) -> None:
        threading.Event().wait()

    def die(self) -> None:
        os._exit(1)


def test_nobody_waits_for_an_answer_without_a_limit(ray_cluster):
    sleeper = Sleeper.remote()
    try:
        with pytest.raises(Interrupted, match=r"the worker has not answered for 0 s: see `rankshift pool status`"):
            answered(sleeper.sleep.remote(), "the worker", seconds=0.1)
        asked = []

        def check() -> None:
            asked.append(True)
            raise Interrupted("over for another reason")

        with pytest.raises(Interrupted, match="over for another reason"):
            answered(sleeper.sleep.remote(), "the worker", check=check)
        assert asked == [True]
    finally:
        ray.kill(sleeper)
    with pytest.raises(Interrupted, match="the pool was stopped"):
        answered(sleeper.sleep.remote(), "the pool")


def test_ray_has_no_wait_without_a_limit_but_for_calls_that_have_ended():
    """Every ray.get of the command line's process has a limit, or comes after a ray.wait that said the call has ended."""
    ended = {"jobs/executor/ray.py": 4, "jobs/pool/connection.py": 1}
    found = {}
    for file in sorted((ROOT / "jobs").rglob("*.py")):
        calls = re.findall(r"ray\.get\((?:[^()]|\([^()]*\))*\)", file.read_text())
        if open_ended := [call for call in calls if "timeout" not in call]:
            found[file.relative_to(ROOT).as_posix()] = len(open_ended)
    assert found == ended


def test_sigterm_is_the_commands_also_while_ray_begins():
    """Ray would end the process with the signal's number; a driver of before its first worker had no line."""
    heard, before = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, own := lambda number, frame: heard.append(number))
    try:
        with _same_signal():
            ray._private.utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Screen:
    """A screen on a private cluster of its own whose worker stands before its second commit, so nothing goes on."""

    driver: subprocess.Popen
    run: Path
    folder: Path  # of its Ray
    processes: set[int]  # all it has started, also the worker that stands


@pytest.fixture
def screen(bundles, tmp_path) -> Iterator[Screen]:
    folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))
    run = tmp_path / "run"
    halt = Halt(run / "commits/shard-000001.json")
    env = {**os.environ, "RAY_TMPDIR": str(folder), "HOME": str(folder)}
    env.pop("RAY_ADDRESS", None)
    where = [GOLDEN / "v1/cells.parquet", "--bundle", bundles["v1"], "--out", run, "--perturb", "delete"]
    options = ["--shard-tokens", "60", "--workers", "1", "--dtype", "float32"]
    command = [sys.executable, "-m", "rankshift.jobs.cli", "screen", *map(str, where), *options]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    processes = {driver.pid}
    try:
        worker = halt.wait()
        processes = family(driver.pid)
        assert worker in processes
        assert list(Run.open(run).committed) == ["shard-000000"]
        yield Screen(driver, run, folder, processes)
    finally:
        for process in alive(processes):
            os.kill(process, signal.SIGKILL)
        driver.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_sigterm_ends_a_driver_of_ray_as_it_ends_others(screen):
    screen.driver.send_signal(signal.SIGTERM)
    _, err = screen.driver.communicate(timeout=PATIENCE)
    assert screen.driver.returncode == 3, err
    assert "rankshift: stopped; the same command with --resume goes on where it was" in err
    assert "Traceback" not in err
    assert list(Run.open(screen.run).committed) == ["shard-000000"]
    until(lambda: not alive(screen.processes), PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["gcs_server", "raylet"])
def test_a_cluster_that_is_killed_ends_its_driver_in_a_line_and_leaves_nothing(killed, screen):
    (process,) = [process for process in screen.processes if name(process) == killed]
    os.kill(process, signal.SIGKILL)
    out, err = screen.driver.communicate(timeout=PATIENCE)
    assert screen.driver.returncode == 3, err
    said = [line for line in err.splitlines() if line.startswith("rankshift: ")]
    assert len(said) == 1
    gone = r"(the head of the Ray cluster \(.*\)|Ray's process on this machine)"
    assert re.search(f"{gone} does not answer any more: start it, then continue with --resume", said[0])
    assert "(raylet)" not in out + err
    assert "Traceback" not in err
    until(lambda: not alive(screen.processes), PATIENCE)


def name(process: int) -> str:
    return Path(f"/proc/{process}/comm").read_text().strip()
