"""A study and a run beside a table of truth: the numbers are those of scikit-learn, the calls those of the verdicts."""

import csv
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from rankshift.jobs import validate
from rankshift.jobs.cli import run_command
from rankshift.jobs.cohort.truth.compare import answered
from rankshift.screen.errors import InputError

pytestmark = pytest.mark.slow
QUIET = {"say": lambda line: None}


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    """Genes 0 to 4, which only the sick have in front, are hits whose deletion helps; 10 to 20 are none."""
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    lines = ["gene_id,hit,direction"]
    lines += [f"ENSG{i:011d},yes,towards" for i in range(5)] + [f"ENSG{i:011d},no," for i in range(10, 21)]
    path.write_text("\n".join([*lines, "ENSG99999999999,yes,away"]) + "\n")
    return path


def test_a_run_is_compared_by_its_own_effects(done, truth, tmp_path):
    """On the genes that the run tested, against scikit-learn's areas of its mean shifts."""
    place = done.run(0, "delete")
    found = validate(place, truth, tmp_path / "table.parquet", bootstrap=50, **QUIET)
    said = answered(place)
    number = {gene: i for i, gene in enumerate(said.gene_ids)}
    known = [i for i in (*range(5), *range(10, 21)) if math.isfinite(said.effect[number[f"ENSG{i:011d}"]])]
    effect = np.array([said.effect[number[f"ENSG{i:011d}"]] for i in known])
    hit = np.array([i < 5 for i in known])
    rows = {(row["direction"], row["method"]): row for row in pq.read_table(tmp_path / "table.parquet").to_pylist()}
    assert rows["towards", "screen"]["genes"] == len(known) == found.counts["compared"]
    assert rows["towards", "screen"]["auroc"] == pytest.approx(roc_auc_score(hit, effect))
    assert rows["towards", "screen"]["auprc"] == pytest.approx(average_precision_score(hit, effect))
    assert rows["either", "screen"]["auroc"] == pytest.approx(roc_auc_score(hit, np.abs(effect)))
    assert rows["towards", "chance"]["auroc"] == 0.5
    assert found.counts["unmatched"] == 1


def test_what_tells_the_states_apart_without_a_model_is_beside_it(done, truth):
    """Genes 0 to 4 are in front in the sick alone: their correlation with the goal state ranks them first, by construction."""
    found = validate(done.run(0, "delete"), truth, bootstrap=50, **QUIET)
    rows = {(row["direction"], row["method"]): row for row in found.table.to_pylist()}
    assert {method for _, method in rows} == {"screen", "mean rank", "state correlation", "co-expression", "chance"}
    assert rows["towards", "state correlation"]["auroc"] == 1.0
    best = [method for (direction, method), row in rows.items() if direction == "towards" and row["best_baseline"]]
    assert len(best) == 1


def test_genes_that_a_model_was_trained_on_are_left_out_and_counted(done, truth):
    whole = validate(done.run(0, "delete"), truth, bootstrap=50, **QUIET)
    part = validate(done.run(0, "delete"), truth, trained_on=["ENSG00000000000"], bootstrap=50, **QUIET)
    assert (whole.counts["trained_on"], part.counts["trained_on"]) == (0, 1)
    assert part.counts["compared"] == whole.counts["compared"] - 1


def test_a_study_is_compared_by_its_verdicts(done):
    """The small cohort allows no verdict, so no call is made; effects and baselines are those of all folds together."""
    said = answered(done.path)
    table = {row["gene_id"]: row for row in pq.read_table(done.verdicts).to_pylist()}
    assert said.gene_ids == list(table)
    assert set(said.called.tolist()) == {0}
    ranks = {gene: 1 / said.baselines["mean rank"][i] for i, gene in enumerate(said.gene_ids)}
    others = [rank for gene, rank in ranks.items() if int(gene[4:]) >= 10]
    assert max(ranks[f"ENSG{i:011d}"] for i in range(5)) < min(others)


def test_the_command_writes_a_table_and_a_page(done, truth, tmp_path, capfd):
    words = ["--truth", str(truth), "--bootstrap", "50"]
    table, page = tmp_path / "table.csv", tmp_path / "page.html"
    assert run_command(["validate", str(done.run(0, "delete")), *words, "--out", str(table), "--page", str(page)]) == 0
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} >= {"screen", "chance"}
    text = page.read_text()
    assert all(row["method"] in text for row in rows)
    assert "://" not in text
    assert "AUROC" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gene_id,hit\nENSG99999999999,yes\n", "none of its 1 genes"),
        ("gene_id,colour\nENSG00000000001,red\n", "it needs gene_id or symbol, and hit or score"),
        ("gene_id,hit\nENSG00000000001,yes\nENSG00000000002,yes\n", "a comparison needs both kinds"),
    ],
)
def test_a_table_that_cannot_be_compared_is_one_line(done, tmp_path, capfd, text, said):
    (tmp_path / "truth.csv").write_text(text)
    assert run_command(["validate", str(done.run(0, "delete")), "--truth", str(tmp_path / "truth.csv")]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_what_is_no_place_to_write_or_read_is_one_line(done, truth, tmp_path):
    for place, more, said in (
        (done.path, {"out": tmp_path / "table.xls"}, "no known ending"),
        (done.path, {"page": tmp_path / "page.txt"}, "is no .html"),
        (done.path, {"bootstrap": 5}, "bootstrap is 5"),
        (tmp_path, {}, "is not a run folder"),
    ):
        with pytest.raises(InputError, match=said):
            validate(place, truth, **more, **QUIET)
    with pytest.raises(InputError, match="is no file"):
        validate(done.path, tmp_path / "nothing.csv", **QUIET)
