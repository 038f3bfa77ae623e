"""What a notebook sees: names to complete, typed keywords, notes and progress of a screen, and a run that shows itself."""

import inspect
import json
import subprocess
import sys
from dataclasses import MISSING, fields

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import rankshift.screen as door
from rankshift.screen.engine.options import Adaptive, Options
from rankshift.screen.errors import InputError
from rankshift.screen.notebook import Run, run
from rankshift.screen.stats.options import StatOptions
from rankshift.screen.tokenizer.source import tokenize
from rankshift.screen.tokenizer.tokenize import tokenize as rank
from support import GOLDEN

V1 = GOLDEN / "v1"


@pytest.fixture(scope="module")
def screened(bundles, tmp_path_factory) -> Run:
    known = next(g for g in json.loads((V1 / "vocabulary.json").read_text()) if g.startswith("ENSG"))
    out = tmp_path_factory.mktemp("notebook") / "run"
    route = {"states": V1 / "state_embeddings.json", "state_key": "disease", "start": "nf", "goal": "dcm"}
    return run(V1 / "cells.parquet", bundles["v1"], out, perturb="delete", genes=[known, "NOTAGENE"], say=str, **route)


def test_completion_offers_the_public_names_and_nothing_else():
    assert dir(door) == ["Bundle", "Cells", "InputError", "Run", "make_bundle", "run", "tokenize"]
    assert all(hasattr(door, name) for name in dir(door))


def test_completing_loads_nothing_that_computes():
    code = "import sys, rankshift.screen as s; dir(s); print('torch' in sys.modules, 'duckdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_run_spells_every_option_of_a_screen_with_type_and_default():
    given = inspect.signature(run).parameters
    for field in fields(Options):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        assert (given[field.name].annotation, given[field.name].default) == (field.type, default), field.name
    adaptive = {f.name for f in fields(Adaptive)} | {"budget", "continue_full"}
    rest = {"cells", "bundle", "out", "resume", "say", "done"}
    assert set(given) - {f.name for f in fields(Options)} == adaptive | rest


def test_tokenize_spells_the_options_of_the_tokenizer():
    ours, theirs = inspect.signature(tokenize).parameters, inspect.signature(rank).parameters
    assert set(ours) == set(theirs) - {"out", "chunk_cells", "progress"}
    for name in set(ours) - {"data", "bundle", "keep"}:
        assert ours[name].default == theirs[name].default, name


def test_a_misspelt_option_is_named(bundles, tmp_path):
    with pytest.raises(TypeError, match="run\\(\\) got an unexpected keyword argument 'gene'"):
        run(V1 / "cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete", gene="X")  # type: ignore[call-arg]
    assert not (tmp_path / "run").exists()


def test_a_screen_prints_its_notes_and_names_genes_that_are_not_there(bundles, tmp_path, capsys):
    known = next(g for g in json.loads((V1 / "vocabulary.json").read_text()) if g.startswith("ENSG"))
    where = (V1 / "cells.parquet", bundles["v1"])
    run(*where, tmp_path / "loud", perturb="delete", genes=[known, "NOTAGENE"])
    assert "1 genes are not in the vocabulary and are left out: NOTAGENE" in capsys.readouterr().out
    counted: list[int] = []
    run(*where, tmp_path / "quiet", perturb="delete", max_cells=4, say=lambda line: None, done=counted.append)
    assert capsys.readouterr().out == ""
    assert sum(counted) == Run.open(tmp_path / "quiet").sql("SELECT count(*) AS n FROM shifts")["n"][0].as_py()


def test_a_run_shows_itself_in_a_line_and_in_a_table(screened):
    (rows,) = screened.sql("SELECT (SELECT count(*) FROM shifts) AS n, count(*) AS cells FROM cells").to_pylist()
    said = repr(screened)
    assert said == (
        f"Run({str(screened.path)!r}: perturb delete each, route disease nf → dcm, cells {rows['cells']}, "
        f"perturbations {rows['n']}, shards 1 of 1 there, genes not in the vocabulary 1)"
    )
    page = screened._repr_html_()
    assert f"<tr><th>cells</th><td>{rows['cells']}</td></tr>" in page
    assert page.count("<tr>") == 7


def test_names_in_the_table_are_no_markup(screened, tmp_path):
    place = tmp_path / "<b>run"
    place.symlink_to(screened.path)
    assert "<b>" not in Run.open(place)._repr_html_()


def test_statistics_are_kept_as_those_of_the_command(screened):
    with pytest.raises(InputError, match="rankshift stats"):
        screened.sql("SELECT * FROM hits")
    frame = screened.stats(min_cells=2, bootstrap=20)
    assert list(frame.gene_ids) == screened.sql("SELECT gene_ids FROM perturbations")["gene_ids"].to_pylist()
    assert frame.shift_mean[0] == pytest.approx(
        screened.sql("SELECT avg(shift_dcm) AS m FROM shifts")["m"][0].as_py(), rel=1e-5
    )
    assert frame.attrs["mode"] == "goal"
    assert len(screened.frame("SELECT * FROM statistics")) == len(frame)


def test_stats_and_report_spell_the_options_of_a_judgement():
    for method in (Run.stats, Run.report):
        given = inspect.signature(method).parameters
        for field in fields(StatOptions):
            assert (given[field.name].annotation, given[field.name].default) == (field.type, field.default)


@pytest.mark.slow
def test_a_run_writes_its_report(screened, tmp_path):
    said: list[str] = []
    screened.report(tmp_path / "report.html", min_cells=2, bootstrap=0, embed=False, say=said.append)
    assert "<title>" in (tmp_path / "report.html").read_text()
    assert said[-1].startswith(str(tmp_path / "report.html"))


def test_a_gene_is_found_as_it_is_typed_or_the_nearest_is_named(screened):
    (row,) = screened.sql("SELECT perturbation, gene_ids, symbols FROM perturbations").to_pylist()
    for name in (row["gene_ids"], row["gene_ids"].lower(), f"{row['gene_ids']}.7", row["symbols"].lower()):
        assert screened.perturbation(name) == row["perturbation"]
    with pytest.raises(InputError, match=f"did you mean {row['gene_ids']}"):
        screened.plot_gene(row["gene_ids"][:-1] + "X")
    with pytest.raises(InputError, match="give a symbol or an Ensembl id it screened"):
        screened.plot_gene("@")


def test_refusals_speak_of_keywords(screened, bundles):
    with pytest.raises(InputError, match="continue it with resume=True, or give another out"):
        door.run(V1 / "cells.parquet", bundles["v1"], screened.path, perturb="delete")
    with pytest.raises(InputError, match="gene_shifts=True"):
        screened.stats("genes")


def test_a_screen_of_counts_is_told_where_they_and_their_genes_are(bundles, tmp_path):
    adata = anndata.read_h5ad(V1 / "cells.h5ad")
    plain = tokenize(adata, bundles["v1"])
    ids = adata.var.get("ensembl_id", adata.var_names)
    hidden = anndata.AnnData(
        None,
        obs=adata.obs,
        var=pd.DataFrame({"where": list(ids)}, index=[f"g{i}" for i in range(adata.n_vars)]),
        layers={"umis here": adata.X},
    )
    quiet = {"perturb": "delete", "max_cells": 2, "say": str}
    made = run(hidden, bundles["v1"], tmp_path / "run", gene_column="where", counts_layer="umis here", **quiet)
    assert made.sql("SELECT count(*) AS n FROM shifts")["n"][0].as_py() > 0
    cells = plain.obs["cell_id"].to_pylist()
    for row in pq.read_table(made.path / "cells.parquet").to_pylist():
        assert row["input_ids"] == plain.ids_of(cells.index(row["cell_id"])).tolist()
    hidden.X = np.log1p(adata.X.toarray() / 3)
    with pytest.raises(InputError, match=r"name the matrix with --counts-layer \(umis here, X\)"):
        run(hidden, bundles["v1"], tmp_path / "other", gene_column="where", **quiet)
    with pytest.raises(InputError, match=r"--gene-column where is for counts, .*cells.parquet is tokenized already"):
        run(V1 / "cells.parquet", bundles["v1"], tmp_path / "other", gene_column="where", **quiet)
