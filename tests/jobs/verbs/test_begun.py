"""A screen that ends in the midst of a shard, by a signal: the same command goes on where it was, to the same rows."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rankshift.jobs.cli import run_command
from rankshift.screen.runs.layout import BEGUN
from support import GOLDEN, until

# Small blocks, each kept at once; with "slowly" there is time to hit one.
SCREEN = """
import sys, time
from rankshift.jobs.cli import run_command
from rankshift.screen.encoder import encoder
from rankshift.screen.engine import shifts
from rankshift.screen.runs import begun
encoder.BLOCK_TOKENS, begun.EVERY = 300, 0.0
add = begun.Begun.add
def told(self, key, number, block):
    print("block", key, number, flush=True)
    add(self, key, number, block)
    time.sleep(0.3 if sys.argv[1] == "slowly" else 0)
begun.Begun.add = told
raise SystemExit(run_command(sys.argv[2:]))
"""


def screen(speed: str, bundle: Path, out: Path, *more: str) -> subprocess.Popen:
    options = [
        "--max-cells",
        "4",
        "--token-budget",
        "2000",
        "--dtype",
        "float32",
        "--embedding",
        "cell",
        "--workers",
        "0",
    ]
    inputs = [
        "screen",
        str(GOLDEN / "v1/cells.parquet"),
        "--bundle",
        str(bundle),
        "--perturb",
        "delete",
        "--out",
        str(out),
    ]
    command = [sys.executable, "-c", SCREEN, speed, *inputs, *options, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def blocks(child: subprocess.Popen) -> list[str]:
    """Those that a process computed before it ended."""
    return [line for line in child.communicate()[0].splitlines() if line.startswith("block ")]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_block_that_was_done_is_computed_again(how, bundles, tmp_path):
    quiet = screen("fast", bundles["v1"], tmp_path / "quiet")
    whole = blocks(quiet)
    assert quiet.returncode == 0
    child = screen("slowly", bundles["v1"], tmp_path / "run")
    kept = tmp_path / "run" / BEGUN
    until(lambda: child.poll() is not None or (kept.is_dir() and len(list(kept.glob("*.npz"))) >= 3))
    child.send_signal(how)
    first = blocks(child)
    assert child.returncode not in (0, 2)
    assert len(list(kept.glob("*.npz"))) >= 3
    again = screen("fast", bundles["v1"], tmp_path / "run", "--resume")
    second = blocks(again)
    assert again.returncode == 0
    assert not kept.exists()
    twice = set(first) & set(second)
    assert len(twice) <= (how == signal.SIGKILL), "killed, it loses the block that was being written"
    assert {*first, *second} == set(whole)
    parts = sorted(path.name for path in (tmp_path / "quiet/shifts").iterdir())
    assert all(
        (tmp_path / "run/shifts" / name).read_bytes() == (tmp_path / "quiet/shifts" / name).read_bytes()
        for name in parts
    )
    assert run_command(["verify", str(tmp_path / "run")]) == 0
