"""Published statistics: every golden table from our own screens, the worked examples, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import false_discovery_control

from rankshift.screen.engine.screener import run as screen
from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.arithmetic.mixture import Mixture
from rankshift.screen.stats.arithmetic.rank_sum import against_sample, between
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.published import random_values
from rankshift.screen.stats.statistics import Statistics, statistics
from support import GOLDEN, LEVEL

STATES = {"state_key": "disease", "start": "dcm", "goal": "nf", "alt": ("hcm",)}


def list_of(generation: str, table: str) -> list[str]:
    """The genes that a published table was made of."""
    return json.loads((GOLDEN / generation / "stats" / "jobs.json").read_text())["jobs"][table]["genes_perturbed"]


class Screens:
    """Runs of the golden cells, each made when first asked for."""

    def __init__(self, bundles: dict[str, Path], folder: Path) -> None:
        self.bundles, self.folder = bundles, folder

    def __call__(self, generation: str, name: str, **options) -> Run:
        out = self.folder / generation / name
        if out.exists():
            return Run.open(out)
        root = GOLDEN / generation
        if options.pop("states", False):
            options |= {**STATES, "states": root / "state_embeddings.json"}
        common = {"embedding": LEVEL[generation], "layer": -1, "dtype": "float32"}
        return screen(root / "cells.parquet", self.bundles[generation], out, **common, **options)


@pytest.fixture(scope="module")
def screens(bundles, tmp_path_factory) -> Screens:
    return Screens(bundles, tmp_path_factory.mktemp("screens"))


def published(generation: str, name: str) -> pd.DataFrame:
    return pd.read_csv(GOLDEN / generation / "stats" / f"{name}.csv.gz", index_col=0)


def written(result: Statistics, folder: Path) -> pd.DataFrame:
    result.write(folder / "out.csv")
    return pd.read_csv(folder / "out.csv", index_col=0)


def assert_same(
    got: pd.DataFrame, want: pd.DataFrame, *, but: tuple[str, ...] = (), slack: Mapping[str, np.ndarray] | None = None
) -> None:
    """Columns, order and row numbers the same; p-values to 1e-9 and what `slack` of their column allows, means to 1e-6."""
    assert list(got.columns) == list(want.columns)
    assert list(got.index) == list(want.index)
    for name in want.columns:
        if name in but:
            continue
        if want[name].dtype.kind != "f":
            assert list(got[name]) == list(want[name]), name
        else:
            within = (slack or {}).get(name, 0) + (1e-9 if "pval" in name or "FDR" in name else 1e-6)
            off = np.abs(got[name] - want[name])
            assert ((off <= within) | (got[name].isna() & want[name].isna())).all(), f"{name} off by {off.max()}"


ULPS = 3 * 2.0**-24  # how far processors and batch shapes move a difference of two cosines in float32


def rank_slack(run: Run, genes: pd.Series, column: str) -> np.ndarray:
    """By how much the p-value of each gene may differ, because values nearer than ULPS change places in the ranks.

    Each such pair moves the rank sum by one at most, that is z by 1 / sd; p is 2 (1 - Phi(|z|)), whose slope is below 0.8.
    """
    rows = run.frame(f"SELECT gene_ids, {column} AS value FROM shifts")
    values = rows["value"].to_numpy(np.float64)
    near = (np.abs(values[:, None] - values) <= ULPS).sum(1) - 1
    pairs = pd.Series(near).groupby(rows["gene_ids"]).sum()[genes].to_numpy()
    n = rows.groupby("gene_ids").size()[genes].to_numpy()
    return 0.8 * pairs / np.sqrt(n * len(rows) * (n + len(rows) + 1) / 12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_goal_shifts_are_the_published_ones(kind, generation, screens, tmp_path):
    run = screens(generation, f"{kind}_goal", perturb=kind, states=True)
    got = written(statistics(run, "goal", reference_names=True), tmp_path)
    ends = {"Goal_end": "nf", "Alt_end": "hcm"}
    p = {
        end: "Goal_end_vs_random_pval" if end == "Goal_end" else f"Alt_end_vs_random_pval_{s}"
        for end, s in ends.items()
    }
    q = {end: "Goal_end_FDR" if end == "Goal_end" else f"Alt_end_FDR_{s}" for end, s in ends.items()}
    slack = {p[end]: rank_slack(run, got["Ensembl_ID"], f"shift_{state}") for end, state in ends.items()}
    for end in ends:
        assert (slack[p[end]] > 0).mean() < 0.1  # nearly all are held to 1e-9
        np.testing.assert_allclose(got[q[end]], false_discovery_control(got[p[end]]), rtol=1e-9)
        slack[q[end]] = np.full(len(got), slack[p[end]].max() * len(got) * (slack[p[end]].max() > 0))
    assert_same(got, published(generation, f"{kind}_all_goal__goal_state_shift"), slack=slack)


def test_a_joint_goal_shift_is_one_row_without_a_test(generation, screens, tmp_path):
    genes = list_of(generation, "delete_list1_goal__goal_state_shift")
    run = screens(generation, "list_goal", perturb="delete", genes=genes, how="together", states=True)
    got = written(statistics(run, "goal", reference_names=True), tmp_path)
    assert_same(got, published(generation, "delete_list1_goal__goal_state_shift"))


@pytest.mark.slow
def test_a_run_against_a_null_run_is_the_published_table(generation, screens, tmp_path):
    run, five = (screens(generation, n, perturb="delete", max_cells=c) for n, c in (("plain", None), ("five", 5)))
    got = written(statistics(run, "null", null=five, reference_names=True), tmp_path)
    assert_same(got, published(generation, "delete_all__vs_null"))


@pytest.mark.slow
def test_the_mixture_is_the_published_one_but_for_the_order_of_its_components(generation, screens, tmp_path):
    run = screens(generation, "plain", perturb="delete")
    got = written(statistics(run, "mixture", reference_names=True), tmp_path)
    want = published(generation, "delete_all__mixture_model")
    assert_same(got, want, but=("Impact_component", "Impact_component_percent"))
    assert set(got.Ensembl_ID[got.Impact_component == 1]) >= set(want.Ensembl_ID[want.Impact_component == 1])
    low = got.Impact_component == 1
    assert got.Test_avg_shift[low].max() < got.Test_avg_shift[~low].min()


@pytest.mark.slow
def test_rows_of_cells_are_the_published_ones(generation, screens, tmp_path):
    genes = list_of(generation, "delete_list1__aggregate_data")
    run = screens(generation, "list1", perturb="delete", genes=genes, how="together")
    got = written(statistics(run, "aggregate", reference_names=True), tmp_path)
    assert_same(got, published(generation, "delete_list1__aggregate_data"))


def test_rows_of_a_joint_perturbation_name_all_its_genes(screens, tmp_path):
    genes = list_of("v2", "delete_list3__aggregate_data")
    run = screens("v2", "list3", perturb="delete", genes=genes, how="together")
    got = written(statistics(run, "aggregate", reference_names=True), tmp_path)
    want = published("v2", "delete_list3__aggregate_data")
    np.testing.assert_allclose(got.Cosine_sim, want.Cosine_sim, atol=1e-6)
    assert set(got.Gene) == {"+".join(want.Gene)}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "how"), [("delete_all", "each"), ("delete_list1", "together")])
def test_gene_shifts_are_the_published_ones(case, how, generation, screens, tmp_path):
    genes = "all" if how == "each" else list_of(generation, "delete_list1__aggregate_gene_shifts")
    run = screens(generation, f"{case}_genes", perturb="delete", genes=genes, how=how, gene_shifts=True)
    got = written(statistics(run, "genes", reference_names=True), tmp_path)
    want = published(generation, f"{case}__aggregate_gene_shifts")
    assert list(got.columns) == list(want.columns)
    cell_rows = len(want[want.Affected == "cell_emb"])
    assert list(got.Affected[:cell_rows]) == ["cell_emb"] * cell_rows
    for part in (got[:cell_rows], got[cell_rows:]):
        assert part.Cosine_sim_mean.is_monotonic_increasing
    pairs = ["Perturbed", "Affected"]
    got, want = (t.set_index(pairs).sort_index() for t in (got, want))
    assert list(got.index) == list(want.index)
    for name in ("Gene_name", "Ensembl_ID", "Affected_gene_name", "Affected_Ensembl_ID", "N_Detections"):
        assert got[name].equals(want[name]), name
    np.testing.assert_allclose(got.Cosine_sim_mean, want.Cosine_sim_mean, atol=1e-6)
    np.testing.assert_allclose(got.Cosine_sim_stdev, want.Cosine_sim_stdev, atol=1e-6)


@pytest.mark.slow
def test_overexpressed_genes_are_counted_under_their_own_names(generation, screens, tmp_path):
    run = screens(generation, "up_genes", perturb="overexpress", gene_shifts=True)
    got = written(statistics(run, "genes", reference_names=True), tmp_path)
    want = published(generation, "overexpress_all__aggregate_gene_shifts")
    cells, wanted = (t[t.Affected == "cell_emb"].set_index("Perturbed").sort_index() for t in (got, want))
    assert list(cells.index) == list(wanted.index)
    np.testing.assert_allclose(cells.Cosine_sim_mean, wanted.Cosine_sim_mean, atol=1e-6)
    # The published labels are off by one gene and lose the last value of every perturbed list (PS B1).
    assert got.N_Detections.sum() == want.N_Detections.sum() + cells.N_Detections.sum()


@pytest.mark.slow
def test_gene_shifts_in_our_columns_are_the_effects_of_the_run(screens):
    run = screens("v2", "delete_all_genes", perturb="delete", gene_shifts=True)
    table = statistics(run, "genes").table().to_pandas()
    cells = table.affected_gene.isna()
    assert cells[: cells.sum()].all()
    wanted = run.sql("SELECT gene_ids, avg(CAST(similarity AS DOUBLE)) AS mean FROM shifts GROUP BY 1").to_pandas()
    got = table[cells].set_index("gene_ids").cosine_mean
    np.testing.assert_allclose(got[wanted.gene_ids], wanted["mean"])
    pairs = ["gene_ids", "affected_gene"]
    wanted = run.sql("SELECT * FROM effects").to_pandas().set_index(pairs).sort_index()
    got = table[~cells].set_index(pairs).sort_index()
    assert list(got.index) == list(wanted.index)
    assert list(got.cells) == list(wanted.n)
    for name in ("cosine_mean", "cosine_sd", "cosine_min"):
        np.testing.assert_allclose(got[name], wanted[name], atol=1e-7)


# The worked examples PS N1 to PS N4


def test_goal_shift_example():
    values = np.array([0.10, 0.20, 0.30, -0.05, 0, 0.05, 0.01, -0.02, -0.03], np.float32)
    result = against_sample(np.array([0, 3, 6, 9]), values, values)
    np.testing.assert_allclose(-result.z, [-1.66410, 0.73960, 0.92450], atol=5e-6)
    np.testing.assert_allclose(result.p, [0.0960923, 0.4595426, 0.3552259], atol=5e-8)
    np.testing.assert_allclose(fdr(result.p), [0.2882770, 0.4595426, 0.4595426], atol=5e-8)


def test_null_example():
    test = np.array([0.90, 0.91, 0.92, 0.93, 0.99, 0.98, 0.97], np.float32)
    null = np.array([0.95, 0.96, 0.97, 0.98, 0.99], np.float32)
    result = between(np.array([0, 0, 0, 0, 1, 1, 1]), test, np.zeros(5, int), null, 2, ties=False)
    assert result.z[0] == pytest.approx(-2.44949, abs=5e-6)
    assert result.p[0] == pytest.approx(0.0143059, abs=5e-8)
    assert np.isnan(result.p[1])
    np.testing.assert_allclose(fdr(np.array([result.p[0], 1.0])), [0.0286118, 1], atol=1e-7)


def test_mixture_example():
    cells = {
        10: [0.99, 0.985],
        11: [0.98],
        12: [0.975, 0.99],
        13: [0.80, 0.82],
        14: [0.79],
        15: [0.97],
        16: [0.9, 0.7, 0.99],
    }
    means = np.array([np.mean(v) for v in cells.values()])
    model = Mixture.fit(means)
    np.testing.assert_allclose(model.mean, [0.82111, 0.98000], atol=5e-6)
    impact = model.impact(means)
    assert [g for g, hit in zip(cells, impact, strict=True) if hit] == [13, 14, 16]
    percent = [100 * model.impact(np.array(v)).mean() for v in cells.values()]
    np.testing.assert_allclose(percent, [0, 0, 0, 100, 100, 0, 66.6667], atol=5e-5)


def test_mixture_finds_every_gene_of_impact_where_the_published_code_finds_two_of_five():
    low = [0.893, 0.877, 0.898, 0.895, 0.888]
    means = np.array([0.993, 0.994, 0.988, 0.893, 0.992, 0.990, 0.991, 0.988, 0.877, 0.990, 0.898, 0.895, 0.990, 0.990,
                      0.988, 0.986, 0.888])  # fmt: skip
    model = Mixture.fit(means)
    np.testing.assert_allclose(model.mean, [0.89020, 0.99000], atol=5e-6)
    assert sorted(means[model.impact(means)]) == sorted(low)


# Order, files, refusals


def test_rows_are_sorted_by_gene_then_cell_and_the_sample_is_of_that_order():
    names = pa.table({"perturbation": [0, 1], "gene_ids": ["B", "A"], "tokens": [[9], [4]]})
    value = np.array([1, 2, 3, 4], np.float32)
    seen = Observations.sort(names, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), {"x": value}, cells=2)
    assert seen.tokens == [4, 9]
    assert seen.values["x"].tolist() == [2, 4, 1, 3]
    assert seen.cell.tolist() == [0, 1, 0, 1]
    assert random_values(value) is value
    import random

    many = np.arange(100_001, dtype=np.float32)
    random.seed(42)
    assert random_values(many).tolist() == random.sample(many.tolist(), 100_000)


@pytest.mark.slow
def test_parquet_names_the_row_number_and_keeps_nulls(screens, tmp_path):
    run, five = (screens("v1", n, perturb="delete", max_cells=c) for n, c in (("plain", None), ("five", 5)))
    statistics(run, "null", null=five, reference_names=True).write(tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names[:3] == ["row", "Gene", "Gene_name"]
    absent = np.array(table["N_Detections_null"]) == 0
    assert absent.any()
    assert table["Null_avg_shift"].null_count == absent.sum()


def test_what_does_not_fit_is_refused_in_one_line(screens, tmp_path):
    run = screens("v1", "plain", perturb="delete")
    for mode, options, words in (
        ("goal", {}, "needs states"),
        ("genes", {}, "--gene-shifts"),
        ("null", {}, "belong together"),
        ("mixture", {"null": run}, "belong together"),
        ("medians", {}, "use one of goal"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            statistics(run, mode, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="neither"):
        statistics(run, "mixture").write(tmp_path / "table.xlsx")
    assert list(tmp_path.iterdir()) == []
