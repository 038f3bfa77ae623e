"""A driver whose pool or cluster goes away, or that is asked to end: one line, exit code 3, and nothing left running."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankshift.jobs.pool.cluster import end_pool, make_pool
from rankshift.jobs.pool.lease import Lease
from rankshift.screen.errors import Interrupted
from rankshift.screen.runs.run import Run
from support import GOLDEN, until

PATIENCE = 120  # seconds for anything on a busy machine


def test_a_lease_of_a_pool_that_was_stopped_says_so(ray_cluster):
    pool = make_pool("stopped", 1)
    with Lease(pool, 1) as lease:
        assert lease.wait()
        end_pool(pool)
        with pytest.raises(Interrupted, match="the pool was stopped, what was committed stays: rankshift pool start"):
            until(lambda: lease.granted(lease.ask()), PATIENCE)


@pytest.fixture
def screen(bundles, tmp_path) -> Iterator[tuple[subprocess.Popen, Path, Path]]:
    """A screen on a private cluster of its own, once it has committed a shard: its process, its run, Ray's folder."""
    folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))
    run = tmp_path / "run"
    env = {**os.environ, "RAY_TMPDIR": str(folder), "HOME": str(folder)}
    env.pop("RAY_ADDRESS", None)
    where = [GOLDEN / "v1/cells.parquet", "--bundle", bundles["v1"], "--out", run, "--perturb", "delete"]
    options = ["--shard-tokens", "60", "--workers", "1", "--dtype", "float32"]
    command = [sys.executable, "-m", "rankshift.jobs.cli", "screen", *map(str, where), *options]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    try:
        end = time.monotonic() + PATIENCE
        while not list(run.glob("commits/*.json")) and child.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        child.send_signal(signal.SIGSTOP)  # it waits for the test, and its workers for it
        yield child, run, folder
    finally:
        child.kill()
        for process in of(folder):
            os.kill(process, signal.SIGKILL)


def of(folder: Path, name: str = "") -> list[int]:
    """Processes of Ray whose command line names its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if entry.name.isdigit() and str(folder) in line and name in line.split(" ")[0]:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_sigterm_ends_a_driver_of_ray_as_it_ends_others(screen):
    child, run, _ = screen
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGCONT)
    _, err = child.communicate(timeout=PATIENCE)
    if child.returncode != 0:  # the screen may have been done
        assert child.returncode == 3, err
        assert "rankshift: stopped; the same command with --resume goes on where it was" in err
        assert "Traceback" not in err
    assert Run.open(run).committed


@pytest.mark.slow
def test_a_cluster_whose_head_is_killed_ends_its_driver_in_a_line_and_leaves_nothing(screen):
    child, _, folder = screen
    (head,) = of(folder, "gcs_server")
    os.kill(head, signal.SIGKILL)
    child.send_signal(signal.SIGCONT)
    _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 3, err
    said = [line for line in err.splitlines() if line.startswith("rankshift: ")]
    assert len(said) == 1
    assert re.search(
        r"the head of the Ray cluster \(.*\) does not answer any more: start it, then continue with", said[0]
    )
    until(lambda: not of(folder), PATIENCE)
