"""`rankshift embed`: levels, layers and formats against transformers' hidden states; what a file says; what is refused."""

import json

import anndata
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertForMaskedLM

from rankshift.jobs.verbs.embed import embed
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError


@pytest.fixture
def cells(generation, golden):
    return golden / generation / "cells.parquet"


@pytest.fixture
def bundle(generation, bundles):
    return bundles[generation]


def hidden_states(bundle, cells, layer: int) -> list[np.ndarray]:
    """Of every cell, by transformers: [N, D] after as many layers as `layer` counts back from the last."""
    model = BertForMaskedLM.from_pretrained(bundle, attn_implementation="eager").eval()
    table = Cells.read(cells, Bundle.open(bundle))
    with torch.no_grad():
        runs = (
            model(input_ids=torch.tensor(table.ids_of(i)).long()[None], output_hidden_states=True)
            for i in range(len(table))
        )
        return [run.hidden_states[layer - 1][0].numpy() for run in runs]


def vectors(path) -> np.ndarray:
    return np.stack(pq.read_table(path)["embedding"].to_pylist())


@pytest.mark.slow
def test_any_layer_has_the_hidden_states_of_transformers(generation, cells, bundle, tmp_path):
    framed = generation == "v2"
    for layer in (0, -1, -2, -3):
        states = hidden_states(bundle, cells, layer)
        embed(cells, bundle, tmp_path / "cell.parquet", level="cell", layer=layer)
        inner = [h[1:-1] if framed else h for h in states]
        np.testing.assert_allclose(vectors(tmp_path / "cell.parquet"), [h.mean(0) for h in inner], atol=1e-5)
        if framed:
            embed(cells, bundle, tmp_path / "cls.parquet", level="cls", layer=layer)
            np.testing.assert_allclose(vectors(tmp_path / "cls.parquet"), [h[0] for h in states], atol=1e-5)


def test_rows_keep_the_order_of_the_cells_in_both_formats(cells, bundle, tmp_path):
    for name in ("x.parquet", "x.h5ad"):
        embed(cells, bundle, tmp_path / name, layer=-2)
    table, given = pq.read_table(tmp_path / "x.parquet"), pq.read_table(cells)
    assert table["cell_id"].to_pylist() == given["cell_id"].to_pylist()
    assert table["length"].to_pylist() == given["length"].to_pylist()
    found = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert found.obs_names.tolist() == [str(x) for x in given["cell_id"].to_pylist()]
    assert found.obs["cell_type"].tolist() == given["cell_type"].to_pylist()
    np.testing.assert_array_equal(found.obsm["X_rankshift"], vectors(tmp_path / "x.parquet"))
    about = Bundle.open(bundle).weights_sha256
    assert found.uns["rankshift"]["layer"] == "-2"
    assert found.uns["rankshift"]["weights_sha256"] == about
    assert table.schema.metadata[b"rankshift.weights_sha256"].decode() == about
    assert sorted(f.name for f in tmp_path.iterdir()) == ["x.h5ad", "x.parquet"]


def test_columns_with_gaps_and_odd_types_go_into_anndata(cells, bundle, tmp_path):
    table = pq.read_table(cells)
    n = len(table)
    odd = {
        "passage": pa.array([None, *range(1, n)], pa.int32()),
        "ok": pa.array([None, *[True] * (n - 1)]),
        "day": pa.array([None, *range(1, n)], pa.date32()),
        "donor": pa.array([None, *["a"] * (n - 1)]),
        "score": pa.array([None, *[0.5] * (n - 1)]),
    }
    for name, column in odd.items():
        table = table.append_column(name, column)
    pq.write_table(table, tmp_path / "odd.parquet")
    embed(tmp_path / "odd.parquet", bundle, tmp_path / "x.h5ad")
    obs = anndata.read_h5ad(tmp_path / "x.h5ad").obs
    assert obs["passage"].tolist()[1:] == list(range(1, n))
    assert obs["day"].tolist()[1] == "1970-01-02"
    assert all(obs[name].isna().tolist() == [True] + [False] * (n - 1) for name in odd)


def test_genes_of_states_in_both_formats(cells, bundle, tmp_path):
    for name in ("g.parquet", "g.h5ad"):
        embed(cells, bundle, tmp_path / name, level="gene", by="cell_type")
    table = pq.read_table(tmp_path / "g.parquet")
    assert table.column_names == ["ensembl_id", "symbol", "state", "cells", "embedding"]
    assert table.schema.metadata[b"rankshift.by"] == b"cell_type"
    opened = Bundle.open(bundle)
    given = Cells.read(cells, opened)
    gene = table["ensembl_id"][0].as_py()
    kinds = given.obs["cell_type"].to_pylist()
    states = hidden_states(bundle, cells, -1)
    rows = {row["state"]: row for row in table.to_pylist() if row["ensembl_id"] == gene}
    for state, row in rows.items():
        at = [
            (i, np.flatnonzero(given.ids_of(i) == opened.vocabulary.token_of(gene)))
            for i in range(len(given))
            if state in (None, kinds[i])
        ]
        has = [states[i][where[0]] for i, where in at if len(where)]
        assert row["cells"] == len(has)
        np.testing.assert_allclose(row["embedding"], np.mean(has, 0), atol=1e-5)
    assert not any(name.startswith("<") for name in table["ensembl_id"].to_pylist())
    found = anndata.read_h5ad(tmp_path / "g.h5ad")
    first = [f"{gene}" if state is None else f"{gene}@{state}" for state in rows]
    assert found.obs_names.tolist()[: len(rows)] == first
    np.testing.assert_array_equal(found.obsm["X_rankshift"], vectors(tmp_path / "g.parquet"))


def test_hidden_states_of_one_gene_in_every_cell(generation, cells, bundle, tmp_path):
    embed(cells, bundle, tmp_path / "mean.parquet", level="gene")
    table = pq.read_table(tmp_path / "mean.parquet")
    gene, n = table["ensembl_id"][5].as_py(), table["cells"][5].as_py()
    embed(cells, bundle, tmp_path / "rows.parquet", level="gene", genes=gene, per_cell=True)
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert rows.column_names == ["cell_id", "ensembl_id", "symbol", "rank", "embedding"]
    assert rows["ensembl_id"].to_pylist() == [gene] * n
    np.testing.assert_allclose(vectors(tmp_path / "rows.parquet").mean(0), table["embedding"][5].as_py(), atol=1e-6)
    given = pq.read_table(cells)
    token = Bundle.open(bundle).vocabulary.token_of(gene)
    lists = dict(zip(given["cell_id"].to_pylist(), given["input_ids"].to_pylist(), strict=True))
    for row in rows.to_pylist():
        assert lists[row["cell_id"]].index(token) + (generation == "v1") == row["rank"]


def test_a_condition_and_a_state_choose_cells(cells, bundle, tmp_path):
    embed(cells, bundle, tmp_path / "some.parquet", where="length > 20")
    given = pq.read_table(cells)
    wanted = [c for c, n in zip(given["cell_id"].to_pylist(), given["length"].to_pylist(), strict=True) if n > 20]
    assert 0 < len(wanted) < len(given)
    assert pq.read_table(tmp_path / "some.parquet")["cell_id"].to_pylist() == wanted
    embed(cells, bundle, tmp_path / "states.json", by="cell_type", where="length > 20")
    assert set(json.loads((tmp_path / "states.json").read_text())) <= set(given["cell_type"].to_pylist())


REFUSED = [
    ({"layer": -9}, "layer -9 is not measured"),
    ({"summary": "mode"}, "summary 'mode' is unknown"),
    ({"genes": "ENSG1"}, "--genes is for genes: add --level gene"),
    ({"per_cell": True}, "--per-cell is for genes: add --level gene"),
    ({"level": "gene", "per_cell": True, "by": "cell_type"}, "--per-cell rows go to .parquet and have no --by"),
    ({"by": "cell_type"}, "does not fit: give a .parquet or .h5ad, or, for cells with --by COLUMN, a .json"),
    ({"level": "gene", "by": "nowhere"}, "--by 'nowhere' is not a column"),
    ({"level": "gene", "genes": "NOGENE"}, "none of the 1 genes is in the vocabulary"),
    ({"where": "length > 1000"}, "no cell is left after --where"),
    ({"out": "x.csv"}, "is neither of .parquet, .h5ad"),
    ({"out": "x.json"}, "does not fit"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_is_refused(options, message, golden, bundles, tmp_path):
    out = tmp_path / options.pop("out", "x.parquet")
    with pytest.raises(InputError, match=message) as refused:
        embed(golden / "v1/cells.parquet", bundles["v1"], out, **options)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_dtype_of_differences_to_originals_is_refused(bundles, golden, tmp_path):
    wanted = r"dtype int8-delta multiplies differences .* embedded cells have none: use int8 or float32"
    with pytest.raises(InputError, match=wanted):
        embed([golden / "v1/cells.parquet"], bundles["v1"], tmp_path / "out.parquet", dtype="int8-delta")
    assert not (tmp_path / "out.parquet").exists()
