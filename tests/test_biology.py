"""The biology benchmark: what it draws, how it ranks, and that a screen finds planted regulators and nothing in noise."""

import csv
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from support import ROOT


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/ is no installed package."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Rows of two parts of the benchmark, beside each other: each computes on one thread."""
    parts = {"planted": ["planted", "--case", "as documented"], "null": ["null"]}
    folders = {name: tmp_path_factory.mktemp(name) for name in parts}
    begun = {}
    for name, words in parts.items():
        out = ["--csv", str(folders[name] / "rows.csv"), "--folder", str(folders[name])]
        begun[name] = subprocess.Popen([sys.executable, "-m", "benchmarks.biology", *words, *out], cwd=ROOT)
    try:
        assert {name: process.wait(timeout=1800) for name, process in begun.items()} == dict.fromkeys(parts, 0)
    finally:
        for process in begun.values():
            process.kill()
            process.wait()
    return {name: list(csv.DictReader((folder / "rows.csv").open())) for name, folder in folders.items()}


@pytest.mark.slow
def test_master_regulators_rank_on_top_of_an_overexpression_screen(measured: dict[str, list[dict[str, str]]]) -> None:
    found = {
        row["perturb"]: float(row["auroc"])
        for row in measured["planted"]
        if row["score"] == "model: shift" and row["others"] == "all"
    }
    assert found["overexpress"] >= 0.95
    assert found["delete"] >= 0.7  # weaker: the rest of the list still says what the deleted gene said


@pytest.mark.slow
def test_p_values_are_uniform_where_nothing_drives_anything(measured: dict[str, list[dict[str, str]]]) -> None:
    rows = {row["score"]: row for row in measured["null"]}
    matched = rows["goal: matched_p_value"]
    assert int(matched["genes"]) >= 800  # twice as many as the planted network has
    assert float(matched["ks_p"]) > 0.01
    assert 0.03 < float(matched["below_0.05"]) < 0.07


def drawn(folder: Path, **options: object) -> anndata.AnnData:
    from rankshift.jobs.cohort.planted.network import Network

    folder.mkdir()
    Network(**{"cells": 600, **options}).write(folder / "counts.h5ad")
    return anndata.read_h5ad(folder / "counts.h5ad")


def test_masters_hold_their_own_state_and_every_donor_has_all_states(tmp_path: Path) -> None:
    data = drawn(tmp_path / "drawn")
    counts = data.X.toarray()
    state, program = data.obs["state"].to_numpy(str), data.var["program"].to_numpy()
    for own, other, number in (("start", "goal", 0), ("goal", "start", 1)):
        masters = counts[:, program == number]
        assert masters[state == own].mean() > 2 * masters[state == other].mean()
        assert masters[state == own].mean() > 2 * masters[state == "elsewhere"].mean()
    table = data.obs.groupby(["donor", "state"], observed=True).size()
    assert len(table) == 18
    assert table.max() - table.min() <= 1


def test_a_seed_says_everything_about_the_cells(tmp_path: Path) -> None:
    first, again, other = (
        drawn(tmp_path / name, seed=seed).X.toarray() for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert (first == again).all()
    assert (first != other).any()


def test_nothing_is_different_between_states_where_nothing_drives(tmp_path: Path) -> None:
    from benchmarks.biology.baselines import Expression

    for drives, share in ((True, (0.3, 1.0)), (False, (0.0, 0.09))):
        data = drawn(tmp_path / str(drives), drives=drives)
        t = Expression.read(data, "state").difference("start", "goal")["differential expression, t"]
        assert share[0] <= (np.abs(t) > 1.96).mean() <= share[1]


def test_area_is_that_of_sklearn_and_its_interval_holds_it() -> None:
    from benchmarks.biology.ranking import area

    rng = np.random.default_rng(0)
    known = rng.random(300) < 0.1
    score = np.round(rng.normal(size=300) + known, 1)  # with ties
    found = area(score, known, np.ones(300, bool))
    assert found.auroc == pytest.approx(roc_auc_score(known, score))
    assert found.low < found.auroc < found.high
    assert (found.positives, found.negatives) == (known.sum(), (~known).sum())


def test_matched_genes_are_the_nearest_in_every_trait() -> None:
    from benchmarks.biology.ranking import alike

    trait = np.arange(10.0)
    known = np.zeros(10, bool)
    known[4] = True
    assert np.flatnonzero(alike(known, trait, trait**2, count=2)).tolist() == [3, 5]


def test_co_expression_adds_up_squared_correlations() -> None:
    from benchmarks.biology.baselines import Expression

    rng = np.random.default_rng(0)
    level = rng.normal(size=(40, 6))
    level[:, 1] += level[:, 0]
    expression = Expression(level=level, state=np.repeat(["a", "b"], 20), genes=np.arange(6).astype(str))
    square = np.corrcoef(level.T) ** 2
    assert expression.hubs(within_states=False) == pytest.approx(square.sum(0) - 1)


def test_empirical_p_values_become_uniform() -> None:
    from scipy.stats import kstest

    from benchmarks.biology.planted import spread_out

    rng = np.random.default_rng(0)
    for neighbours in (20, 21):
        above = rng.integers(0, neighbours + 1, 20_000)
        floor = 2 / (neighbours + 1)
        p = np.minimum(1, floor * (1 + np.minimum(above, neighbours - above)))
        assert kstest(p, "uniform").pvalue < 1e-6
        assert kstest(spread_out(p, floor), "uniform").pvalue > 1e-3


def test_regulators_have_a_citation_and_matched_genes_in_the_data() -> None:
    from benchmarks.biology.myoblasts import REGULATORS, Known
    from rankshift.jobs.verbs.demo import MYOBLASTS

    var = anndata.read_h5ad(MYOBLASTS, backed="r").var
    names = dict(zip(var["ensembl_id"], var["gene_name"], strict=True))
    with REGULATORS.open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["ensembl_id"] for row in rows}) == len(rows)
    for row in rows:
        assert names[row["ensembl_id"]] == row["gene"]
        assert row["direction"] in ("positive", "negative")
        assert row["citation"].count(", ") == 2
        assert row["citation"][-4:].isdigit()
    rng = np.random.default_rng(0)
    known = Known.read(var["ensembl_id"].to_numpy(str), rng.random(len(var)), rng.random(len(var)))
    assert len(known.rows) == len(rows)
    assert not set(known.rows) & set(known.matched.ravel())
    best = np.zeros(len(var))
    best[known.rows] = known.sign
    assert (known.shares(best) == 1).all()
