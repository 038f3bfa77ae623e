"""What is disturbed: a screen in its process, on a private cluster, on a pool or as a job, and a training.

A work says its command, the files at whose naming a process can be made to stand (`support.Halt`), and what to compare.
"""

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rankshift.screen.bundle.bundle import make_bundle
from rankshift.screen.runs.run import Run
from support import GOLDEN, ROWS, until

V1 = GOLDEN / "v1"
COMMAND = [sys.executable, "-m", "rankshift.jobs.cli"]
SHARDS = 12  # that the screen has at least
PATIENCE = 600  # seconds for anything: a hopeless case


def bundle_at(folder: Path) -> Path:
    """The bundle of the golden model, made once."""
    out = folder / "bundle"
    if not out.exists():
        make_bundle(V1 / "model", V1 / "vocabulary.json", out, medians=V1 / "medians.json")
    return out


class Work(Protocol):
    """A command whose result is the same however often it was cut short and resumed."""

    name: str
    env: dict[str, str]

    def command(self, out: Path) -> list[str]:
        """The command that makes `out`, with --resume where there is something to go on with."""

    def folder(self, out: Path) -> Path:
        """What is there while it is computed."""

    def place(self, out: Path, rng: random.Random) -> Path:
        """A file before whose naming a process is to be found."""

    def result(self, out: Path) -> Any:
        """What is compared with that of a quiet run."""


@dataclass
class Screen:
    """A deletion screen of some 20 shards. workers: None for the pool that `env` names. job: sent by `rankshift submit`."""

    name: str
    bundle: Path
    env: dict[str, str]
    workers: int | None = 0
    job: bool = False
    cells: Path = V1 / "cells.parquet"

    def command(self, out: Path) -> list[str]:
        """See `Work`."""
        words = ["screen", self.cells, "--bundle", self.bundle, "--out", out, "--perturb", "delete"]
        words += ["--shard-tokens", 1500, "--token-budget", 600, "--dtype", "float32"]
        words += [] if self.workers is None else ["--workers", self.workers]
        words += ["--resume"] if (out / "run.json").exists() else []
        return [*COMMAND, *(["submit", "--follow", "--"] if self.job else []), *map(str, words)]

    def folder(self, out: Path) -> Path:
        """See `Work`."""
        return out

    def place(self, out: Path, rng: random.Random) -> Path:
        """The part or the marker of a shard, not of the first."""
        number = rng.randrange(1, SHARDS - 1)
        return out / rng.choice([f"shifts/shard-{number:06d}.parquet", f"commits/shard-{number:06d}.json"])

    def result(self, out: Path) -> Any:
        """All rows, in order, of a run that is complete."""
        run = Run.open(out)
        return run.sql(ROWS) if run.complete else f"{len(run.committed)} of {run.manifest.shards} shards"


@dataclass
class Training:
    """A pretraining of a tiny model in its process."""

    name: str
    bundle: Path
    env: dict[str, str]

    def command(self, out: Path) -> list[str]:
        """See `Work`."""
        shape = {"layers": 1, "width": 32, "heads": 1, "inner": 32, "batch-tokens": 256, "epochs": 20, "log-every": 5}
        words = ["pretrain", V1 / "cells.parquet", "--vocabulary", self.bundle / "vocabulary.parquet", "--out", out]
        words += [word for name, value in shape.items() for word in (f"--{name}", value)]
        words += ["--workers", 0, *(["--resume"] if self.folder(out).exists() else [])]
        return [*COMMAND, *map(str, words)]

    def folder(self, out: Path) -> Path:
        """See `Work`."""
        return out.with_name(f"{out.name}.training")

    def place(self, out: Path, rng: random.Random) -> Path:
        """The table of losses, before the first step, or the bundle, after the last."""
        return rng.choice([self.folder(out) / "metrics/metrics.csv", out])

    def result(self, out: Path) -> Any:
        """The sha256 of the weights."""
        return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


@contextmanager
def head(env: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of a user on a cluster with a dashboard, and a pool of two workers on it; they end with the block."""
    folder = Path(tempfile.mkdtemp(prefix="rsf", dir="/tmp"))  # short: Ray's socket paths have a limit
    port, dashboard, agent, client = (_free_port() for _ in range(4))
    bin = Path(sys.executable).parent
    own = {
        **env,
        "PATH": f"{bin}{os.pathsep}{env['PATH']}",
        "HOME": str(folder),
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    start = ["--head", "--block", "--disable-usage-stats", "--num-cpus=4", "--object-store-memory=78643200"]
    start += [
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        f"--dashboard-port={dashboard}",
        "--include-dashboard=true",
    ]
    start += [
        f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}",
        f"--temp-dir={folder}/ray",
    ]
    code = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    without = {name: value for name, value in own.items() if name != "RAY_ADDRESS"}
    server = subprocess.Popen([sys.executable, "-c", code, "start", *start], env=without, **quiet)
    try:
        listed = [*COMMAND, "submit", "--list"]
        until(lambda: subprocess.run(listed, env=own, **quiet).returncode == 0, PATIENCE)
        subprocess.run([*COMMAND, "pool", "start", "--workers", "2", "--ttl", "5"], env=own, check=True, **quiet)
        yield own
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)


def pool_workers(env: dict[str, str]) -> list[int]:
    """Processes of Ray's workers below this machine's `head`, by the environment they were started in."""
    sign = f"RAY_ADDRESS={env['RAY_ADDRESS']}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cmdline").read_bytes().startswith(b"ray::Worker") and sign in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
