"""SQL over a study, from Python and from the command line: rows of all folds together, each with its fold, arm and donor."""

import csv

import pytest

from rankshift.jobs.cli import run_command
from rankshift.jobs.cohort.asking import Answers
from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run

pytestmark = pytest.mark.slow


def test_rows_of_all_folds_are_one_view(done):
    found = Answers.of(done).sql("SELECT fold, arm, count(*) AS n, count(DISTINCT donor) AS d FROM shifts GROUP BY ALL")
    expected = {
        (fold, arm): Run.open(place).sql("SELECT count(*) AS n FROM shifts").to_pylist()[0]["n"]
        for fold, arm, place in done.runs()
    }
    assert {(row["fold"], row["arm"]): row["n"] for row in found.to_pylist()} == expected
    assert {row["d"] for row in found.to_pylist()} == {2}


def test_tables_and_single_runs_are_there_too(done):
    asked = Answers.of(done)
    query = """SELECT max(abs(d.shift - s.m)) AS apart, count(*) AS n FROM donors d JOIN (
        SELECT gene_ids, arm, donor, avg(shift_well) AS m FROM shifts GROUP BY ALL
    ) s ON s.gene_ids = d.gene_id AND s.arm = d.arm AND s.donor = d.donor"""
    row = asked.sql(query).to_pylist()[0]
    assert row["n"] == asked.sql("SELECT * FROM donors").num_rows
    assert row["apart"] < 1e-9
    assert asked.sql("SELECT count(*) AS n FROM fold1_delete.shifts").to_pylist()[0]["n"] > 0
    assert asked.sql("SELECT role, count(*) AS n FROM cells GROUP BY role ORDER BY role").to_pylist() == [
        {"role": "analysis", "n": 120},
        {"role": "pool", "n": 168},
    ]
    with pytest.raises(InputError, match="use SELECT"):
        asked.sql("DROP VIEW shifts")


def test_the_command_asks_a_study_as_it_asks_a_run(done, tmp_path, capfd):
    out = tmp_path / "rows.csv"
    query = "SELECT donor, fold, count(*) AS n FROM shifts GROUP BY ALL ORDER BY donor"
    assert run_command(["query", str(done.path), query, "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["donor"] for row in rows] == [f"d{i}" for i in range(6)]
    assert run_command(["query", str(done.path), query, "--out", str(done.path / "rows.csv")]) == 2
    assert "lies inside the study" in capfd.readouterr().err
    assert run_command(["query", str(done.path), "--views"]) == 0
    assert "CREATE OR REPLACE VIEW shifts AS SELECT 0 AS fold" in capfd.readouterr().out


def test_a_report_of_a_study_is_its_page(done, tmp_path, capfd):
    out = tmp_path / "page.html"
    assert run_command(["report", str(done.path), "--out", str(out)]) == 0
    assert out.read_text() == done.report.read_text()
    assert run_command(["report", str(done.path), "--out", str(out), "--by", "donor"]) == 2
    assert "is a study, which has judged already" in capfd.readouterr().err
    assert run_command(["report", str(done.path), "--out", str(tmp_path / "page.pdf")]) == 2
    assert "is no .html" in capfd.readouterr().err
