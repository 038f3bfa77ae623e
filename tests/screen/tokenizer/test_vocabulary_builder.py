"""Vocabularies from a corpus: medians of non-zero values, tokens in id order."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.genes.vocabulary import Vocabulary
from rankshift.screen.tokenizer.tokenize import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

GENES = ["ENSG00000000009", "ENSG00000000001", "ENSG00000000005"]
COUNTS = np.array([[4, 0, 1], [2, 0, 0], [6, 0, 3], [0, 0, 2]], np.float32)


def h5ad(path: Path, matrix=COUNTS, genes=GENES, totals=(10, 20, 30, 40), **obs) -> Path:
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(len(matrix))])
    if totals is not None:
        frame["n_counts"] = np.asarray(totals, float)
    var = pd.DataFrame({"ensembl_id": genes, "gene_name": [f"S{gene[-1]}" for gene in genes]}, index=genes)
    anndata.AnnData(sp.csr_matrix(matrix), obs=frame, var=var).write_h5ad(path)
    return path


def test_a_median_is_over_the_cells_that_express_the_gene(tmp_path):
    report = build_vocabulary(h5ad(tmp_path / "a.h5ad"), tmp_path / "v.parquet")
    made = Vocabulary.read(tmp_path / "v.parquet")
    assert made.ensembl_id == ["<pad>", "<mask>", "ENSG00000000005", "ENSG00000000009"]
    assert made.median[2:].tolist() == [1000.0, 2000.0]  # of 1000, 1000, 500 and of 4000, 1000, 2000
    assert made.symbol == [None, None, "S5", "S9"]
    assert (report.genes, report.cells, report.undetected, report.exact) == (2, 4, 1, True)
    assert "2 genes and 2 specials (v1) from 4 cells, medians exact" in str(report)


def test_generation_v2_begins_with_four_specials(tmp_path):
    build_vocabulary(h5ad(tmp_path / "a.h5ad"), tmp_path / "v.parquet", generation="v2")
    assert Vocabulary.read(tmp_path / "v.parquet").ensembl_id[:4] == ["<pad>", "<mask>", "<cls>", "<eos>"]


def test_files_are_one_corpus_whatever_their_gene_order(tmp_path):
    (tmp_path / "in").mkdir()
    h5ad(tmp_path / "in" / "a.h5ad", COUNTS[:2], totals=(10, 20))
    h5ad(tmp_path / "in" / "b.h5ad", COUNTS[2:, ::-1], GENES[::-1], totals=(30, 40))
    build_vocabulary(tmp_path / "in", tmp_path / "two.parquet")
    build_vocabulary([h5ad(tmp_path / "one.h5ad")], tmp_path / "one.parquet")
    two, one = Vocabulary.read(tmp_path / "two.parquet"), Vocabulary.read(tmp_path / "one.parquet")
    assert two.ensembl_id == one.ensembl_id
    np.testing.assert_array_equal(two.median, one.median)


def test_cells_that_do_not_pass_or_have_no_total_are_left_out(tmp_path):
    path = h5ad(tmp_path / "a.h5ad", totals=(10, 0, 30, 40), filter_pass=[1, 1, 0, 1])
    report = build_vocabulary(path, tmp_path / "v.parquet")
    assert Vocabulary.read(tmp_path / "v.parquet").median[2:].tolist() == [750.0, 4000.0]
    assert (report.cells, report.unused_cells) == (2, 2)


def test_columns_of_one_gene_are_one_count(tmp_path):
    path = h5ad(tmp_path / "a.h5ad", genes=["ENSG00000000009.1", "ENSG00000000001", "ENSG00000000009.2"])
    build_vocabulary(path, tmp_path / "v.parquet")
    assert Vocabulary.read(tmp_path / "v.parquet").median[2:].tolist() == [2000.0]  # of 5000, 1000, 3000, 500


def test_columns_that_are_no_genes_are_left_out_unless_named(tmp_path):
    path = h5ad(tmp_path / "a.h5ad", genes=["ENSG00000000009", "ENSG00000000001", "ERCC-1"])
    report = build_vocabulary(path, tmp_path / "v.parquet")
    assert (report.genes, report.foreign) == (1, 1)
    build_vocabulary(path, tmp_path / "v.parquet", gene_column="gene_name")
    assert Vocabulary.read(tmp_path / "v.parquet").ensembl_id[2:] == ["S1", "S9"]


def test_totals_are_summed_when_there_are_none(tmp_path):
    report = build_vocabulary(h5ad(tmp_path / "a.h5ad", totals=None), tmp_path / "v.parquet")
    assert Vocabulary.read(tmp_path / "v.parquet").median[3] == pytest.approx(8000)  # of 8000, 10000, 6666.7
    assert "totals summed over all genes" in str(report)


def test_exact_medians_are_numpys_and_approximate_ones_are_near(tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.poisson(rng.lognormal(0, 1, 30), (4000, 30)).astype(np.float32)
    genes = [f"ENSG{i:011d}" for i in range(30)]
    totals = rng.lognormal(8, 0.5, 4000)
    path = h5ad(tmp_path / "a.h5ad", matrix, genes, totals)
    value = np.where(matrix > 0, matrix / totals[:, None] * 10_000, np.nan)
    want = np.nanmedian(value, axis=0)
    build_vocabulary(path, tmp_path / "exact.parquet")
    np.testing.assert_allclose(Vocabulary.read(tmp_path / "exact.parquet").median[2:], want, rtol=1e-12)
    report = build_vocabulary(path, tmp_path / "near.parquet", exact=False)
    np.testing.assert_allclose(Vocabulary.read(tmp_path / "near.parquet").median[2:], want, rtol=0.02)
    assert "approximate (t-digest)" in str(report)
    build_vocabulary(path, tmp_path / "again.parquet", exact=False)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "near.parquet").read_bytes()


def test_a_corpus_can_be_tokenized_with_its_own_vocabulary(tmp_path):
    path = h5ad(tmp_path / "a.h5ad")
    build_vocabulary(path, tmp_path / "v.parquet", generation="v2")
    draft = VocabularyOnly.open(tmp_path / "v.parquet", input_size=8)
    tokenize(path, draft, tmp_path / "c.parquet")
    cells = Cells.read(tmp_path / "c.parquet", draft)
    assert cells.frame.record is True
    # values over medians: cell 0 has 4000 / 2000 and 1000 / 1000, cell 2 has 2000 / 2000 and 1000 / 1000
    assert [cells.ids_of(i).tolist() for i in range(4)] == [[2, 5, 4, 3], [2, 5, 3], [2, 5, 4, 3], [2, 4, 3]]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"generation": "v3"}, "--generation is 'v3'"),
        ({}, {"gene_column": "name"}, "var has no column 'name'"),
        ({"genes": ["AAA", "BBB", "CCC"]}, {}, "none of ensembl_id, .* holds Ensembl ids .*AAA.*--gene-column"),
        ({"matrix": COUNTS * 0}, {}, "no gene is detected in 4 cells"),
        ({"matrix": -COUNTS}, {}, "count of gene ENSG00000000009 in cell c0 is -4.0"),
        ({"totals": (1, 2, 3, -4)}, {}, "n_counts of cell c3 is -4.0"),
        ({"filter_pass": list("1111")}, {}, "filter_pass holds"),
    ],
)
def test_a_corpus_that_cannot_be_is_refused(tmp_path, change, options, message):
    path = h5ad(tmp_path / "a.h5ad", **change)
    with pytest.raises(InputError, match=message):
        build_vocabulary(path, tmp_path / "v.parquet", **options)
    assert not (tmp_path / "v.parquet").exists()


def test_symbols_are_the_names_of_var_where_ids_have_a_column_of_their_own(tmp_path):
    """As scanpy reads 10x files: var is named by symbol, gene_ids holds the Ensembl ids."""
    data = anndata.read_h5ad(h5ad(tmp_path / "a.h5ad"))
    data.var = pd.DataFrame({"gene_ids": GENES}, index=["CST3", "NEVER", "LYZ"])
    data.write_h5ad(tmp_path / "symbols.h5ad")
    build_vocabulary(tmp_path / "symbols.h5ad", tmp_path / "v.parquet")
    assert Vocabulary.read(tmp_path / "v.parquet").symbol == [None, None, "LYZ", "CST3"]
    data.var = pd.DataFrame({"gene_ids": GENES}, index=[f"{gene}.3" for gene in GENES])
    data.write_h5ad(tmp_path / "ids.h5ad")
    build_vocabulary(tmp_path / "ids.h5ad", tmp_path / "w.parquet")
    assert Vocabulary.read(tmp_path / "w.parquet").symbol == [None] * 4
