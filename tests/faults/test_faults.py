"""A few trials of the harness, on a screen and a training of one process; `make faults` runs all, for as long as is wanted.

A process stands where the trial wants it when the fault comes, so no speed of a machine changes what is met.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from support import ROWS
from tests.faults.trial import FAULTS, Fault, run_trial
from tests.faults.works import Screen, Training

pytestmark = pytest.mark.slow
KINDS = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def screen(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Screen, Any]:
    """The screen, and the rows of one that nobody disturbs."""
    from rankshift.screen.engine.screener import run

    options = {"shard_tokens": 1500, "token_budget": 600, "dtype": "float32"}
    work = Screen("alone", bundles["v1"], dict(os.environ))
    out = tmp_path_factory.mktemp("quiet") / "run"
    return work, run(work.cells, bundles["v1"], out, perturb="delete", **options).sql(ROWS)


@pytest.mark.parametrize(
    "name", ["the driver is killed", "the folder is deleted", "the folder is moved", "a part is lost"]
)
def test_a_screen_survives(name, screen, tmp_path):
    work, quiet = screen
    assert run_trial(work, KINDS[name], "1", tmp_path / "trial", quiet) == "survived"


@pytest.mark.parametrize("name", ["the disk is full", "the disk is read-only"])
def test_a_screen_survives_a_disk(name, screen, tmp_path):
    work, quiet = screen
    try:
        found = run_trial(work, KINDS[name], "1", tmp_path / "trial", quiet)
    except OSError as error:
        pytest.skip(str(error))
    assert found == "survived"


def test_a_training_that_is_interrupted_goes_on_to_the_same_weights(bundles, tmp_path):
    work = Training("training", bundles["v1"], dict(os.environ))
    undisturbed = Fault("nothing", lambda trial: trial.go_on(), (0,))
    assert run_trial(work, undisturbed, "1", tmp_path / "quiet", None) == "different"  # from nothing
    quiet = work.result(tmp_path / "quiet/out")
    assert run_trial(work, KINDS["Ctrl-C"], "1", tmp_path / "trial", quiet) == "survived"


def test_what_does_not_hold_is_said(screen, tmp_path):
    """A trial whose rows are not those of the quiet run, or whose command ends as no fault of this kind ends."""
    work, quiet = screen
    unheard = Fault("unheard of", KINDS["stopped for a while"].do, (7,))
    assert run_trial(work, unheard, "1", tmp_path / "trial", quiet.slice(1)) == "exit code 0; different"
