"""Mouse, yeast and worm from counts to statistics: nothing on the way assumes what a human gene id looks like."""

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from transformers import BertConfig, BertForMaskedLM

from rankshift.screen import Bundle, make_bundle, run, tokenize
from rankshift.screen.stats import StatOptions
from rankshift.screen.stats.statistics import statistics
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

GENES = 40
ORGANISMS = {
    "mouse": [f"ENSMUSG{i:011d}" for i in range(GENES)],
    "yeast": [f"Y{'ABCDEFGH'[i % 8]}{'LR'[i % 2]}{i:03d}{'WC'[i % 2]}" + "-A" * (i % 5 == 0) for i in range(GENES)],
    "worm": [f"F22B7.{i}" for i in range(GENES)],  # sequence names, whose last number is no version
}


@pytest.mark.slow
@pytest.mark.parametrize("organism", ORGANISMS)
def test_from_counts_to_statistics(organism, tmp_path):
    ids = ORGANISMS[organism]
    assert len(set(ids)) == GENES
    draw = np.random.default_rng(0)
    counts = sp.csr_matrix(draw.poisson(1.2, (30, GENES)).astype(np.float32))
    data = anndata.AnnData(counts)
    data.obs["state"] = ["ill", "well"] * 15
    data.var["ensembl_id"] = [f"{i}.3" for i in ids] if organism == "mouse" else ids
    data.var["symbol"] = [f"Gene{i}" for i in range(GENES)]
    data.write_h5ad(tmp_path / "cells.h5ad")
    build_vocabulary([tmp_path / "cells.h5ad"], tmp_path / "vocabulary.parquet", gene_column="ensembl_id")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=GENES + 2, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=GENES, hidden_act="relu", initializer_range=0.3,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "model")
    make_bundle(tmp_path / "model", tmp_path / "vocabulary.parquet", tmp_path / "bundle")
    assert set(Bundle.open(tmp_path / "bundle").vocabulary.by_id) == {i.upper() for i in ids}
    cells = tokenize(data, tmp_path / "bundle")
    assert np.mean(cells.lengths) > 20
    wanted = [ids[5].lower(), ids[6], ids[7]]
    done = run(
        cells, tmp_path / "bundle", tmp_path / "run", perturb="delete", genes=wanted,
        state_key="state", start="ill", goal="well",
    )  # fmt: skip
    rows = done.sql("SELECT gene_ids, count(*) AS n FROM shifts GROUP BY 1 ORDER BY 1").to_pylist()
    have = {i: int((np.asarray(counts[::2].todense())[:, ids.index(i)] > 0).sum()) for i in ids[5:8]}
    assert {r["gene_ids"]: r["n"] for r in rows} == have
    table = statistics(done, "goal", judging=StatOptions(min_cells=3, bootstrap=0)).table().to_pandas()
    assert sorted(table.gene_ids) == sorted(have)
    assert table.p_value.notna().all()
