"""Which matrix holds the counts: the lists are those of the true counts, wherever a file keeps them, or it is refused."""

from collections.abc import Callable

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.errors import InputError
from rankshift.screen.tokenizer.layers import fault_of
from rankshift.screen.tokenizer.source import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary
from support import GOLDEN

RNG = np.random.default_rng(0)


def drawn(cells: int = 60, genes: int = 300) -> np.ndarray:
    """Counts as of single cells: most are 0 or 1, the highest expressed genes beyond 20."""
    level = RNG.gamma(0.3, 4, genes)
    return RNG.poisson(level * RNG.uniform(0.5, 2, (cells, 1))).astype(np.float32)


def logged(counts: np.ndarray, target: float = 1e4) -> np.ndarray:
    """What scanpy's normalize_total and log1p make of counts."""
    return np.log1p(counts / counts.sum(1, keepdims=True) * target)


def scaled(values: np.ndarray) -> np.ndarray:
    """What scanpy's scale makes of logged values."""
    return np.clip((values - values.mean(0)) / (values.std(0) + 1e-6), -10, 10)


COUNTS = drawn()
DEPTH = COUNTS.sum(1, keepdims=True)
SHALLOW = np.minimum(COUNTS, 9)  # whole counts that a small panel has: none above 20
MATRICES = {
    "counts": (COUNTS, None),
    "whole numbers below 20": (SHALLOW, None),
    "integers as integers": (SHALLOW.astype(np.int32), None),
    "divided by the depth of the cell": (SHALLOW / SHALLOW.sum(1, keepdims=True) * 50, None),
    "counts per ten thousand": (COUNTS / DEPTH * 1e4, None),
    "corrected for ambient RNA": (np.maximum(COUNTS - 0.37 * COUNTS.mean(0), 0), None),
    "log-normalised": (logged(COUNTS), "log-normalised"),
    "log-normalised to a million": (logged(COUNTS, 1e6), "log-normalised"),
    "log2": (logged(COUNTS) / np.log(2), "log-normalised"),
    "square roots": (np.sqrt(SHALLOW / SHALLOW.sum(1, keepdims=True)), "log-normalised"),
    "scaled": (scaled(logged(COUNTS)), "negative"),
    "nothing": (COUNTS * 0, None),
}


@pytest.mark.parametrize("name", MATRICES)
def test_values_say_whether_they_may_be_counts(name):
    matrix, expected = MATRICES[name]
    found = fault_of(iter([sp.csr_matrix(matrix)]), logged=False)
    assert found is None if expected is None else expected in str(found)


@pytest.fixture(params=["v1", "v2"])
def place(request, bundles) -> tuple[Bundle, anndata.AnnData]:
    return Bundle.open(bundles[request.param]), anndata.read_h5ad(GOLDEN / request.param / "cells.h5ad")


def cellxgene(true: anndata.AnnData) -> anndata.AnnData:
    """Logged X of some genes; raw has all of them in another order."""
    order = np.random.default_rng(1).permutation(true.n_vars)
    adata = true[:, order].copy()
    adata.raw = adata.copy()
    adata.X = sp.csr_matrix(logged(adata.X.toarray()))
    adata = adata[:, np.sort(order)[: true.n_vars // 2]].copy()
    adata.uns["log1p"] = {"base": None}
    return adata


def scanpy(true: anndata.AnnData) -> anndata.AnnData:
    """X scaled, raw logged, counts in a layer."""
    adata = true.copy()
    adata.layers["Counts"] = adata.X.copy()
    adata.X = sp.csr_matrix(logged(adata.X.toarray()))
    adata.raw = adata.copy()
    adata.X = scaled(adata.X.toarray())
    return adata


def dense_layer(true: anndata.AnnData) -> anndata.AnnData:
    adata = true.copy()
    adata.layers["raw_counts"] = adata.X.toarray().astype(np.int32)
    adata.X = logged(adata.X.toarray())
    return adata


def by_gene(true: anndata.AnnData) -> anndata.AnnData:
    adata = true.copy()
    adata.layers["counts"] = sp.csc_matrix(adata.X)
    adata.X = sp.csc_matrix(logged(adata.X.toarray()))
    return adata


@pytest.mark.parametrize(
    ("layout", "taken"), [(cellxgene, "raw"), (scanpy, "Counts"), (dense_layer, "raw_counts"), (by_gene, "counts")]
)
@pytest.mark.parametrize("on_disk", [True, False])
def test_lists_are_those_of_the_true_counts(place, layout: Callable, taken, on_disk, tmp_path):
    bundle, true = place
    expected = tokenize(true, bundle)
    given = layout(true)
    if on_disk:
        given.write_h5ad(tmp_path / "x.h5ad")
        given = tmp_path / "x.h5ad"
    for options in ({}, {"layer": taken}):
        found = tokenize(given, bundle, **options)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.offsets.tolist() == expected.offsets.tolist()
        assert any(f"counts are those of {taken}" in note for note in found.notes)


def test_a_vocabulary_is_made_of_the_counts_too(place, tmp_path):
    _, true = place
    for name, adata in (("true", true), ("layers", dense_layer(true))):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        build_vocabulary(tmp_path / f"{name}.h5ad", tmp_path / f"{name}.parquet")
    assert (tmp_path / "true.parquet").read_bytes() == (tmp_path / "layers.parquet").read_bytes()


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_holds_no_counts_is_refused_and_taken_when_it_is_named(place, on_disk, tmp_path):
    bundle, adata = place
    adata.X = sp.csr_matrix(logged(adata.X.toarray()))
    adata.layers["smooth"] = adata.X * 2
    given = adata
    if on_disk:
        adata.write_h5ad(tmp_path / "x.h5ad")
        given = tmp_path / "x.h5ad"
    with pytest.raises(InputError, match=r"holds no counts .*X looks log-normalised.*--layer \(smooth, X\)"):
        tokenize(given, bundle)
    with pytest.raises(InputError, match=r"has no layer 'spliced': give one of smooth, X"):
        tokenize(given, bundle, layer="spliced")
    notes = tokenize(given, bundle, layer="X").notes
    assert any("counts are those of X, although it looks log-normalised" in note for note in notes)


@pytest.mark.parametrize("row", [1000, 15, 40, -3])
def test_a_matrix_stored_by_gene_with_a_cell_outside_is_refused(place, row, tmp_path):
    bundle, adata = place
    adata.X = sp.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "a") as file:
        file["X/indices"][3] = row if row < 0 else adata.n_obs + row
    with pytest.raises(InputError, match=r"x\.h5ad: X is damaged"):
        tokenize(tmp_path / "x.h5ad", bundle)


def test_a_file_that_reads_from_other_files_is_refused(place, tmp_path):
    bundle, adata = place
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(range(200)) * 40)
    for name, change in {
        "link": lambda f: f["obs"].__setitem__(
            "stolen", h5py.ExternalLink(str(GOLDEN / "v1" / "cells.h5ad"), "/X/data")
        ),
        "storage": lambda f: f["obs"].create_dataset("stolen", (8,), "u1", external=[(str(secret), 0, 8)]),
        "virtual": lambda f: f.create_virtual_dataset("stolen", _virtual()),
    }.items():
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        with h5py.File(tmp_path / f"{name}.h5ad", "a") as file:
            change(file)
        with pytest.raises(InputError, match=r"stolen is (a link to|stored in) another file"):
            tokenize(tmp_path / f"{name}.h5ad", bundle)


def test_a_row_of_more_counts_than_memory_is_meant_for_is_refused(place, tmp_path, monkeypatch):
    bundle, adata = place
    monkeypatch.setattr("rankshift.screen.tokenizer.count_file.STORED", 50)
    adata.write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "a") as file:
        x = file["X"]
        once = {name: x[name][:] for name in ("data", "indices", "indptr")}
        times = 1 + adata.n_vars  # the first row once more and once more
        first = once["indptr"][1]
        for name in ("data", "indices"):
            del x[name]
            x[name] = np.concatenate([np.tile(once[name][:first], times), once[name][first:]])
        del x["indptr"]
        x["indptr"] = np.concatenate([[0], once["indptr"][1:] + first * (times - 1)])
    with pytest.raises(InputError, match=f"a row of {adata.n_vars} columns stores .* counts"):
        tokenize(tmp_path / "x.h5ad", bundle)


def test_a_zarr_folder_of_which_nothing_is_stored_is_refused(place, tmp_path):
    bundle, adata = place
    adata.write_zarr(tmp_path / "x.zarr")
    tokenize(tmp_path / "x.zarr", bundle)
    whole = zarr.open_group(tmp_path / "x.zarr")
    whole.create_array("obs/bomb", shape=(10**9,), chunks=(10**6,), dtype="f4")
    zarr.consolidate_metadata(whole.store)
    with pytest.raises(InputError, match=r"obs/bomb is 3\.7 GiB of which [0-9,]+ bytes are stored"):
        tokenize(tmp_path / "x.zarr", bundle)


def _virtual() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(GOLDEN / "v1" / "cells.h5ad"), "X/data", (4,))
    return layout
