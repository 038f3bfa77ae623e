"""`rankshift stats`: the file it writes, what it tells, and what it refuses."""

import numpy as np
import pytest

from drawn_runs import Draw
from rankshift.jobs.cli import run_command
from rankshift.jobs.verbs.stats import told
from rankshift.screen.runs.run import Run
from rankshift.screen.stats import Judging, statistics


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Run, np.ndarray]:
    draw = Draw(
        cells=300, genes=600, per_cell=120, donors=(0.5, 0.3, 0.2), cell_sd=1e-3, trend=4e-3, shifted=30, effect=3e-3
    )
    return draw.run(tmp_path_factory.mktemp("drawn") / "run")


@pytest.fixture(scope="module")
def effects(drawn):
    return statistics(drawn[0], "goal", judging=Judging(by="donor"))


def test_the_terminal_tells_what_holds_for_the_table(effects):
    lines = list(told(effects.summary))
    assert "one vote per donor" in lines[0]
    assert any("random halves" in line for line in lines) is (effects.summary["stability"] is not None)
    assert any(line.startswith("of the variance the cell explains") for line in lines)


def test_rows_that_were_left_out_are_told(effects):
    assert "2 rows are not numbers and are left out" in list(told(effects.summary | {"dropped_rows": 2}))


def test_the_command(drawn, tmp_path, capfd):
    run, _ = drawn
    out = tmp_path / "effects.csv"
    assert run_command(["stats", str(run.path), "--mode", "goal", "--by", "donor", "--out", str(out)]) == 0
    assert " of 598 perturbations have at least 10 cells" in capfd.readouterr().err
    assert out.read_text().startswith('"kind","gene_ids","symbols","cells"')
    for wrong, words in (
        (["--by", "tissue"], "the columns are cell_id, donor"),
        (["--by", "cell_id", "--min-cells", "0"], "at least 1"),
        (["--reference-names", "--by", "donor"], "leave them out"),
        (["--null", str(tmp_path)], "not a run folder"),
    ):
        assert run_command(["stats", str(run.path), "--mode", "goal", "--out", str(tmp_path / "no.csv"), *wrong]) == 2
        error = capfd.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    inside = run.path / "effects.csv"
    assert run_command(["stats", str(run.path), "--mode", "goal", "--out", str(inside)]) == 2
    assert not inside.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["effects.csv"]


@pytest.mark.slow
def test_a_run_is_judged_in_its_own_mode_where_none_is_named(drawn, tmp_path, capfd):
    run, _ = drawn
    for name, words in (("named", ["--mode", "goal"]), ("own", [])):
        assert run_command(["stats", str(run.path), "--out", str(tmp_path / f"{name}.csv"), *words]) == 0
    assert (tmp_path / "own.csv").read_bytes() == (tmp_path / "named.csv").read_bytes()
    assert run_command(["stats", str(run.path), "--null", str(run.path), "--out", str(tmp_path / "null.csv")]) == 0
    assert "null" in (tmp_path / "null.csv").read_text().splitlines()[0]
    capfd.readouterr()
