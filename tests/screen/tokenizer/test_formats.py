"""Counts in the formats people have: the lists of each are those of the same counts as h5ad, or a line says what helps."""

import gzip
import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata.io import write_elem

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import Vocabulary
from rankshift.screen.notebook import run
from rankshift.screen.tokenizer.formats import open_counts
from rankshift.screen.tokenizer.source import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary
from support import GOLDEN

V1 = GOLDEN / "v1"
ANTIBODIES = 3


@pytest.fixture(scope="module")
def counts() -> anndata.AnnData:
    """The golden cells with nothing but counts, Ensembl ids and names: what every format can hold."""
    golden = anndata.read_h5ad(V1 / "cells.h5ad")
    column = "ensembl_id" if "ensembl_id" in golden.var else None
    ids = golden.var_names if column is None else golden.var[column]
    var = pd.DataFrame(index=[str(name) for name in ids])
    return anndata.AnnData(sp.csr_matrix(golden.X), obs=pd.DataFrame(index=golden.obs_names), var=var)


def h5ad(data, folder):
    data.write_h5ad(folder / "c.h5ad")
    return folder / "c.h5ad"


def zarr(data, folder):
    data.write_zarr(folder / "c.zarr")
    return folder / "c.zarr"


def with_antibodies(data):
    x = sp.hstack([data.X, sp.csr_matrix(np.full((data.n_obs, ANTIBODIES), 9.0))]).tocsr()
    ids = [*data.var_names, *(f"CD{i}" for i in range(ANTIBODIES))]
    names = [f"S{i}" for i in range(data.n_vars)] + [f"CD{i}" for i in range(ANTIBODIES)]
    kinds = ["Gene Expression"] * data.n_vars + ["Antibody Capture"] * ANTIBODIES
    return x, ids, names, kinds


def tenx(data, folder):
    x, ids, names, kinds = with_antibodies(data)
    with h5py.File(folder / "c.h5", "w") as file:
        matrix = file.create_group("matrix")
        for name, values in {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": x.shape[::-1]}.items():
            matrix[name] = values
        matrix["barcodes"] = np.array(list(data.obs_names), "S")
        for name, values in {"id": ids, "name": names, "feature_type": kinds}.items():
            matrix[f"features/{name}"] = np.array(values, "S")
    return folder / "c.h5"


def mtx(data, folder):
    x, ids, names, kinds = with_antibodies(data)
    scipy.io.mmwrite(folder / "matrix.mtx", x.T)
    with (folder / "matrix.mtx").open("rb") as plain, gzip.open(folder / "matrix.mtx.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    (folder / "matrix.mtx").unlink()
    pd.DataFrame({"id": ids, "name": names, "kind": kinds}).to_csv(
        folder / "features.tsv.gz", sep="\t", header=False, index=False
    )
    pd.Series(list(data.obs_names)).to_csv(folder / "barcodes.tsv.gz", sep="\t", header=False, index=False)
    return folder


def mudata(data, folder):
    proteins = anndata.AnnData(np.ones((data.n_obs, 2)), obs=pd.DataFrame(index=data.obs_names))
    with h5py.File(folder / "c.h5mu", "w") as file:
        write_elem(file, "mod/prot", proteins)
        write_elem(file, "mod/rna", data)
    return folder / "c.h5mu"


def csv(data, folder):
    data.to_df().to_csv(folder / "c.csv")
    return folder / "c.csv"


def txt(data, folder):
    data.to_df().to_csv(folder / "c.txt", sep="\t")
    return folder / "c.txt"


def mtx_file(data, folder):
    return mtx(data, folder) / "matrix.mtx.gz"


def half_precision(data, folder):
    halves = anndata.AnnData(data.X.toarray().astype(np.float16), obs=data.obs, var=data.var)
    return h5ad(halves, folder)


def per_ten_thousand(data, folder):
    divided = data.copy()
    divided.X = sp.csr_matrix(data.X.multiply(1e4 / data.X.sum(1)), dtype=np.float32)
    return h5ad(divided, folder)


def tsv_of_genes(data, folder):
    data.to_df().T.to_csv(folder / "c.tsv.gz", sep="\t")
    return folder / "c.tsv.gz"


FORMATS = [h5ad, zarr, tenx, mtx, mtx_file, mudata, csv, txt, tsv_of_genes, half_precision, per_ten_thousand]


@pytest.mark.parametrize("write", FORMATS, ids=lambda f: f.__name__)
def test_the_lists_are_those_of_the_same_counts_in_memory(write, counts, bundles, tmp_path):
    bundle = Bundle.open(bundles["v1"])
    wanted = tokenize(counts, bundle)
    found = tokenize(write(counts, tmp_path), bundle)
    assert len(found) == len(wanted) > 5
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.offsets, wanted.offsets)
    assert found.obs["cell_id"].to_pylist() == wanted.obs["cell_id"].to_pylist()
    left_out = any("3 features are left out (Antibody Capture)" in note for note in found.notes)
    assert left_out is (write in (tenx, mtx, mtx_file))


@pytest.mark.parametrize("genes_down", [True, False])
@pytest.mark.parametrize("case", [str, str.capitalize])
def test_a_table_of_symbols_has_its_genes_on_the_side_of_those_of_every_cell(genes_down, case, tmp_path):
    symbols = ["LYZ", "ACTB", "GAPDH", "B2M", "EEF1A1", "UBC", "TPT1"]
    frame = pd.DataFrame(np.arange(14).reshape(2, 7), index=["cell1", "cell2"], columns=[case(s) for s in symbols])
    (frame.T if genes_down else frame).to_csv(tmp_path / "s.csv")
    read = open_counts(tmp_path / "s.csv")
    assert list(read.obs.index) == ["cell1", "cell2"]
    assert list(read.var.index) == [case(s) for s in symbols]
    (block,) = read.blocks()
    assert block.data.tolist() == list(range(1, 14))  # the zero is not stored


@pytest.mark.slow
def test_a_screen_takes_counts_as_it_takes_a_token_table(counts, bundles, tmp_path):
    options = {"perturb": "delete", "max_cells": 3, "say": lambda line: None}
    from_counts = run(h5ad(counts, tmp_path), bundles["v1"], tmp_path / "a", **options)
    tokenize(tmp_path / "c.h5ad", bundles["v1"]).write(tmp_path / "cells.parquet")
    from_table = run(tmp_path / "cells.parquet", bundles["v1"], tmp_path / "b", **options)
    rows = "SELECT cell_id, gene_ids, similarity FROM shifts ORDER BY ALL"
    assert from_counts.sql(rows).equals(from_table.sql(rows))
    assert from_counts.sql("SELECT count(*) AS n FROM cells")["n"].to_pylist() == [3]
    with pytest.raises(InputError, match="holds counts, beside token tables: tokenize it first"):
        run([tmp_path / "cells.parquet", tmp_path / "c.h5ad"], bundles["v1"], tmp_path / "c", **options)


def test_a_vocabulary_of_a_matrix_of_cell_ranger_has_its_symbols(counts, tmp_path):
    build_vocabulary(tenx(counts, tmp_path), tmp_path / "v.parquet")
    made = Vocabulary.read(tmp_path / "v.parquet")
    place = list(counts.var_names)
    genes = [(gene, symbol) for gene, symbol in zip(made.ensembl_id, made.symbol, strict=True) if gene[0] != "<"]
    assert genes
    assert all(symbol == f"S{place.index(gene)}" for gene, symbol in genes)


def _old_tenx(folder):
    with h5py.File(folder / "old.h5", "w") as file:
        file["GRCh38/genes"] = [1]
    return folder / "old.h5"


def _renamed(folder):
    shutil.copyfile(V1 / "cells.h5ad", folder / "cells.h5")
    return folder / "cells.h5"


def _symbols(folder):
    pd.DataFrame(np.eye(3, dtype=int), index=["a", "b", "c"], columns=["LYZ", "CST3", "CD14"]).to_csv(folder / "s.csv")
    return folder / "s.csv"


def _named(name):
    def make(folder):
        (folder / name).write_bytes(gzip.compress(b"RDX3"))
        return folder / name

    return make


_of_r, _zipped, _bare_matrix = _named("seurat.rds"), _named("cells.h5ad.gz"), _named("GSM1_matrix.mtx.gz")


def _texts(folder):
    pd.DataFrame({"ENSG00000000001": [1, 2], "ENSG00000000002": ["x", "y"]}).to_csv(folder / "t.csv")
    return folder / "t.csv"


def _no_genes(folder):
    with h5py.File(folder / "m.h5mu", "w") as file:
        file.create_group("mod/atac"), file.create_group("mod/prot")
    return folder / "m.h5mu"


def _outside(folder):
    """A matrix of Cell Ranger with an index behind its genes, at which scipy would read outside of its arrays."""
    with h5py.File(folder / "o.h5", "w") as file:
        for name, values in {"data": [1, 2], "indices": [0, 10**6], "indptr": [0, 1, 2], "shape": [3, 2]}.items():
            file[f"matrix/{name}"] = values
        file["matrix/barcodes"] = np.array(["a", "b"], "S")
        for name in ("id", "name"):
            file[f"matrix/features/{name}"] = np.array(["ENSG00000000001", "ENSG00000000002", "ENSG00000000003"], "S")
    return folder / "o.h5"


def _twice(folder):
    shutil.copyfile(V1 / "cells.h5ad", folder / "c.h5ad")
    with h5py.File(folder / "c.h5ad", "a") as file:
        file["obs"].attrs["column-order"] = np.array(["n_counts", "n_counts"], dtype=object)
    return folder / "c.h5ad"


def _half_a_folder(folder):
    (folder / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 1\n")
    return folder


def _packed(folder, barcodes):
    """A folder of Cell Ranger whose names of cells are these bytes."""
    scipy.io.mmwrite(folder / "matrix.mtx", sp.csr_matrix(np.eye(2, dtype=int)))
    (folder / "features.tsv").write_text("ENSG00000000001\tA\nENSG00000000002\tB\n")
    (folder / "barcodes.tsv.gz").write_bytes(barcodes)
    return folder


def _cut_short(folder):
    return _packed(folder, gzip.compress(b"a\nb\n")[:12])


def _overwritten(folder):
    return _packed(folder, gzip.compress(b"a\nb\n")[:10] + b"\xff" * 20)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (_cut_short, "cannot be read .*write it again, best as .h5ad"),
        (_overwritten, "cannot be read .*write it again, best as .h5ad"),
        (_old_tenx, "no feature-barcode matrix of Cell Ranger 3 or later: write it as .h5ad"),
        (_renamed, "looks like an AnnData: call it .h5ad"),
        (_symbols, r"neither rows \(a, …\) nor columns are named by Ensembl ids or symbols"),
        (_of_r, r"is an object of R: write it there as \.h5ad"),
        (_zipped, "is compressed as a whole: unpack it first"),
        (_bare_matrix, "put it as matrix.mtx beside features.tsv and barcodes.tsv into a folder"),
        (_texts, "holds texts beside counts"),
        (_no_genes, "has modalities atac, prot, none called rna: write the one with genes as .h5ad"),
        (_outside, "o.h5 cannot be read"),
        (_twice, "obs has two columns 'n_counts': rename or drop one"),
        (_half_a_folder, "has a matrix.mtx but no features.tsv or genes.tsv"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_read_is_one_line_that_helps(make, line, bundles, tmp_path):
    with pytest.raises(InputError, match=line) as error:
        tokenize(make(tmp_path), bundles["v1"])
    assert "\n" not in str(error.value)
