"""`rankshift query` and the table `rankshift stats` leaves in a run: terminals wide and narrow, files, several runs."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from drawn_runs import Draw
from rankshift.jobs.cli import run_command
from rankshift.screen.runs.layout import STATISTICS
from rankshift.screen.runs.run import Run


def rankshift(*arguments: object) -> int:
    return run_command([str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folder with two drawn runs, `down` and `up`."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("down", "up")):
        Draw(cells=60, genes=80, per_cell=40, shifted=8, effect=5e-3, seed=seed).run(folder / name)
    return folder


def on_terminal(columns: int, *arguments: object) -> str:
    """What the command shows on a terminal of so many columns."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "rankshift.jobs.cli", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    child = subprocess.Popen(command, stdout=side, stderr=subprocess.PIPE, env=environment)
    os.close(side)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    assert child.wait() == 0, child.stderr
    child.stderr.close()
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.slow
def test_a_terminal_shows_whole_numbers_however_narrow(runs):
    query = (
        "SELECT repeat('long name ', 9) AS name, 123456789012345678 AS whole, 1.25e-300 AS small, NULL AS none, "
        "'[red]AAC-1' AS tag FROM cells LIMIT 2"
    )
    wide = on_terminal(160, "query", runs / "down", query).splitlines()
    assert [len(line.rstrip()) for line in wide] == [len(wide[0].rstrip()), *[max(map(len, map(str.rstrip, wide)))] * 2]
    assert wide[1].split() == [*["long", "name"] * 9, "123456789012345678", "1.25e-300", "NULL", "[red]AAC-1"]
    medium = on_terminal(80, "query", runs / "down", query).splitlines()
    assert len(medium) == 3
    assert max(map(len, medium)) <= 80
    assert re.fullmatch(r"long name .*…  123456789012345678  1.25e-300  NULL  \[red\]AAC-1 *", medium[1])
    narrow = on_terminal(40, "query", runs / "down", query).splitlines()
    assert narrow[0] == "row 1"
    assert narrow[2:6] == [
        "  whole  123456789012345678", "  small  1.25e-300", "  none   NULL", "  tag    [red]AAC-1"
    ]  # fmt: skip


@pytest.mark.slow
def test_nothing_in_a_name_or_a_value_controls_the_terminal(runs, capfd):
    """A sequence that would clear the screen, in a header, in a value, in a refusal, also among records and rewritten lines."""
    names = '1 AS "up\x1b[2J\x07", 3 AS "bidi\u202e", 4 AS "two\nlines"'
    query = f"SELECT {names}, '\x1b]0;title\x07' AS state FROM cells LIMIT 1"
    for width in (200, 30):
        shown = on_terminal(width, "query", runs / "down", query)
        assert not set(shown) & set("\x1b\x07\u202e")
        assert "up\\x1b[2J\\x07" in shown
        assert "\\x1b]0;title\\x07" in shown
        assert "bidi\\u202e" in shown
        assert "two\\nlines" in shown
    assert rankshift("query", runs / "down", 'SELECT "no\x1b[2J" FROM cells') == 2
    assert "\x1b" not in capfd.readouterr().err


def test_more_rows_than_are_shown_are_counted(runs, capfd):
    assert rankshift("query", runs / "down", "SELECT * FROM shifts") == 0
    shown = capfd.readouterr()
    assert len(shown.out.splitlines()) == 1 + 200
    assert "200 of 2,400 rows shown: add LIMIT, or write them all with --out FILE.parquet" in shown.err
    header, first = (line.split() for line in shown.out.splitlines()[:2])
    assert header == Run.open(runs / "down").sql("SELECT * FROM shifts LIMIT 0").column_names
    assert len(first) == len(header)
    assert rankshift("query", runs / "down", "SELECT symbols FROM shifts WHERE similarity > 2") == 0
    shown = capfd.readouterr()
    assert (shown.out.split(), shown.err) == (["symbols"], "no rows\n")


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_the_ending_of_a_file_says_its_format(ending, runs, tmp_path, capfd):
    out = tmp_path / f"rows.{ending}"
    query = (
        "SELECT symbols, count(*) AS cells, avg(shift_goal) AS shift, sum(cell) AS total, "
        "CAST('nan' AS DOUBLE) AS nan, NULL AS none FROM shifts GROUP BY 1 ORDER BY 1"
    )
    assert rankshift("query", runs / "down", query, "--out", out) == 0
    assert "80 rows" in capfd.readouterr().err
    wanted = Run.open(runs / "down").sql(query).to_pandas()
    if ending == "json":
        rows = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert rows[0]["nan"] is None
        assert isinstance(rows[0]["total"], int)
        read = pd.DataFrame(rows)
    else:
        read = pd.read_csv(out) if ending == "csv" else pq.read_table(out).to_pandas()
    assert list(read.columns) == list(wanted.columns)
    for name in ("symbols", "cells", "shift", "total"):
        expected = wanted[name].tolist() if name != "shift" else pytest.approx(wanted[name].tolist(), rel=1e-11)
        assert read[name].astype(wanted[name].dtype).tolist() == expected, name


def test_formats_that_make_no_sense_are_refused(runs, tmp_path, capfd):
    query = "SELECT 1 AS a"
    for more, message in (
        (["--out", tmp_path / "x.txt"], "end it in .csv, .parquet or .json"),
        (["--out", tmp_path / "x.csv", "--format", "table"], "a table is for the terminal"),
        (["--format", "xlsx"], "use one of table, csv, parquet, json"),
        (["--views"], "leave one of them out"),
        (["--with", tmp_path / "none"], "is not a run folder"),
        (["--with", f"up={runs}/up", "--with", f"up={runs}/down"], "twice"),
        (["--table", f"drugs={tmp_path}/none.csv"], "is no file"),
    ):
        assert rankshift("query", runs / "down", query, *more) == 2
        error = capfd.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert rankshift("query", runs / "down") == 2
    assert "give one SELECT, or --views" in capfd.readouterr().err
    for query, message in (("SELECT 1 AS a, 2 AS a", "'a' comes 2 times"), ("SELECT [1] AS a", "csv cannot hold this")):
        assert rankshift("query", runs / "down", query, "--out", tmp_path / "x.csv") == 2
        assert message in capfd.readouterr().err
    bad = "SELECT CAST(symbols AS INT) FROM shifts"  # fails when rows are computed
    assert rankshift("query", runs / "down", bad, "--out", tmp_path / "x.csv") == 2
    assert "SQL at line 1, column 8: Could not convert" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_into_a_run_by_any_path(runs, tmp_path, capfd):
    (tmp_path / "linked").symlink_to(runs / "up")
    (tmp_path / "file.csv").symlink_to(runs / "up" / "shifts" / "new.csv")
    for out in (
        runs / "up" / "x.csv",
        tmp_path / "linked" / "x.csv",
        tmp_path / "file.csv",
        runs / "down" / "../up/x.csv",
    ):
        for command in (
            ["query", runs / "up", "SELECT 1 AS a"],
            ["query", runs / "down", "SELECT 1 AS a", "--with", f"up={runs}/up"],
            ["stats", runs / "up", "--mode", "mixture"],
        ):
            assert rankshift(*command, "--out", out) == 2
            assert "lies inside the run" in capfd.readouterr().err
    assert not list((runs / "up").rglob("*.csv"))


def test_two_runs_and_a_table_in_one_query(runs, tmp_path, capfd):
    (tmp_path / "panel.csv").write_text("gene_ids\nENSG00000000003\nENSG00000000007\n")
    query = (
        "SELECT gene_ids, count(*) AS pairs, avg(s.shift_goal) AS down, avg(u.shift_goal) AS up FROM shifts s "
        "JOIN up.shifts u USING (gene_ids) JOIN panel USING (gene_ids) GROUP BY 1 ORDER BY 1"
    )
    more = ["--with", runs / "up", "--table", tmp_path / "panel.csv", "--format", "json"]
    assert rankshift("query", runs / "down", query, *more) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["gene_ids"] for row in rows] == ["ENSG00000000003", "ENSG00000000007"]
    for name in ("down", "up"):
        alone = "SELECT avg(shift_goal) AS m FROM shifts WHERE gene_ids = 'ENSG00000000003'"
        assert rows[0][name] == pytest.approx(Run.open(runs / name).sql(alone)["m"][0].as_py())


def test_views_for_another_client(runs, capfd):
    assert rankshift("query", runs / "down", "--views", "--with", f"other={runs}/up") == 0
    text = capfd.readouterr().out
    with duckdb.connect(":memory:") as connection:
        connection.execute(text)
        assert (
            connection.sql("SELECT count(*) FROM shifts JOIN other.shifts USING (cell, perturbation)").fetchall()[0][0]
            > 0
        )
        assert connection.sql("SELECT path FROM other.run").fetchall() == [(str((runs / "up").resolve()),)]


@pytest.mark.slow
def test_stats_leave_their_table_in_the_run(tmp_path, capfd):
    run, _ = Draw(cells=60, genes=80, per_cell=40, shifted=8, effect=5e-3).run(tmp_path / "run")
    assert rankshift("query", run.path, "SELECT * FROM hits") == 2
    error = capfd.readouterr().err
    assert f"no statistics yet, and so no view hits: make them with rankshift stats {run.path} --mode goal" in error
    assert rankshift("stats", run.path, "--mode", "mixture") == 2
    assert "say where to write with --out FILE.parquet" in capfd.readouterr().err
    assert rankshift("stats", run.path, "--mode", "goal", "--min-cells", 20) == 0
    assert "ask its views statistics and hits" in capfd.readouterr().err
    assert rankshift("query", run.path, "SELECT * FROM hits", "--format", "csv") == 0
    hits = pd.read_csv(pd.io.common.StringIO(capfd.readouterr().out))
    assert len(hits) > 3
    assert (hits.cells >= 20).all()
    kept = (run.path / STATISTICS).read_bytes()
    assert rankshift("stats", run.path, "--mode", "mixture", "--out", tmp_path / "mixture.csv") == 0
    assert rankshift("stats", run.path, "--mode", "goal", "--reference-names", "--out", tmp_path / "goal.csv") == 0
    assert (run.path / STATISTICS).read_bytes() == kept
    assert rankshift("stats", run.path, "--mode", "goal", "--out", tmp_path / "goal.parquet") == 0
    assert pq.read_table(tmp_path / "goal.parquet").equals(pq.read_table(run.path / STATISTICS))
    assert pq.read_schema(run.path / STATISTICS).field("fdr").metadata[b"unit"] == b"probability"


@pytest.mark.slow
@pytest.mark.parametrize("value", ["list(range)", "string_agg(repeat('x', 99))"])
def test_one_value_cannot_fill_the_memory_of_the_machine(runs, value, tmp_path):
    """In a process of its own, which may have 600 MB more. Where the C library itself gets none, it ends with its own words.

    The process is forked by one that is still small: the system counts what a process held before it became another program,
    and this one may hold gigabytes.
    """
    ask = f"""
import os
pid = os.fork()
if pid:
    _, status, used = os.wait4(pid, 0)
    print(f"ended with {{os.waitstatus_to_exitcode(status)}}, held {{used.ru_maxrss}}")
    raise SystemExit
from rankshift.jobs.cli import run_command
from rankshift.screen import query_memory
query_memory.limited_process.__wrapped__.__defaults__ = (600 << 20,)
raise SystemExit(run_command(["query", {str(runs / "down")!r}, "SELECT {value} FROM range(80000000)"]))
"""
    said = tmp_path / "said"
    with said.open("w") as file:
        subprocess.run([sys.executable, "-c", ask], stdout=file, stderr=file, check=True)
    code, kilobytes = re.search(r"^ended with (-?\d+), held (\d+)$", said.read_text(), re.MULTILINE).groups()
    assert int(code) != 0, said.read_text()
    assert int(kilobytes) < 1_500_000, "without a limit it takes several times as many"
    if int(code) == 2:
        assert "the query needs more memory than it may have" in said.read_text()
