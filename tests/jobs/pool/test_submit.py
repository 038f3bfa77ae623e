"""Verbs as jobs of a cluster with its dashboard: `rankshift pool` and `rankshift submit`, as a user types them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from rankshift.jobs.cli import run_command
from rankshift.jobs.pool import submit
from rankshift.screen.errors import InputError
from rankshift.screen.notebook import run
from rankshift.screen.runs.run import Run
from support import GOLDEN, PATIENCE, ROWS, until

V1 = GOLDEN / "v1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rankshift(*arguments: object, env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rankshift.jobs.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=PATIENCE)


@pytest.mark.parametrize("verb", ["../../x", "scren", "--help", "a\x1b[2J"])
def test_what_is_no_verb_is_refused_before_a_job_is_sent(verb, capfd):
    """At an address where nobody listens: that would be said next."""
    assert run_command(["submit", "--address", "http://127.0.0.1:9", "--", verb]) == 2
    said = capfd.readouterr().err
    assert "is no verb: use one of " in said
    assert "screen" in said
    assert "\x1b" not in said


def test_keys_in_a_url_do_not_become_the_command_of_a_job():
    """The cluster would keep it and show it to whoever lists jobs. There is no client: none is asked."""
    command = ["screen", "s3://AKIAKEY:SECRET@lab/cells.parquet", "--out", "run"]
    with pytest.raises(InputError, match=r"s3://\*\*\*@lab/cells.parquet --out run: .* leave them out") as refused:
        submit.submit(None, command)
    assert "AKIAKEY" not in str(refused.value)


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
        server.wait(timeout=PATIENCE)
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


class Dashboard(ThreadingHTTPServer):
    """What a client of jobs sees of a cluster: `answers` are given to the jobs sent, one by one, then all are taken."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.sent = answers, []


class _Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        self._say(200, json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ray.__commit__}))

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.sent.append(job)
        if self.server.answers:
            self._say(500, self.server.answers.pop(0))
        else:
            self._say(200, json.dumps({"job_id": job["submission_id"], "submission_id": job["submission_id"]}))

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *parts: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def dashboard(answers: list[str]) -> Iterator[Dashboard]:
    server = Dashboard(answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


NO_AGENT = "No available agent to submit job, please try again later."  # Ray's own words, while a cluster starts


def test_a_cluster_that_was_just_started_is_asked_again_until_it_takes_the_job(monkeypatch, capsys):
    monkeypatch.setattr(submit, "POLL", 0.01)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # connect sets it
    with dashboard([NO_AGENT, NO_AGENT]) as server:
        client = submit.connect(f"http://127.0.0.1:{server.server_port}")
        assert submit.submit(client, ["stats", "run"], say=lambda line: None) == 0
    job = capsys.readouterr().out.strip()
    assert [sent["submission_id"] for sent in server.sent] == [job] * 3
    assert server.sent[-1]["metadata"] == {"verb": "stats"}
    assert server.sent[-1]["entrypoint"].endswith("exec python -m rankshift.jobs.cli stats run")


def test_what_a_cluster_refuses_for_another_reason_is_not_sent_again(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # connect sets it
    with dashboard(["Traceback: the disk is full"]) as server:
        client = submit.connect(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(RuntimeError, match="the disk is full"):
            submit.submit(client, ["stats", "run"], say=lambda line: None)
    assert len(server.sent) == 1


def test_a_cluster_that_never_takes_jobs_is_given_up(monkeypatch):
    monkeypatch.setattr(submit, "POLL", 0.01)
    monkeypatch.setattr(submit, "FRESH", 0.0)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # connect sets it
    with dashboard([NO_AGENT] * 10) as server:
        client = submit.connect(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(RuntimeError, match="No available agent"):
            submit.submit(client, ["stats", "run"], say=lambda line: None)
