"""Verbs as jobs of a cluster with its dashboard: `rankshift pool` and `rankshift submit`, as a user types them."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rankshift.screen.engine.screener import run
from rankshift.screen.runs.run import Run
from support import GOLDEN

V1 = GOLDEN / "v1"
ROWS = "FROM shifts ORDER BY cell, perturbation"
PATIENCE = 300  # seconds for anything: a busy machine starts a job in half a minute


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rankshift(*arguments: object, env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rankshift.jobs.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=PATIENCE)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """The environment of a user on the head node of a cluster with a dashboard, a pool of two workers on it."""
    folder = tempfile.mkdtemp(prefix="rs", dir="/tmp")
    port, dashboard = free_port(), free_port()
    bin = Path(sys.executable).parent
    env = {
        **os.environ,
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",  # jobs run the first python there
        "HOME": folder,
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    start = ["--head", "--block", "--disable-usage-stats", "--num-cpus=4", "--object-store-memory=78643200"]
    ports = [
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        f"--dashboard-port={dashboard}",
        "--include-dashboard=true",
    ]
    ports += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    code = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "start", *start, *ports, f"--temp-dir={folder}/ray"],
        env={k: v for k, v in env.items() if k != "RAY_ADDRESS"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: rankshift("submit", "--list", env=env).returncode == 0)
        started = rankshift("pool", "start", "--workers", 2, "--ttl", 5, env=env)
        assert started.returncode == 0, started.stderr
        yield env
        stopped = rankshift("pool", "stop", env=env)
        assert stopped.returncode == 0, stopped.stderr
    finally:
        server.terminate()
        server.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_screen_as_a_job_is_followed_to_its_end(head, bundles, tmp_path):
    """Relative paths begin in the folder of the user, and the job uses the running pool."""
    where = ["screen", V1 / "cells.parquet", "--bundle", bundles["v1"], "--out", "run", "--perturb", "delete"]
    done = rankshift("submit", "--follow", "--", *where, env=head, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "551 perturbations of 12 cells" in done.stdout
    alone = run(V1 / "cells.parquet", bundles["v1"], tmp_path / "alone", perturb="delete")
    assert Run.open(tmp_path / "run").sql(ROWS).equals(alone.sql(ROWS))
    shown = rankshift("pool", "status", env={**head, "COLUMNS": "200"})
    assert shown.returncode == 0, shown.stderr
    assert "2 workers, this code" in shown.stdout
    assert Run.open(tmp_path / "run").manifest["bundle"]["weights_sha256"][:8] in shown.stdout


def test_a_job_that_fails_has_the_exit_code_of_its_verb(head, bundles, tmp_path):
    where = ["screen", "nothing.parquet", "--bundle", bundles["v1"], "--out", "run", "--perturb", "delete"]
    done = rankshift("submit", "--follow", "--", *where, env=head, cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing.parquet does not exist" in done.stdout
    job = done.stdout.splitlines()[0]
    listed = rankshift("submit", "--status", job, env=head)
    assert "failed" in listed.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_is_stopped_leaves_a_run_to_resume(head, bundles, tmp_path):
    place = tmp_path / "run"
    where = ["screen", V1 / "cells.parquet", "--bundle", bundles["v1"], "--out", place, "--perturb", "delete"]
    options = ["--shard-tokens", 60, "--token-budget", 60]
    sent = rankshift("submit", "--", *where, *options, env=head)
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.strip()
    until(lambda: bool(list(place.glob("commits/*.json"))))
    stopped = rankshift("submit", "--stop", job, env=head)
    assert stopped.returncode == 0, stopped.stderr
    assert job in rankshift("submit", "--list", env={**head, "COLUMNS": "200"}).stdout
    left = Run.open(place)
    if "stopped" in stopped.stderr:  # else it was done before it heard of it
        assert 0 < len(left.done) <= left.manifest["shards"]
    again = rankshift(*where, *options, "--resume", "--workers", 0, env=head)
    assert again.returncode == 0, again.stderr
    alone = run(V1 / "cells.parquet", bundles["v1"], tmp_path / "alone", perturb="delete")
    columns = "SELECT cell, perturbation, round(similarity, 5) AS s FROM shifts ORDER BY cell, perturbation"
    assert Run.open(place).sql(columns).equals(alone.sql(columns))


def test_what_cannot_be_submitted_is_refused(head):
    assert "a job cannot pool" in rankshift("submit", "--", "pool", "stop", env=head).stderr
    assert "is unknown to the cluster" in rankshift("submit", "--stop", "no-such-job", env=head).stderr
    assert "give one of" in rankshift("submit", env=head).stderr
    nowhere = rankshift("submit", "--list", "--address", f"http://127.0.0.1:{free_port()}", env=head)
    assert nowhere.returncode == 2
    assert "no dashboard answers" in nowhere.stderr
