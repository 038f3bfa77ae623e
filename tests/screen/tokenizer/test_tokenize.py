"""From count matrices to token tables, with everything that can be wrong about a count matrix."""

import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.genes.vocabulary import make_vocabulary
from rankshift.screen.tokenizer import count_file, counts
from rankshift.screen.tokenizer.tokenize import tokenize

GENES = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "ENSG00000000004"]
SYMBOLS = ["AAA", "BBB", "CCC", "CCC"]
COUNTS = np.array([[4, 1, 0, 2], [0, 3, 3, 1], [5, 0, 0, 0], [1, 2, 3, 4]], np.float32)


def draft(medians=(1.0, 1.0, 1.0, 1.0), framed=False, size=16, aliases=None) -> VocabularyOnly:
    """Tokens 2.. (4.. when framed) for GENES."""
    names = ["<pad>", "<mask>", *(["<cls>", "<eos>"] if framed else []), *GENES]
    table = make_vocabulary({name: i for i, name in enumerate(names)}, dict(zip(GENES, medians, strict=True)))
    table.symbol[-4:] = SYMBOLS
    return VocabularyOnly(path=Path("vocabulary.parquet"), vocabulary=table, input_size=size, aliases=aliases or {})


def h5ad(path: Path, matrix=COUNTS, genes=GENES, store=sp.csr_matrix, obs=None, column="ensembl_id", **var) -> Path:
    n = matrix.shape[0]
    columns = {"n_counts": np.full(n, 10.0, np.float32)} if obs is None else obs
    frame = pd.DataFrame(columns, index=[f"c{i}" for i in range(n)])
    genes_frame = pd.DataFrame(
        {column: list(genes), **var} if column else var, index=[f"g{i}" for i in range(len(genes))]
    )
    anndata.AnnData(store(matrix), obs=frame, var=genes_frame).write_h5ad(path)
    return path


def lists(path: Path) -> list[list[int]]:
    return pq.read_table(path).column("input_ids").to_pylist()


def ids(path: Path) -> list[str]:
    return pq.read_table(path).column("cell_id").to_pylist()


# What comes out


def test_tokens_are_those_of_the_published_tokenizer(golden, generation, bundles, tmp_path):
    root, bundle = golden / generation, Bundle.open(bundles[generation])
    report = tokenize(root / "cells.h5ad", bundle, tmp_path / "c.parquet", keep=["cell_type"], input_size=64)
    want = json.loads((root / "tokens.json").read_text())
    cells = Cells.read(tmp_path / "c.parquet", bundle)
    assert [cells.ids_of(i).tolist() for i in range(len(cells))] == want["input_ids"]
    assert cells.lengths.tolist() == want["length"]
    assert cells.obs.column("cell_type").to_pylist() == want["cell_type"]
    assert (report.cells, report.written) == (15, 13)
    assert report.dropped["filter_pass is not 1"] == 2


def test_genes_are_ranked_by_count_over_median(tmp_path):
    tokenize(h5ad(tmp_path / "a.h5ad"), draft(medians=(1, 0.5, 1, 4)), tmp_path / "c.parquet")
    assert lists(tmp_path / "c.parquet") == [[2, 3, 5], [3, 4, 5], [2], [3, 4, 2, 5]]


def test_lists_are_framed_when_the_vocabulary_has_cls(tmp_path):
    tokenize(h5ad(tmp_path / "a.h5ad"), draft(framed=True), tmp_path / "c.parquet", input_size=4)
    assert lists(tmp_path / "c.parquet") == [[2, 4, 7, 3], [2, 5, 6, 3], [2, 4, 3], [2, 7, 6, 3]]
    assert pq.read_table(tmp_path / "c.parquet").column("length").to_pylist() == [4, 4, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("store", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_storage_type_and_blocks_change_nothing(tmp_path, store, kind, chunk):
    path = h5ad(tmp_path / "a.h5ad", COUNTS.astype(kind), store=store)
    report = tokenize(path, draft(), tmp_path / "c.parquet", chunk_cells=chunk)
    assert lists(tmp_path / "c.parquet") == [[2, 5, 3], [3, 4, 5], [2], [5, 4, 3, 2]]
    assert ("loaded whole" in str(report)) == (store is sp.csc_matrix)


@pytest.mark.parametrize("text", [lambda names: np.array(names, "S"), lambda names: np.array(names, object)])
def test_a_loom_file_is_genes_by_cells(tmp_path, text):
    with h5py.File(tmp_path / "a.loom", "w") as file:
        file["matrix"] = COUNTS.T
        file["row_attrs/ensembl_id"] = text(GENES)
        file["col_attrs/CellID"] = text(["w", "x", "y", "z"])
        file["col_attrs/n_counts"] = np.full(4, 10.0)
        file["col_attrs/state"] = text(["nf", "nf", "dcm", "dcm"])
        file["col_attrs/pca"] = np.zeros((4, 2))
    tokenize(tmp_path, draft(), tmp_path / "c.parquet", keep=["state"], where="CellID <> 'y'", chunk_cells=3)
    assert lists(tmp_path / "c.parquet") == [[2, 5, 3], [3, 4, 5], [5, 4, 3, 2]]
    assert ids(tmp_path / "c.parquet") == ["w", "x", "z"]
    assert pq.read_table(tmp_path / "c.parquet").column("state").to_pylist() == ["nf", "nf", "dcm"]
    assert [p.name for p in tmp_path.iterdir() if "loom" in p.name] == ["a.loom"]  # read, never written to


def test_blocks_are_also_limited_by_what_they_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(count_file, "STORED", 5)
    with count_file.CountFile(h5ad(tmp_path / "a.h5ad")) as file:
        assert [len(block) for block in file.blocks(100)] == [1, 2, 1]
        assert np.concatenate([b.data for b in file.blocks(100)]).tolist() == COUNTS[COUNTS > 0].tolist()


def test_progress_counts_cells(tmp_path):
    seen = []
    path = h5ad(tmp_path / "a.h5ad")
    tokenize(path, draft(), tmp_path / "c.parquet", chunk_cells=3, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(3, 4), (4, 4)]


def test_explicit_zeros_and_unsorted_rows_are_understood(tmp_path):
    path = h5ad(tmp_path / "a.h5ad", COUNTS[:1])
    with h5py.File(path, "r+") as file:
        file["X/indices"][:] = [3, 0, 1]
        file["X/data"][:] = [2, 0, 2]
    tokenize(path, draft(), tmp_path / "c.parquet")
    assert lists(tmp_path / "c.parquet") == [[3, 5]]  # a tie, in column order, and gene 0 is not expressed


def test_cells_without_a_total_or_a_known_gene_are_dropped_and_counted(tmp_path):
    obs = {"n_counts": [10.0, 0.0, 10.0, 10.0]}
    path = h5ad(tmp_path / "a.h5ad", genes=["ERCC1", *GENES[1:]], obs=obs)
    report = tokenize(path, draft(), tmp_path / "c.parquet")
    assert ids(tmp_path / "c.parquet") == ["c0", "c3"]
    assert report.dropped["n_counts is 0"] == 1
    assert report.dropped["without a known gene"] == 1
    assert "1 cells dropped: n_counts is 0" in str(report)


def test_totals_are_summed_over_all_genes_when_obs_has_none(tmp_path):
    path = h5ad(tmp_path / "a.h5ad", genes=["ERCC1", *GENES[1:]], obs={"batch": list("aabb")})
    report = tokenize(path, draft(), tmp_path / "c.parquet")
    assert "summed over all genes (obs has no n_counts)" in str(report)
    assert report.dropped["n_counts is 0"] == 0
    assert report.dropped["without a known gene"] == 1
    with count_file.CountFile(path) as file:
        (block,) = file.blocks()
        assert counts.row_sums(block, 4).tolist() == [7, 7, 5, 10]


@pytest.mark.parametrize("values", [[1, 0, 1, 1], [True, False, True, True], [1.0, 2.0, 1.0, 1.0]])
def test_filter_pass_is_honoured(tmp_path, values):
    obs = {"n_counts": np.full(4, 10.0), "filter_pass": values}
    report = tokenize(h5ad(tmp_path / "a.h5ad", obs=obs), draft(), tmp_path / "c.parquet")
    assert ids(tmp_path / "c.parquet") == ["c0", "c2", "c3"]
    assert report.dropped["filter_pass is not 1"] == 1


def test_annotations_are_kept_and_conditions_may_use_them(tmp_path):
    obs = {
        "n_counts": np.full(4, 10.0),
        "state": pd.Categorical(["nf", "dcm", "nf", None]),
        "age": [40, 50, 60, 70],
    }
    path = h5ad(tmp_path / "a.h5ad", obs=obs)
    report = tokenize(path, draft(), tmp_path / "c.parquet", keep=["state", "age"], where="state = 'nf' OR age > 60")
    table = pq.read_table(tmp_path / "c.parquet")
    assert table.column_names == ["cell_id", "state", "age", "input_ids", "length"]
    assert table.column("state").to_pylist() == ["nf", "nf", None]
    assert table.column("age").to_pylist() == [40, 60, 70]
    assert report.dropped["not kept by --where"] == 1


def test_several_files_make_one_table_with_unique_cells(tmp_path):
    (tmp_path / "in").mkdir()
    h5ad(tmp_path / "in" / "b.h5ad", COUNTS[:2], obs={"n_counts": [9, 9], "age": [1, 2]})
    h5ad(tmp_path / "in" / "a.h5ad", COUNTS[2:], genes=GENES, obs={"n_counts": [9.0, 9.0], "age": [0.5, None]})
    report = tokenize(tmp_path / "in", draft(), tmp_path / "c.parquet", keep=["age"])
    assert ids(tmp_path / "c.parquet") == ["a:c0", "a:c1", "b:c0", "b:c1"]
    assert pq.read_table(tmp_path / "c.parquet").column("age").to_pylist() == [0.5, None, 1.0, 2.0]
    assert [file.path.name for file in report.files] == ["a.h5ad", "b.h5ad"]
    assert lists(tmp_path / "c.parquet")[2:] == [[2, 5, 3], [3, 4, 5]]


def test_a_cell_id_column_names_the_cells(tmp_path):
    obs = {"n_counts": np.full(4, 9.0), "cell_id": [7, 8, 9, 10]}
    tokenize(h5ad(tmp_path / "a.h5ad", obs=obs), draft(), tmp_path / "c.parquet")
    assert ids(tmp_path / "c.parquet") == ["7", "8", "9", "10"]


# Genes


def test_versions_case_and_aliases_are_understood(tmp_path):
    genes = ["ensg00000000001.12", "ENSG00000009999", GENES[2], "ENSG00000008888"]
    path = h5ad(tmp_path / "a.h5ad", genes=genes)
    report = tokenize(path, draft(aliases={"ENSG00000009999": GENES[1]}), tmp_path / "c.parquet")
    assert lists(tmp_path / "c.parquet")[3] == [4, 3, 2]
    assert (report.files[0].mapped, report.files[0].by_alias, report.files[0].lost) == (3, 1, 1)


def test_columns_of_one_gene_are_always_summed(tmp_path):
    """The same id written twice, which the published code leaves apart, and an alias."""
    path = h5ad(tmp_path / "a.h5ad", genes=[GENES[0], GENES[0], GENES[1], "ENSG00000009999"])
    report = tokenize(path, draft(aliases={"ENSG00000009999": GENES[1]}), tmp_path / "c.parquet")
    assert lists(tmp_path / "c.parquet") == [[2, 3], [3, 2], [2], [3, 2]]
    assert report.files[0].summed == 2


def test_ids_are_looked_for_where_the_usual_tools_put_them(tmp_path):
    path = h5ad(tmp_path / "a.h5ad", genes=GENES, column="gene_ids", ensembl_id=["x"] * 4)
    assert tokenize(path, draft(), tmp_path / "c.parquet").files[0].column == "gene_ids"
    plain = anndata.read_h5ad(path)
    plain.var_names = GENES
    plain.var = plain.var[[]]
    plain.write_h5ad(path)
    assert tokenize(path, draft(), tmp_path / "c.parquet").files[0].column == "index"


def test_symbols_are_used_when_asked_for_and_ambiguous_ones_are_not(tmp_path):
    path = h5ad(tmp_path / "a.h5ad", genes=["AAA", "BBB", "CCC", "DDD"], column="gene_name")
    with pytest.raises(InputError, match="column 'gene_name' holds symbols of 2 genes, give --gene-column gene_name"):
        tokenize(path, draft(), tmp_path / "c.parquet")
    report = tokenize(path, draft(), tmp_path / "c.parquet", gene_column="gene_name")
    assert (report.files[0].by_symbol, report.files[0].ambiguous, report.files[0].lost) == (2, 1, 2)
    assert lists(tmp_path / "c.parquet") == [[2, 3], [3], [2], [3, 2]]


def test_too_few_known_genes_are_refused_with_the_share_and_the_column_that_would_do(tmp_path):
    genes = [*(f"ENSMUSG{i:011d}" for i in range(19)), GENES[0]]
    path = h5ad(tmp_path / "a.h5ad", np.ones((2, 20), np.float32), genes=genes)
    with pytest.raises(InputError, match=r"1 of 20 genes \(5 %\) in var 'ensembl_id' .* at least 10 % must be"):
        tokenize(path, draft(), tmp_path / "c.parquet")
    assert tokenize(path, draft(), tmp_path / "c.parquet", min_mapped=0.05).written == 2
    hidden = h5ad(tmp_path / "b.h5ad", column="ensembl", ensembl_id=["x", "y", "z", GENES[0]])
    with pytest.raises(InputError, match=r"1 of 4 genes \(25 %\).*column 'ensembl' holds ids of 4 genes"):
        tokenize(hidden, draft(), tmp_path / "c.parquet", min_mapped=0.5)


def test_genes_without_a_median_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"1 of 4 genes have no median \(ENSG00000000002\).*rankshift bundle --medians"
    ):
        tokenize(h5ad(tmp_path / "a.h5ad"), draft(medians=(1, np.nan, 1, 1)), tmp_path / "c.parquet")


# What is refused


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("store", [sp.csr_matrix, np.asarray])
def test_what_is_no_count_is_refused_by_gene_and_cell(tmp_path, bad, store):
    matrix = COUNTS.copy()
    matrix[2, 0] = bad
    with pytest.raises(InputError, match=f"count of gene g0 in cell c2 is {bad}: X must hold raw counts"):
        tokenize(h5ad(tmp_path / "a.h5ad", matrix, store=store), draft(), tmp_path / "c.parquet", chunk_cells=2)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({"n_counts": [10.0, -1.0, 10.0, 10.0]}, r"n_counts of cell c1 is -1.0 \(1 such cells\)"),
        ({"n_counts": [10.0, np.nan, np.nan, 10.0]}, r"n_counts of cell c1 is nan \(2 such cells\)"),
        ({"n_counts": list("abcd")}, "obs n_counts holds"),
        ({"n_counts": np.zeros(4)}, r"no cell of 4 is left \(4 n_counts is 0\)"),
        ({"n_counts": np.ones(4), "filter_pass": np.zeros(4)}, "4 filter_pass is not 1"),
        ({"n_counts": np.ones(4), "filter_pass": list("1111")}, "obs filter_pass holds"),
    ],
)
def test_totals_and_filters_that_cannot_be_are_refused(tmp_path, obs, message):
    with pytest.raises(InputError, match=message):
        tokenize(h5ad(tmp_path / "a.h5ad", obs=obs), draft(), tmp_path / "c.parquet")
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": ["colour"]}, "--keep colour: .* no such obs column, only cell_id, n_counts"),
        ({"keep": ["length"]}, "--keep length: the token table has a column of that name"),
        ({"where": "colour = 1"}, "--where 'colour = 1'.*the columns are cell_id, n_counts"),
        ({"where": "n_counts > 99"}, "4 not kept by --where"),
        ({"input_size": 17}, "--input-size is 17: the model takes 1 to 16"),
        ({"input_size": 0}, "--input-size is 0"),
        ({"gene_column": "names"}, "var has no column 'names': it has ensembl_id and index"),
        ({"min_mapped": 2}, "least share of mapped genes is 2"),
        ({"chunk_cells": 0}, "blocks of 0 cells"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        tokenize(h5ad(tmp_path / "a.h5ad"), draft(), tmp_path / "c.parquet", **options)
    assert not (tmp_path / "c.parquet").exists()


def test_a_frame_needs_room_for_a_gene(tmp_path):
    with pytest.raises(InputError, match="--input-size is 2: the model takes 3 to 16"):
        tokenize(h5ad(tmp_path / "a.h5ad"), draft(framed=True), tmp_path / "c.parquet", input_size=2)


def spoil(path: Path, what: str) -> None:
    with h5py.File(path, "r+") as file:
        if what == "no X":
            del file["X"]
        elif what == "no var":
            del file["var"]
        elif what == "column":
            file["X/indices"][0] = 99
        elif what == "pointer":
            file["X/indptr"][1] = 99
        elif what == "shape":
            file["X"].attrs["shape"] = [4, 9]
        elif what == "text":
            del file["X"]
            file["X"] = np.full((4, 4), b"a")
        elif what == "kind":
            file["X"].attrs["encoding-type"] = "awkward-array"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no X", "has no X"),
        ("no var", "var cannot be read"),
        ("column", "X is damaged .*column number"),
        ("pointer", "X is damaged .*row pointers"),
        ("shape", r"X is \(4, 9\), but var has 4 rows"),
        ("text", r"X holds \|S1: store counts as numbers"),
        ("kind", "stored as 'awkward-array'"),
    ],
)
def test_files_that_contradict_themselves_are_refused(tmp_path, what, message):
    path = h5ad(tmp_path / "a.h5ad")
    spoil(path, what)
    with pytest.raises(InputError, match=message):
        tokenize(path, draft(), tmp_path / "c.parquet")
    assert not (tmp_path / "c.parquet").exists()


def test_files_that_are_not_there_or_no_h5ad_are_refused(tmp_path):
    path = h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="does not exist"):
        tokenize(tmp_path / "none.h5ad", draft(), tmp_path / "c.parquet")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="not a readable h5ad or loom file"):
        tokenize(path, draft(), tmp_path / "c.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no .h5ad or .loom file"):
        tokenize(tmp_path / "empty", draft(), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="no count file"):
        tokenize([], draft(), tmp_path / "c.parquet")


def test_a_failing_file_leaves_an_older_table_as_it_was(tmp_path):
    tokenize(h5ad(tmp_path / "a.h5ad"), draft(), tmp_path / "c.parquet")
    before = (tmp_path / "c.parquet").read_bytes()
    matrix = COUNTS.copy()
    matrix[3, 3] = -5
    with pytest.raises(InputError, match="cell c3"):
        tokenize(h5ad(tmp_path / "a.h5ad", matrix), draft(), tmp_path / "c.parquet", chunk_cells=1)
    assert (tmp_path / "c.parquet").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "c.parquet"]
