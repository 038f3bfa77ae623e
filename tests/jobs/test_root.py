"""`import rankshift`: every verb by its name, loaded when used; jobs.screen takes the keywords of run."""

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import rankshift as rs
from rankshift.jobs.cli import run_command
from support import GOLDEN, ROWS

V1 = GOLDEN / "v1"


def test_names_are_there_and_load_when_used():
    assert all(getattr(rs, name) is not None for name in dir(rs))
    assert rs.__version__ == version("rankshift")
    code = "import sys, rankshift as rs; dir(rs); print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_the_module_is_the_command(capfd):
    done = subprocess.run([sys.executable, "-m", "rankshift", "--version"], capture_output=True, text=True, check=True)
    assert run_command(["--version"]) == 0
    assert done.stdout == capfd.readouterr().out


def test_a_screen_on_workers_takes_the_same_keywords():
    here, there = (inspect.signature(f).parameters for f in (rs.run, rs.jobs.screen))
    assert set(there) ^ set(here) == {"workers", "done"}
    for name in set(here) & set(there):
        assert (here[name].kind, here[name].default) == (there[name].kind, there[name].default)


@pytest.mark.slow
def test_from_counts_to_an_answer_in_python(tmp_path):
    """The verbs of the command as functions: vocabulary, tokenize, pretrain, embed, run, stats."""
    quiet = {"say": lambda line: None}
    vocabulary = tmp_path / "vocabulary.parquet"
    rs.build_vocabulary(V1 / "cells.h5ad", vocabulary)
    assert run_command(["tokenize", str(V1 / "cells.h5ad"), "--vocabulary", str(vocabulary), "--keep", "cell_type",
                        "--out", str(tmp_path / "cells.parquet")]) == 0  # fmt: skip
    small = rs.Pretraining(layers=2, width=16, heads=2, inner=32, epochs=1)
    bundle = rs.pretrain(tmp_path / "cells.parquet", vocabulary, tmp_path / "bundle", small, **quiet)
    cells = rs.tokenize(V1 / "cells.h5ad", bundle.path)
    states = tmp_path / "states.json"
    rs.embed(tmp_path / "cells.parquet", bundle.path, states, by="cell_type", **quiet)
    first, second = sorted(set(cells.obs["cell_type"].to_pylist()))[:2]
    route = {"states": states, "state_key": "cell_type", "start": first, "goal": second}
    made = rs.run(cells, bundle.path, tmp_path / "run", perturb="delete", max_cells=3, **route, **quiet)
    assert made.sql(f"SELECT count(*) AS n {ROWS.replace('ORDER BY cell, perturbation', '')}")["n"][0].as_py() > 0
    assert made.stats(min_cells=1, bootstrap=0).shift_mean.notna().all()
