"""Which cluster a command joins without being told, and the token it speaks with: those of this user, of nobody else."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankshift.jobs.pool.auth import first_token, use_token
from rankshift.jobs.pool.cluster import address, default_workers
from rankshift.jobs.pool.own_cluster import listener, own_cluster
from support import PATIENCE


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody who listens: this very process."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> Path:
    """The note that Ray leaves of the last cluster, of this user, with a token at home."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (tmp_path / "ray").mkdir(mode=0o777)
    written = tmp_path / "ray" / "ray_current_cluster"
    written.write_text(f"127.0.0.1:{port}\n")
    written.chmod(0o644)
    return written


def test_a_cluster_of_this_user_is_joined(note, port):
    assert own_cluster() == address() == f"127.0.0.1:{port}"


def test_one_that_another_user_names_is_not(note, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: note.stat().st_uid + 1)
    assert own_cluster() is None
    assert default_workers() == 0


def test_one_whose_note_others_may_write_or_have_linked_is_not(note, tmp_path):
    note.chmod(0o666)
    assert own_cluster() is None
    note.chmod(0o644)
    note.rename(tmp_path / "elsewhere")
    note.symlink_to(tmp_path / "elsewhere")
    assert own_cluster() is None


def test_one_that_asks_for_no_token_is_not(note, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert own_cluster() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # asked for by this user
    assert own_cluster() is not None


@pytest.mark.parametrize("text", ["", "auto", "127.0.0.1", "127.0.0.1:6379 --x", "\0", "x" * 400, "ray://127.0.0.1:1"])
def test_a_note_that_is_no_address_is_none(note, text):
    note.write_text(text)
    assert own_cluster() is None


def test_one_where_nobody_or_another_listens_is_none(note):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        silent = free.getsockname()[1]
    note.write_text(f"127.0.0.1:{silent}")
    assert own_cluster() is None
    note.write_text("192.0.2.1:6379")  # of another machine, which this user has joined by `ray start --address`
    assert own_cluster() == "192.0.2.1:6379"


def test_who_listens_is_found_in_the_kernels_table(port):
    assert listener(port) == os.getuid()


def test_a_named_cluster_is_taken_at_its_word(note, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert address() == "head:6379"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert address() == own_cluster()
    note.unlink()
    assert address() is None


def test_a_first_token_is_for_this_user_alone(note, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE")
    first_token()
    token = tmp_path / "home/.ray/auth_token"
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    before = token.read_text()
    monkeypatch.delenv("RAY_AUTH_MODE")
    first_token()
    assert token.read_text() == before


def test_a_token_that_ray_wrote_for_all_is_closed(note, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE")
    folder = tmp_path / "home/.ray"
    folder.mkdir(parents=True, mode=0o755)
    (folder / "auth_token").write_text("x" * 64)
    (folder / "auth_token").chmod(0o644)
    assert use_token()
    assert stat.S_IMODE((folder / "auth_token").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.slow
def test_ray_speaks_with_a_token_that_was_made_by_the_same_command(note, tmp_path):
    """`rankshift pool start` of a user without one: the mode that Ray reads when it is imported is that of the new token."""
    code = (
        "import sys, rankshift.jobs.cli\n"
        "assert 'ray' not in sys.modules\n"
        "from rankshift.jobs.pool.auth import first_token\n"
        "first_token()\n"
        "import rankshift.jobs.pool.admin\n"
        "from ray._raylet import AuthenticationMode, get_authentication_mode\n"
        "assert get_authentication_mode() == AuthenticationMode.TOKEN\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_named_cluster_where_nobody_listens_is_refused_in_a_line(scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "rankshift.jobs.cli", "pool", "status"]  # this process may be in a cluster already
    done = subprocess.run(
        command, env={**os.environ, "RAY_ADDRESS": where}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    told = f"no Ray cluster answers at RAY_ADDRESS={where}: start it, or unset RAY_ADDRESS"
    assert done.stderr.splitlines() == [f"rankshift: {told}"]
