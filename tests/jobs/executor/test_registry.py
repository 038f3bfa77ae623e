"""The one place that chooses an executor, and what every one of them must offer."""

import importlib
import subprocess
import sys

import pytest

from rankshift.jobs.executor.executor import Executor
from rankshift.jobs.executor.local import Local
from rankshift.jobs.executor.ray import OnRay
from rankshift.jobs.executor.registry import CHOICE, EXECUTORS, executor, launcher
from rankshift.screen.errors import InputError
from support import PATIENCE


def test_no_workers_are_this_process_and_some_are_ray():
    assert isinstance(executor(0), Local)
    assert isinstance(executor(2), OnRay)
    assert executor(2).workers == 2
    assert launcher(0) is None  # a verb trains in its own process, with what it has read


def test_the_environment_chooses_where_workers_are_asked_for(monkeypatch):
    monkeypatch.setenv(CHOICE, "local")
    assert isinstance(executor(3), Local)
    assert isinstance(executor(3, name="ray"), OnRay)
    monkeypatch.setenv(CHOICE, "slurm")
    assert isinstance(executor(0), Local)
    with pytest.raises(InputError, match=r"executor 'slurm' is unknown \(RANKSHIFT_EXECUTOR\): use one of local, ray"):
        executor(3)


def test_fewer_than_no_workers_are_refused():
    with pytest.raises(InputError, match="-1 workers were asked for: ask for 1 or more, or 0"):
        executor(-1)


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_in_the_list_is_whole_and_starts_nothing_before_it_is_used(name):
    module, kind = EXECUTORS[name].split(":")
    chosen = getattr(importlib.import_module(module), kind)
    assert issubclass(chosen, Executor)
    assert not chosen.__abstractmethods__
    with chosen(1):
        pass


@pytest.mark.slow
def test_computing_in_this_process_does_not_wait_for_ray():
    code = """
import sys
from rankshift.jobs.executor.registry import executor
with executor(0) as here:
    assert here.call(abs, -3) == 3
print("ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "False\n", done.stderr
