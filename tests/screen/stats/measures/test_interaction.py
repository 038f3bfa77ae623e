"""Interactions of pairs against Student's t test of scipy, over cells and over groups of them."""

import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from rankshift.screen.notebook import Run
from rankshift.screen.notebook import run as screen
from rankshift.screen.stats import StatOptions, statistics
from rankshift.screen.stats.measures.interaction import MEASURE
from support import GOLDEN

V1 = GOLDEN / "v1"
ROUTE = {"states": V1 / "state_embeddings.json", "state_key": "disease", "start": "nf", "goal": "dcm"}


@pytest.fixture(scope="module")
def pairs(bundles, tmp_path_factory) -> Run:
    known = Run.open(GOLDEN / "run_v1").sql("SELECT gene_ids FROM perturbations LIMIT 3")
    genes = ",".join(known["gene_ids"].to_pylist())
    out = tmp_path_factory.mktemp("pairs") / "run"
    return screen(
        V1 / "cells.parquet", bundles["v1"], out, perturb="overexpress", genes=genes, how="pairs", say=str, **ROUTE
    )


@pytest.mark.parametrize("mode", ["goal", "mixture"])
@pytest.mark.parametrize("by", [None, "cell_type"])
def test_the_interaction_is_tested_against_zero(mode, by, pairs):
    column = "shift_dcm_interaction" if mode == "goal" else "similarity_interaction"
    rows = pairs.frame(f"SELECT gene_ids, cell_type, {column} AS x FROM shifts")
    found = statistics(pairs, mode, judging=StatOptions(by=by, min_cells=2, bootstrap=0)).table().to_pandas()
    found = found.set_index("gene_ids")
    assert len(found) == 3
    p = []
    for gene, some in rows.groupby("gene_ids"):
        units = some["x"] if by is None else some.groupby(by)["x"].mean()
        want = ttest_1samp(units.astype(float), 0)
        low, high = want.confidence_interval(0.95)
        row = found.loc[gene]
        p.append(want.pvalue)
        assert row.interaction_mean == pytest.approx(units.mean(), rel=1e-5)
        assert row.interaction_p_value == pytest.approx(want.pvalue, rel=1e-3)
        assert (row.interaction_low, row.interaction_high) == pytest.approx((low, high), rel=1e-3)
    in_order = found.loc[sorted(found.index)]
    assert in_order.interaction_fdr.to_numpy() == pytest.approx(false_discovery_control(p), rel=1e-3)


def test_pairs_of_too_few_cells_are_not_tested(pairs):
    table = statistics(pairs, "goal", judging=StatOptions(min_cells=10_000, bootstrap=0)).table().to_pandas()
    assert table.interaction_p_value.isna().all()
    assert table.interaction_mean.notna().all()


def test_screens_of_single_genes_have_no_interaction():
    run = Run.open(GOLDEN / "run_v1")
    table = statistics(
        run, "mixture" if run.manifest.route is None else "goal", judging=StatOptions(bootstrap=0)
    ).table()
    assert not {c.name for c in MEASURE.columns} & set(table.column_names)
    assert table.num_rows > 0
