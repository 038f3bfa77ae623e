"""A few damaged files of every kind, in a process of its own; `make fuzz` runs as many as are wanted."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support import PATIENCE, ROOT
from tests.fuzz import damage
from tests.fuzz.kinds import KINDS
from tests.fuzz.trial import finite, verdict_of


@pytest.mark.slow
def test_damaged_files_are_right_or_refused_in_a_line():
    """Two cases of each kind."""
    command = [sys.executable, "-m", "tests.fuzz", "--n", str(2 * len(KINDS)), "--seed", "11"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"0 of {2 * len(KINDS)} cases neither right nor refused in a line"


LINE = "rankshift: states.json is no JSON: give an object"
SAME = {"code": 0, "digest": "as before", "finite": True}


@pytest.mark.parametrize(
    ("outcome", "said", "harmless", "sealed", "verdict"),
    [
        (SAME, "", True, True, "right"),
        (SAME | {"digest": "another"}, "", False, False, "right"),
        (SAME | {"digest": "another"}, "", True, False, "wrong"),
        (SAME | {"digest": "another"}, "", False, True, "wrong"),
        (SAME | {"finite": False}, "", False, False, "not finite"),
        ({"code": 2}, LINE, False, True, "refused"),
        ({"code": 2}, LINE, True, False, "wrong"),
        ({"code": 2}, "", False, False, "not in a line"),
        ({"code": 2}, f"{LINE}\n{LINE}", False, False, "not in a line"),
        ({"code": 3}, LINE, False, False, "wrong"),
        ({"error": "KeyError('a')"}, "", False, False, "traceback"),
        ({"code": 2}, f"Traceback (most recent call last):\n{LINE}", False, False, "traceback"),
        ({"signal": "SIGSEGV"}, "", False, False, "crash"),
        ({"hang": 60}, "", False, False, "hang"),
    ],
)
def test_what_came_of_a_case_is_told(outcome, said, harmless, sealed, verdict, tmp_path):
    (tmp_path / "tmp").mkdir()
    kind = replace(KINDS[0], sealed=sealed)
    assert verdict_of(kind, tmp_path, outcome, said, "as before", harmless) == verdict


@pytest.mark.parametrize(
    ("left", "verdict"), [("tmp/x", "leftover"), (".out.tmp-1", "leftover"), ("executed", "executed")]
)
def test_what_is_left_is_found(left, verdict, tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / left).touch()
    assert verdict_of(KINDS[0], tmp_path, SAME, "", "as before", True) == verdict


@pytest.mark.parametrize(
    "change",
    [damage.bytes_changed, damage.text_changed, damage.json_changed, damage.replaced, damage.json_rewritten],
)
def test_a_seed_is_one_damage(change, tmp_path):
    files = [tmp_path / name for name in ("one", "two")]
    said = []
    for file in files:
        file.write_text('{"a": [1, 2, {"b": null}], "c": "text"}')
        said.append(change(random.Random("7"), file))
    assert said[0] == said[1]
    one, two = (file.is_file() and file.read_bytes() for file in files)
    assert one == two


def test_numbers_that_are_not_finite_are_found(tmp_path: Path):
    assert finite([["a"], [1, 2.0, None], [[0.5]]])
    assert not finite([[1.0], [[float("nan")]]])
    assert not finite([float("inf")])
