"""SQL over runs: the views and their text for other clients, several runs at once, own tables, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drawn_runs import Draw, sealed
from rankshift.screen.engine.screener import run as screen
from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import STATISTICS
from rankshift.screen.runs.manifest import NoiseFloor
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sql import setup
from rankshift.screen.stats import StatOptions, record, statistics
from support import GOLDEN

SHAPE = {"cells": 60, "genes": 80, "per_cell": 40, "shifted": 8, "effect": 5e-3, "donors": (0.5, 0.5)}


def copied(run: Run, path: Path) -> Run:
    shutil.copytree(run.path, path)
    return Run.open(path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Run:
    """A drawn run with its statistics."""
    run, _ = Draw(**SHAPE).run(tmp_path_factory.mktemp("drawn") / "run")
    record(run, statistics(run, "goal"))
    return run


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Run:
    """Another one, of the same genes, without statistics."""
    return Draw(**SHAPE, seed=1).run(tmp_path_factory.mktemp("other") / "run")[0]


@pytest.fixture(scope="module")
def with_genes(tmp_path_factory) -> Run:
    return Draw(**SHAPE, affected=500).run(tmp_path_factory.mktemp("genes") / "run")[0]


def test_hits_are_the_statistics_marked_so(drawn):
    table = statistics(drawn, "goal").table().to_pandas()
    kept = drawn.sql("SELECT * FROM statistics").to_pandas()
    assert kept.equals(table)
    hits = drawn.sql("SELECT * FROM hits").to_pandas()
    assert hits.gene_ids.tolist() == table.gene_ids[table.hit].tolist()
    assert len(hits) > 5
    assert (hits.fdr < 0.05).all()
    assert list(hits.columns) == [c for c in table.columns if c not in ("hit", "enough_cells")]


def test_views_without_what_they_need_say_what_to_do(drawn, other, tmp_path):
    for name in ("hits", "statistics"):
        with pytest.raises(
            InputError, match=f"no statistics yet, and so no view {name}: .* rankshift stats .* --mode goal"
        ):
            other.sql(f"SELECT symbols FROM {name} WHERE fdr < 0.1")
        with pytest.raises(InputError, match="no statistics yet"):
            drawn.sql(f"SELECT * FROM other.{name}", other=other)
    with pytest.raises(InputError, match="no view effects: screen with --gene-shifts"):
        drawn.sql("SELECT * FROM effects")
    damaged = copied(drawn, tmp_path / "damaged")
    (damaged.path / STATISTICS).write_bytes(b"PAR1")
    assert damaged.sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist() == [60 * 40]
    with pytest.raises(InputError, match="no statistics yet"):
        damaged.sql("SELECT * FROM hits")
    raw = bytearray((drawn.path / STATISTICS).read_bytes())
    raw[len(raw) // 3] ^= 4
    (damaged.path / STATISTICS).write_bytes(raw)
    with pytest.raises(InputError, match=r"statistics.parquet is damaged .*: make it again with rankshift stats"):
        damaged.sql("SELECT * FROM hits")


def test_a_damaged_table_to_join_is_refused(drawn, tmp_path):
    """DuckDB does not look at the schema that pyarrow leaves in the metadata; pyarrow does."""
    path = tmp_path / "panel.parquet"
    pq.write_table(pa.table({"symbols": ["G1"]}, metadata={"note": "x"}), path)
    raw = path.read_bytes()
    at = raw.index(b"ARROW:schema") + 40
    path.write_bytes(raw[:at] + b"!!!!" + raw[at + 4 :])
    with pytest.raises(InputError, match=r"table panel: .*panel.parquet is damaged"):
        drawn.sql("SELECT * FROM panel", tables={"panel": path})


@pytest.mark.slow
def test_statistics_of_fewer_shards_are_not_shown(tmp_path):
    run, _ = Draw(**{**SHAPE, "cells": 6000, "genes": 100, "per_cell": 100}).run(tmp_path / "run")
    assert len(run.committed) == 3
    last = run.path / "commits" / "shard-000002.json"
    later = last.read_text()
    last.unlink()
    record(run, statistics(run, "goal", judging=StatOptions(by="donor", bootstrap=0)))
    assert run.sql("SELECT sum(cells) AS n FROM statistics")["n"].to_pylist() == [400_000]
    last.write_text(later)
    again = r"are of 2 shards, 3 are there now: make them again with rankshift stats .* --mode goal --by donor --bootstrap 0$"
    with pytest.raises(InputError, match=again):
        run.sql("SELECT * FROM hits")
    assert run.sql("SELECT shards_committed AS n FROM run")["n"].to_pylist() == [3]


def test_a_run_keeps_the_statistics_of_its_own_mode(drawn, tmp_path):
    run = copied(drawn, tmp_path / "run")
    with pytest.raises(InputError, match="keeps statistics of mode goal only"):
        record(run, statistics(run, "mixture"))
    with pytest.raises(InputError, match="keeps statistics of mode goal only"):
        record(run, statistics(run, "goal", reference_names=True))
    plain = run.record(route=None)
    record(plain, statistics(plain, "mixture"))
    assert "impact" in plain.sql("SELECT * FROM hits").column_names


@pytest.mark.slow
def test_what_changes_nothing_is_no_hit(tmp_path):
    """One gene leaves every cell as it is, the typical gene does not: it differs from the others, and is no hit."""
    draw = Draw(cells=200, genes=100, per_cell=60, donors=(0.25,) * 4, noise_sd=1e-3, shifted=5, effect=2e-2)
    run, truth = draw.run(tmp_path / "run")
    still = int(np.flatnonzero(~truth)[3])
    part = run.path / "shifts" / "shard-000000.parquet"
    table = pq.read_table(part)
    mine = table["perturbation"].to_numpy() == still
    assert mine.sum() > 40
    for column, rest in (("shift_goal", -4e-3), ("similarity", -4e-3)):
        values = table[column].to_numpy() + np.float32(rest)
        values[mine] = 1.0 if column == "similarity" else 0.0
        table = table.set_column(table.column_names.index(column), column, pa.array(values))
    pq.write_table(table, part)
    sealed(run)
    for mode in ("goal", "mixture"):
        for by, q in ((None, "fdr"), ("donor", "balanced_fdr")):
            found = statistics(run, mode, judging=StatOptions(by=by, bootstrap=0)).table().to_pandas()
            row = found[found.gene_ids == f"ENSG{still:011d}"].iloc[0]
            assert row[q] < 1e-3, (mode, by)
            assert not row.hit, (mode, by)
            assert found.hit[found.gene_ids.str[4:].astype(int).map(lambda i: truth[i])].all(), (mode, by)
    null, _ = Draw(cells=200, genes=100, per_cell=60, seed=1).run(tmp_path / "null")
    found = statistics(run, "null", null=null).table().to_pandas().set_index("gene_ids")
    assert found.fdr[f"ENSG{still:011d}"] < 1e-6
    assert not found.hit[f"ENSG{still:011d}"]


def test_runs_side_by_side(drawn, other):
    rows = drawn.sql(
        "SELECT gene_ids, avg(s.shift_goal) AS here, any_value(o.there) AS there FROM shifts s JOIN "
        "(SELECT gene_ids, avg(shift_goal) AS there FROM other.shifts GROUP BY 1) o USING (gene_ids) GROUP BY 1 ORDER BY 1",
        other=other.path,
    ).to_pylist()
    for run, column in ((drawn, "here"), (other, "there")):
        alone = run.sql("SELECT gene_ids, avg(shift_goal) AS mean FROM shifts GROUP BY 1").to_pylist()
        mean = {row["gene_ids"]: row["mean"] for row in alone}
        assert [row[column] for row in rows] == pytest.approx([mean[row["gene_ids"]] for row in rows], abs=1e-12)
    assert len(rows) == 80
    assert (
        drawn.sql("SELECT count(*) AS n FROM main.cells JOIN other.cells USING (cell_id)", other=other)["n"][0].as_py()
        == 60
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["order"], "'order' is no name for SQL"),
        (["up-regulated"], "'up-regulated' is no name for SQL"),
        (["shifts"], "name of something else"),
        (["Main"], "name of something else"),
        (["up", "UP"], "'UP' is given twice"),
    ],
)
def test_names_of_runs_that_would_mislead_are_refused(names, message, drawn):
    with pytest.raises(InputError, match=message):
        drawn.sql("SELECT 1", **dict.fromkeys(names, drawn))


def test_tables_of_ones_own(drawn, tmp_path):
    (tmp_path / "drugs.csv").write_text("gene_ids,drug\nENSG00000000003,aspirin\nENSG00000000009,\n")
    (tmp_path / "panel.tsv").write_text("gene_ids\tweight\nENSG00000000003\t2.5\n")
    tables = {"drugs": tmp_path / "drugs.csv", "panel": str(tmp_path / "panel.tsv")}
    query = (
        "SELECT symbols, drug, weight FROM perturbations JOIN drugs USING (gene_ids) "
        "LEFT JOIN panel USING (gene_ids) ORDER BY 1"
    )
    assert drawn.sql(query, tables=tables).to_pylist() == [
        {"symbols": "ENSG00000000003", "drug": "aspirin", "weight": 2.5},
        {"symbols": "ENSG00000000009", "drug": None, "weight": None},
    ]
    for file, message in (("none.csv", "is no file"), ("x.xlsx", "give a file of .csv")):
        with pytest.raises(InputError, match=message):
            drawn.sql("SELECT 1", tables={"drugs": tmp_path / file})
    with pytest.raises(InputError, match="'hits' is the name of something else"):
        drawn.sql("SELECT 1", tables={"hits": tmp_path / "drugs.csv"})


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


@pytest.mark.slow
def test_nothing_but_the_run_can_be_read_and_nothing_written(drawn, other, tmp_path, monkeypatch):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    monkeypatch.chdir(tmp_path)
    mine = "a Python variable that SQL must not see"  # noqa: F841
    part = drawn.path / "shifts" / "empty.parquet"
    before = contents(drawn.path)
    for query, message in (
        ("SELECT * FROM read_csv('/etc/passwd')", 'Cannot access file "/etc/passwd": .* --table NAME=FILE'),
        ("SELECT * FROM 'secret.csv'", "--table NAME=FILE"),
        ("SELECT * FROM read_text('secret.csv')", "--table NAME=FILE"),
        ("SELECT * FROM glob('*')", "--table NAME=FILE"),
        (f"SELECT * FROM read_parquet('{other.path}/cells.parquet')", "--table NAME=FILE"),
        ("SELECT * FROM mine", "mine does not exist"),
        (f"COPY cells TO '{part}'", "COPY would change"),
        (f"EXPLAIN ANALYZE COPY cells TO '{part}'", "EXPLAIN would change"),
        ("CREATE TABLE t AS SELECT 1", "CREATE would change"),
        ("DROP VIEW hits", "DROP would change"),
        ("INSERT INTO hits SELECT 1", "INSERT would change"),
        ("ATTACH 'new.duckdb'", "ATTACH would change"),
        ("INSTALL httpfs", "LOAD would change"),
        ("EXPORT DATABASE 'out'", "EXPORT would change"),
        ("SET enable_external_access = true", "SET would change"),
        ("PRAGMA enable_profiling", "would change"),
        ("SELECT 1; COPY cells TO 'x.csv'", "holds 2 statements"),
        ("", "holds 0 statements"),
        ("PIVOT shifts ON kind USING avg(similarity)", "PIVOT needs its columns named"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            drawn.sql(query)
        assert "\n" not in str(refused.value)
    assert contents(drawn.path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]
    for query in (
        "DESCRIBE shifts",
        "SUMMARIZE hits",
        "SHOW TABLES",
        "FROM run",
        "WITH h AS (FROM hits) SELECT count(*) FROM h",
    ):
        assert drawn.sql(query).num_rows > 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FORM shifts", "SQL at line 1, column 15: syntax error"),
        ("SELECT cell_id,\n  'é', nope\nFROM cells", 'SQL at line 2, column 8: Referenced column "nope" not found'),
        ("SELECT * FROM nothing", "SQL at line 1, column 15: Table with name nothing"),
        ("SELECT foo(cell) FROM cells", "SQL at line 1, column 8: .* foo does not exist"),
        ("SELECT CAST(symbols AS INT) FROM shifts", "SQL at line 1, column 8: Could not convert string"),
        ("SELECT error('as asked')", "SQL: as asked"),
    ],
)
def test_errors_are_one_line_with_the_place(query, message, drawn):
    with pytest.raises(InputError, match=message) as refused:
        drawn.sql(query)
    assert "\n" not in str(refused.value)
    assert "{" not in str(refused.value)


def asked_after(run: Run, happens: Callable[[], object], query: str) -> None:
    with run.connect() as connection:
        happens()
        connection.sql(query).fetchall()


def test_a_run_that_goes_away_while_it_is_asked_is_one_line(drawn, tmp_path):
    run, elsewhere = copied(drawn, tmp_path / "run"), tmp_path / "elsewhere"
    with pytest.raises(InputError, match=f"{run.path} was moved or removed while it was read: put it back"):
        asked_after(run, lambda: run.path.rename(elsewhere), "SELECT count(*) FROM shifts")
    elsewhere.rename(run.path)
    missing = r"a file of the run cannot be read: .*perturbations.parquet.*: continue the run with --resume"
    with pytest.raises(InputError, match=missing):
        asked_after(run, (run.path / "perturbations.parquet").unlink, "SELECT count(symbols) FROM perturbations")


def test_views_work_in_any_duckdb(drawn, with_genes):
    with duckdb.connect(":memory:") as connection:
        connection.execute(setup(drawn, {"genes_run": with_genes}, {}))
        for query in (
            "SELECT * FROM hits",
            "SELECT * FROM run",
            "SELECT count(*) AS n, avg(shift_goal) AS m FROM shifts",
        ):
            assert connection.sql(query).to_arrow_table().equals(drawn.sql(query))
        query = "SELECT * FROM effects ORDER BY ALL LIMIT 50"
        there = connection.sql(query.replace("effects", "genes_run.effects")).to_arrow_table()
        assert there.equals(with_genes.sql(query))
        assert there.num_rows == 50
        of_schema = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'genes_run'"
        names = {row[0] for row in connection.sql(of_schema).fetchall()}
    assert names == {"shifts", "cells", "perturbations", "run", "noise", "genes", "effects"}


@pytest.mark.slow
def test_progress_and_noise_of_a_screen(bundles, tmp_path):
    run = screen(
        GOLDEN / "v1/cells.parquet",
        bundles["v1"],
        tmp_path / "run",
        perturb="delete",
        dtype="float32",
        shard_tokens=400,
    )
    marker = sorted((run.path / "commits").glob("*.json"))[-1]
    missing = json.loads(marker.read_text())["rows"]
    (row,) = run.sql("SELECT * FROM run").to_pylist()
    assert (row["kind"], row["how"], row["goal"], row["rows"], row["rows_committed"]) == (
        "delete",
        "each",
        None,
        551,
        551,
    )
    assert row["weights"] == run.manifest["bundle"]["weights_sha256"][:12]
    assert row["encode_seconds"] > 0
    marker.unlink()
    (row,) = run.sql(
        "SELECT shards - shards_committed AS left, rows_committed, (SELECT count(*) FROM shifts) AS n FROM run"
    ).to_pylist()
    assert row == {"left": 1, "rows_committed": 551 - missing, "n": 551 - missing}
    (noise,) = run.sql("SELECT * FROM noise").to_pylist()
    floor = run.manifest["noise_floor"]["similarity"]
    assert noise == {"measure": "similarity", **{name: floor[name] for name in ("n", "median", "p99", "max")}}
    nan = run.record(noise_floor={"similarity": NoiseFloor(**{**floor, "p99": float("nan")})})
    assert nan.sql("SELECT isnan(p99) AS nan, n FROM noise").to_pylist() == [{"nan": True, "n": floor["n"]}]
    assert run.record(noise_floor={}).sql("SELECT * FROM noise").num_rows == 0
