"""A run against another one: every column against the plain computation of one gene, on drawn runs."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, norm, ttest_ind

from drawn_runs import Draw
from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run
from rankshift.screen.stats import StatOptions, statistics
from rankshift.screen.stats.donors import difference_in_cell
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.ranks_in_cells import in_cells

SHAPE = {"cells": 240, "genes": 300, "per_cell": 90, "cell_sd": 5e-4, "trend": 2e-3, "donors": (0.4, 0.3, 0.2, 0.1)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Run, Run, np.ndarray]:
    """A run with 20 genes that act, one without, and the truth."""
    folder = tmp_path_factory.mktemp("runs")
    run, truth = Draw(**SHAPE, shifted=20, effect=5e-3).run(folder / "run")
    return run, Draw(**SHAPE, seed=1).run(folder / "null")[0], truth


@pytest.fixture(scope="module")
def table(runs) -> pd.DataFrame:
    return judged(runs)


@pytest.fixture(scope="module")
def by_donor(runs) -> pd.DataFrame:
    return judged(runs, by="donor")


def judged(runs: tuple[Run, Run, np.ndarray], **judging) -> pd.DataFrame:
    table = statistics(runs[0], "null", null=runs[1], judging=StatOptions(**judging)).table().to_pandas()
    table["planted"] = runs[2][table.gene_ids.str[4:].astype(int)]
    return table


def values_of(run: Run, gene: str) -> pd.DataFrame:
    return run.sql(f"SELECT cell, donor, similarity FROM shifts WHERE gene_ids = '{gene}' ORDER BY cell").to_pandas()


@pytest.mark.slow
def test_differences_and_their_tests(runs, table):
    run, null, _ = runs
    assert (table.enough_cells == (np.minimum(table.cells, table.null_cells) >= 10)).all()
    assert table.difference_mean[table.hit].is_monotonic_increasing
    assert (table.difference_mean[table.hit] < 0).all()
    for gene in table.gene_ids[table.enough_cells][::60]:
        row = table.set_index("gene_ids").loc[gene]
        here, there = (values_of(r, gene).similarity.to_numpy() for r in (run, null))
        assert (row.cells, row.null_cells) == (len(here), len(there))
        assert row.difference_mean == pytest.approx(here.mean(dtype=float) - there.mean(dtype=float), abs=1e-9)
        plain = mannwhitneyu(here, there, use_continuity=False, method="asymptotic")
        assert row.p_value == pytest.approx(plain.pvalue, rel=1e-6)
        assert row.superiority == pytest.approx(plain.statistic / len(here) / len(there))


def test_the_typical_gene_is_the_centre(runs, table):
    result = statistics(runs[0], "null", null=runs[1], judging=StatOptions(bootstrap=0))
    centre = result.summary["typical_superiority"]
    tested = table[table.enough_cells & (table.p_value > 1e-6)]
    error = (tested.superiority - 0.5).abs() / norm.isf(tested.p_value / 2)
    centred = 2 * norm.sf((tested.superiority - centre).abs() / error)
    np.testing.assert_allclose(tested.centred_p_value, centred, rtol=1e-4)


def test_planted_effects_are_found_and_little_else(table, by_donor):
    for found, column in ((table, "fdr"), (by_donor, "balanced_fdr")):
        hits = found[found.hit]
        assert (hits[column] < 0.05).all()
        assert hits.planted.mean() >= 0.85
    tested = table[table.enough_cells]
    assert tested.hit[tested.planted].mean() > 0.9
    assert (tested.adjusted_fdr < 0.05)[tested.planted].mean() > 0.9
    assert tested.matched_z[tested.planted].max() < -2
    assert (tested.matched_p_value >= tested.matched_p_floor).all()


def test_intervals_hold_the_difference_and_rank_one_comes_first(table):
    tested = table[table.enough_cells]
    assert ((tested.difference_low < tested.difference_mean) & (tested.difference_mean < tested.difference_high)).all()
    assert tested.sort_values("difference_mean")["rank"].tolist() == list(range(1, len(tested) + 1))
    plain = tested[~tested.planted]
    assert 0.9 < ((plain.difference_low < 0) & (plain.difference_high > 0)).mean() < 0.99
    assert (tested.rank_low <= tested.rank_high).all()


def test_adjusted_values_are_those_of_each_run(runs, table):
    means = []
    for run in runs[:2]:
        seen = Observations.read(run, ["similarity"])
        adjusted = in_cells(run, seen, seen.values["similarity"]).adjusted
        means.append(dict(zip(seen.names["gene_ids"].to_pylist(), seen.mean(adjusted), strict=True)))
    for row in table[table.enough_cells].itertuples():
        assert row.adjusted_mean == pytest.approx(means[0][row.gene_ids] - means[1][row.gene_ids], abs=1e-9)


def test_donors_count_once_in_welchs_test(runs, by_donor):
    result = statistics(runs[0], "null", null=runs[1], judging=StatOptions(by="donor", bootstrap=0))
    centre = result.summary["typical_difference"]
    parts = []
    for run in runs[:2]:
        seen = Observations.read(run, ["similarity"])
        apart = difference_in_cell(seen.cell, seen.values["similarity"], seen.cells)
        donor = np.array(run.sql("SELECT donor FROM cells ORDER BY cell")["donor"].to_pylist())
        names = np.array(seen.names["gene_ids"].to_pylist())
        parts.append(pd.DataFrame({"gene": names[seen.gene], "donor": donor[seen.cell], "apart": apart.astype(float)}))
    for gene in by_donor.gene_ids[by_donor.enough_cells][::60]:
        row = by_donor.set_index("gene_ids").loc[gene]
        here, there = (p[p.gene == gene].groupby("donor").apart.mean() for p in parts)
        assert (row.groups, row.null_groups) == (len(here), len(there))
        assert row.balanced_difference == pytest.approx(here.mean() - there.mean(), abs=1e-9)
        plain = ttest_ind(here - centre, there, equal_var=False)
        assert row.balanced_p_value == pytest.approx(plain.pvalue, rel=1e-5)


def test_halves_of_both_runs_agree_on_what_is_there(runs):
    result = statistics(runs[0], "null", null=runs[1], judging=StatOptions(bootstrap=0))
    assert result.summary["stability"]["top_overlap"] > 3 * result.summary["stability"]["chance"]
    assert set(result.summary["baseline_correlation"]) == {"rank", "detection", "random"}


def test_genes_that_one_run_lacks_are_not_judged(runs, tmp_path):
    small, _ = Draw(**{**SHAPE, "genes": 100}, seed=2).run(tmp_path / "small")
    table = statistics(runs[0], "null", null=small, judging=StatOptions(by="donor", bootstrap=20)).table().to_pandas()
    missing = table.gene_ids.str[4:].astype(int) >= 100
    assert missing.sum() > 150
    empty = [
        "p_value",
        "fdr",
        "difference_mean",
        "difference_low",
        "balanced_p_value",
        "adjusted_mean",
        "rank",
        "matched_z",
    ]
    assert table.loc[missing, empty].isna().all(axis=None)
    assert (table.null_cells[missing] == 0).all()
    assert (table.null_groups[missing] == 0).all()
    assert not table.hit[missing].any()
    assert table.loc[~missing & table.enough_cells, empty].notna().all(axis=None)


def test_a_null_run_without_the_column_is_refused(runs, tmp_path):
    one, _ = Draw(cells=20, genes=300, per_cell=90).run(tmp_path / "one")
    with pytest.raises(InputError, match="'donor' has 1 values"):
        statistics(runs[0], "null", null=one, judging=StatOptions(by="donor"))
