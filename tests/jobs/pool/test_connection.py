"""A driver whose pool or cluster goes away, or that is asked to end: one line, exit code 3, and nothing left running."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rankshift.jobs.pool.cluster import end_pool, make_pool
from rankshift.jobs.pool.lease import Lease
from rankshift.screen.errors import Interrupted
from rankshift.screen.runs.run import Run
from support import GOLDEN, Halt, alive, family, until

PATIENCE = 120  # seconds for anything on a busy machine


def test_a_lease_of_a_pool_that_was_stopped_says_so(ray_cluster):
    pool = make_pool("stopped", 1)
    with Lease(pool, 1) as lease:
        assert lease.wait()
        end_pool(pool)
        with pytest.raises(Interrupted, match="the pool was stopped, what was committed stays: rankshift pool start"):
            until(lambda: lease.granted(lease.ask()), PATIENCE)


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
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
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
def test_a_cluster_whose_head_is_killed_ends_its_driver_in_a_line_and_leaves_nothing(screen):
    (head,) = [process for process in screen.processes if name(process) == "gcs_server"]
    os.kill(head, signal.SIGKILL)
    _, err = screen.driver.communicate(timeout=PATIENCE)
    assert screen.driver.returncode == 3, err
    said = [line for line in err.splitlines() if line.startswith("rankshift: ")]
    assert len(said) == 1
    assert re.search(
        r"the head of the Ray cluster \(.*\) does not answer any more: start it, then continue with", said[0]
    )
    until(lambda: not alive(screen.processes), PATIENCE)


def name(process: int) -> str:
    return Path(f"/proc/{process}/comm").read_text().strip()
