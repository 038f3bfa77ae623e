"""Cells in and results out: AnnData in memory, several tables and folders, .dataset folders, obs and uns, data frames."""

import json
import shutil

import anndata
import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from rankshift.screen import Cells, InputError, Run, run, tokenize
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.tokenizer.tokenize import tokenize as tokenize_files
from support import GOLDEN


@pytest.fixture
def adata(generation) -> anndata.AnnData:
    return anndata.read_h5ad(GOLDEN / generation / "cells.h5ad")


@pytest.mark.parametrize("store", [sp.csr_matrix, sp.csc_matrix, lambda x: np.asarray(sp.csr_matrix(x).todense())])
def test_an_anndata_in_memory_is_tokenized_like_its_file(store, adata, generation, bundles, tmp_path):
    adata.X = store(adata.X)
    before = adata.copy()
    cells = tokenize(adata, bundles[generation], input_size=40)
    tokenize_files(
        GOLDEN / generation / "cells.h5ad", Bundle.open(bundles[generation]), tmp_path / "c.parquet", input_size=40
    )
    filed = Cells.read(tmp_path / "c.parquet", Bundle.open(bundles[generation]))
    assert np.array_equal(cells.ids, filed.ids)
    assert np.array_equal(cells.offsets, filed.offsets)
    assert cells.frame.record == filed.frame.record == (generation == "v2")
    assert {"cell_id", "cell_type", "n_counts"} <= set(cells.obs.column_names)
    assert any("genes mapped by" in note for note in cells.notes)
    assert (sp.csr_matrix(adata.X) != sp.csr_matrix(before.X)).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_a_view_of_an_anndata_and_several_files_work_as_well(adata, generation, bundles):
    some = tokenize(adata[3:9], bundles[generation], where="filter_pass = 1", keep=[])
    whole = tokenize(GOLDEN / generation / "cells.h5ad", bundles[generation], keep=[])
    assert some.obs.column_names == ["cell_id"]
    names = whole.obs["cell_id"].to_pylist()
    for i, name in enumerate(some.obs["cell_id"].to_pylist()):
        assert some.ids_of(i).tolist() == whole.ids_of(names.index(name)).tolist()


def test_what_cannot_be_tokenized_from_memory_is_refused(adata, generation, bundles):
    adata.X = -adata.X
    with pytest.raises(InputError, match="AnnData: count of gene"):
        tokenize(adata, bundles[generation])
    with pytest.raises(InputError, match="the AnnData has no X"):
        tokenize(anndata.AnnData(obs=adata.obs, var=adata.var), bundles[generation])


def test_an_anndata_that_is_backed_by_a_file_gives_the_lists_of_one_in_memory(adata, generation, bundles):
    backed = anndata.read_h5ad(GOLDEN / generation / "cells.h5ad", backed="r")
    found, expected = tokenize(backed, bundles[generation]), tokenize(adata, bundles[generation])
    assert found.ids.tolist() == expected.ids.tolist()
    part, some = tokenize(backed[3:7], bundles[generation]), tokenize(adata[3:7].copy(), bundles[generation])
    assert part.obs["cell_id"].to_pylist() == some.obs["cell_id"].to_pylist()
    assert part.ids.tolist() == some.ids.tolist()


class MuData:
    """What mudata's looks like from outside: it answers every index."""

    def __init__(self, **mod):
        self.mod = mod

    def __getitem__(self, key):
        return self


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (MuData(a=1, b=2), r"none of its modalities \('a', 'b'\) is called rna: give the one with the genes"),
        (7, "give a token table"),
    ],
)
def test_what_is_no_cells_is_refused_by_its_type(data, message, bundles, tmp_path):
    for call in (
        lambda: tokenize(data, bundles["v1"]),
        lambda: run(data, bundles["v1"], tmp_path / "r", perturb="delete"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("others", [{}, {"prot": None}])
def test_of_a_mudata_the_modality_with_genes_is_taken(others, adata, generation, bundles):
    expected = tokenize(adata, bundles[generation])
    assert tokenize(MuData(**others, rna=adata), bundles[generation]).ids.tolist() == expected.ids.tolist()


@pytest.mark.slow
def test_a_screen_takes_an_anndata_cells_or_a_table_and_says_the_same(adata, generation, bundles, tmp_path):
    options = {"perturb": "delete", "max_cells": 3}
    cells = tokenize(adata, bundles[generation])
    cells.write(tmp_path / "c.parquet")
    query = "SELECT cell_id, gene_ids, similarity FROM shifts ORDER BY 1, 2"
    tables = [
        run(source, bundles[generation], tmp_path / f"run{i}", **options).sql(query)
        for i, source in enumerate((adata, cells, tmp_path / "c.parquet"))
    ]
    assert tables[0].num_rows > 100
    assert tables[0].equals(tables[1])
    assert tables[1].equals(tables[2])
    assert Run.open(tmp_path / "run0").manifest["cells"]["path"] == "AnnData in memory"


def test_cells_in_memory_are_held_against_the_bundle(bundles, tmp_path):
    cells = tokenize(GOLDEN / "v2/cells.h5ad", bundles["v2"])
    with pytest.raises(InputError, match=r"cells in memory: cell .* holds"):
        run(cells, bundles["v1"], tmp_path / "run", perturb="delete")


@pytest.mark.slow
def test_several_tables_are_screened_as_one(generation, bundles, tmp_path):
    bundle = Bundle.open(bundles[generation])
    whole = tokenize(GOLDEN / generation / "cells.h5ad", bundle, keep=["cell_type"])
    folder = tmp_path / "parts"
    whole.take(range(5)).write(folder / "a.parquet", bundle.vocabulary)
    whole.take(range(5, len(whole))).write(folder / "b.dataset", bundle.vocabulary)
    for source in (folder, [folder / "a.parquet", folder / "b.dataset"]):
        cells = Cells.read(source, bundle)
        assert np.array_equal(cells.ids, whole.ids)
        assert cells.obs.equals(whole.obs)
    together = run(
        [folder / "a.parquet", folder / "b.dataset"], bundles[generation], tmp_path / "run", perturb="delete"
    )
    assert together.sql("SELECT count(*) AS n FROM cells")["n"].to_pylist() == [len(whole)]
    shutil.copy(folder / "a.parquet", folder / "c.parquet")
    names = Cells.read(folder, bundle).obs["cell_id"].to_pylist()
    first = whole.obs["cell_id"][0].as_py()
    assert names[0] == f"a:{first}"
    assert names[-5] == f"c:{first}"
    whole.take([0]).write(folder / "d.parquet")
    pq.write_table(pq.read_table(folder / "d.parquet").drop_columns("cell_type"), folder / "d.parquet")
    with pytest.raises(
        InputError, match=r"d\.parquet and .*a\.parquet differ in the column cell_type: keep the same columns"
    ):
        Cells.read(folder, bundle)


@pytest.mark.parametrize("keep_uncropped", [False, True])
def test_a_dataset_folder_opens_with_the_datasets_library(keep_uncropped, generation, bundles, tmp_path):
    bundle = Bundle.open(bundles[generation])
    more = {"keep": ["cell_type", "n_counts"], "input_size": 30, "keep_uncropped": keep_uncropped}
    for name in ("c.parquet", "c.dataset"):
        tokenize_files(GOLDEN / generation / "cells.h5ad", bundle, tmp_path / name, **more)
    rows = datasets.load_from_disk(str(tmp_path / "c.dataset"))
    table = pq.read_table(tmp_path / "c.parquet")
    for name in ("input_ids", "cell_id", "cell_type", "n_counts", "length"):
        assert list(rows[name]) == table[name].to_pylist()
    assert ("input_ids_uncropped" in rows.column_names) == keep_uncropped
    if keep_uncropped:
        assert list(rows["input_ids_uncropped"]) == table["input_ids_uncropped"].to_pylist()
        assert list(rows["length_uncropped"]) == [len(ids) for ids in rows["input_ids_uncropped"]]
    one, two = (Cells.read(tmp_path / name, bundle, below=keep_uncropped) for name in ("c.parquet", "c.dataset"))
    assert np.array_equal(one.ids, two.ids)
    assert not keep_uncropped or np.array_equal(one.below.ids, two.below.ids)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_results_go_back_into_the_anndata(adata, generation, bundles, tmp_path):
    route = {"state_key": "cell_type", "start": "cm", "goal": "fb"}
    done = run(adata, bundles[generation], tmp_path / "run", perturb="delete", **route)
    wanted = done.sql("SELECT gene_ids FROM shifts GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1")["gene_ids"][0].as_py()
    columns = list(adata.obs.columns)
    done.annotate(adata, [wanted])
    assert list(adata.obs.columns) == [*columns, *(f"{m}:{wanted}" for m in ("similarity", "shift_cm", "shift_fb"))]
    rows = done.frame(f"SELECT cell_id, similarity, shift_fb FROM shifts WHERE gene_ids = '{wanted}'").set_index(
        "cell_id"
    )
    found = adata.obs[[f"similarity:{wanted}", f"shift_fb:{wanted}"]].dropna()
    assert sorted(found.index) == sorted(rows.index)
    assert np.array_equal(found.to_numpy(), rows.loc[found.index].to_numpy())
    assert 0 < len(found) < adata.n_obs
    adata.write_h5ad(tmp_path / "annotated.h5ad")
    again = anndata.read_h5ad(tmp_path / "annotated.h5ad").uns["rankshift"]
    table = again["perturbations"]
    assert len(table) == done.sql("SELECT count(DISTINCT perturbation) AS n FROM shifts")["n"][0].as_py()
    mean = done.frame(f"SELECT count(*) AS n, avg(similarity) AS s FROM shifts WHERE gene_ids = '{wanted}'").iloc[0]
    row = table[table["gene_ids"] == wanted].iloc[0]
    assert (row["cells"], row["similarity"]) == (mean["n"], mean["s"])
    assert json.loads(again["manifest"])["cells"]["count"] == done.manifest["cells"]["count"]


@pytest.mark.slow
def test_what_a_run_does_not_hold_is_not_written_back(adata, generation, bundles, tmp_path):
    done = run(adata, bundles[generation], tmp_path / "run", perturb="delete", max_cells=2)
    columns = list(adata.obs.columns)
    with pytest.raises(InputError, match="has no perturbation 'ENSG9'"):
        done.annotate(adata, ["ENSG9"])
    with pytest.raises(InputError, match="'shift_nf' is not a column of the shifts"):
        done.annotate(adata, measures=["shift_nf"])
    other = adata.copy()
    other.obs_names = [f"other-{i}" for i in range(adata.n_obs)]
    other.obs = other.obs.drop(columns="cell_id", errors="ignore")
    with pytest.raises(InputError, match=r"no cell of .* is in the AnnData"):
        done.annotate(other)
    assert list(adata.obs.columns) == columns
    assert "rankshift" not in adata.uns
