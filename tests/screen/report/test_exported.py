"""A run as one file: every format holds the rows of the run, or says in a line why it is not written."""

import json

import anndata
import duckdb
import numpy as np
import openpyxl
import pandas as pd
import pytest

from drawn_runs import Draw
from rankshift.screen.errors import InputError
from rankshift.screen.notebook import Run
from rankshift.screen.report import exported


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    drawn = Draw(cells=60, genes=80, per_cell=20, shifted=4, effect=2e-2, donors=(0.5, 0.5))
    return Run.of(drawn.run(tmp_path_factory.mktemp("exported") / "run")[0])


@pytest.fixture(scope="module")
def wanted(run) -> pd.DataFrame:
    return run.frame(
        "SELECT gene_ids, count(*) AS cells, avg(shift_goal) AS shift FROM shifts GROUP BY 1 ORDER BY 1"
    ).set_index("gene_ids")


def test_a_spreadsheet_holds_the_table_and_what_was_found(run, wanted, tmp_path, capsys):
    run.export(tmp_path / "r.csv")
    run.export(tmp_path / "r.xlsx")
    assert f"{len(wanted)} perturbations" in capsys.readouterr().out
    for frame in (pd.read_csv(tmp_path / "r.csv"), pd.read_excel(tmp_path / "r.xlsx", sheet_name="statistics")):
        found = frame.set_index("gene_ids").sort_index()
        assert found.cells.tolist() == wanted.cells.tolist()
        assert found.shift_mean.to_numpy() == pytest.approx(wanted["shift"].to_numpy(), rel=1e-5)
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    assert book.sheetnames == ["found", "hits", "statistics", "columns"]
    hits = pd.read_excel(tmp_path / "r.xlsx", sheet_name="hits")
    assert len(hits) == pd.read_csv(tmp_path / "r.csv").hit.sum() > 0
    meanings = pd.read_excel(tmp_path / "r.xlsx", sheet_name="columns").set_index("column").meaning
    assert meanings["shift_mean"] == "mean over cells"
    assert "Deleting single genes in" in book["found"]["A1"].value


def test_rows_without_room_in_a_sheet_are_counted(run, wanted, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exported, "SHEET_ROWS", 7)
    run.export(tmp_path / "r.xlsx")
    left = len(wanted) - 7
    assert (
        f"7 perturbations ({left} weaker ones have no room in a sheet: take csv or duckdb)" in capsys.readouterr().out
    )
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    assert book["statistics"].max_row == 8
    assert any(f"{left} perturbations of weaker effect" in str(row[0].value) for row in book["found"].iter_rows())


@pytest.mark.slow
def test_a_database_holds_every_row_and_needs_the_run_no_more(run, wanted, tmp_path):
    run.export(tmp_path / "r.duckdb")
    with duckdb.connect(str(tmp_path / "r.duckdb"), read_only=True) as there:
        tables = {name for (name,) in there.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert {"shifts", "cells", "perturbations", "statistics", "hits"} <= tables
        assert there.execute("SELECT count(*) FROM duckdb_views() WHERE NOT internal").fetchall() == [(0,)]
        rows = there.sql("SELECT * FROM shifts ORDER BY cell, perturbation").to_arrow_table()
        ((hits,),) = there.execute("SELECT count(*) FROM hits").fetchall()
    assert rows.equals(run.sql("SELECT * FROM shifts ORDER BY cell, perturbation"))
    assert hits == run.stats().hit.sum()


def test_an_anndata_holds_what_was_screened_and_nothing_else(run, wanted, tmp_path):
    run.export(tmp_path / "r.h5ad")
    data = anndata.read_h5ad(tmp_path / "r.h5ad")
    rows = run.frame("SELECT cell_id, gene_ids, similarity, shift_goal, shift_start FROM shifts")
    assert data.X.nnz == len(rows) == data.layers["similarity"].nnz
    at = data.obs_names.get_indexer(rows.cell_id), data.var_names.get_indexer(rows.gene_ids)
    assert np.array_equal(np.asarray(data.X[at]).ravel(), rows.shift_goal.to_numpy())
    for name in ("similarity", "shift_start"):
        assert np.array_equal(np.asarray(data.layers[name][at]).ravel(), rows[name].to_numpy())
    assert data.var.loc[wanted.index, "cells"].astype(int).tolist() == wanted.cells.tolist()
    assert set(data.obs["donor"]) == {"donor0", "donor1"}
    assert json.loads(data.uns["rankshift"]["manifest"])["lists"] == run.manifest.lists


def test_what_cannot_be_written_is_refused_and_leaves_nothing(run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="'pdf' is unknown: use reference, csv, xlsx, duckdb, h5ad"):
        run.export(tmp_path / "r.pdf")
    with pytest.raises(InputError, match="lies inside the run"):
        run.export(run.path / "r.csv")
    with pytest.raises(InputError, match="is a folder, a file is written"):
        run.export(tmp_path, format="csv")
    monkeypatch.setattr(exported, "MOST_VALUES", 10)
    with pytest.raises(InputError, match=r"shifts, an .h5ad of at most 10 is written"):
        run.export(tmp_path / "r.h5ad")
    assert not list(tmp_path.iterdir())
