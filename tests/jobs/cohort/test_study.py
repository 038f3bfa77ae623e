"""A study of a small cohort: who is screened by which model, what the tables hold, what is refused, and how it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rankshift.jobs.cohort.folder import Folder
from rankshift.jobs.cohort.study import study
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run
from support import PATIENCE, STUDY, Halt

LISTED = {
    **STUDY, "folds": 2, "epochs": 2, "genes": ["ENSG00000000000", "ENSG00000000005"], "controls": 4, "goal_of": "donor",
}  # fmt: skip
PLACES = (
    "cells.parquet", "folds/1/bundle", "folds/0/states.json", "runs/fold1_delete/shifts/shard-000000.parquet",
    "donors.parquet", "verdicts.parquet",
)  # fmt: skip
TABLES = (
    "cells.parquet", "genes.parquet", "gate.json", "idle.json", "donors.parquet", "null.parquet", "summary.json",
    "verdicts.parquet",
)  # fmt: skip


@pytest.fixture(scope="module")
def listed(cohort, tmp_path_factory) -> Folder:
    """A study of two genes and four controls, every donor against its own goal state."""
    out = tmp_path_factory.mktemp("listed") / "study"
    return study(*cohort, out, **LISTED)


def rows(path: Path, *columns: str) -> list[dict]:
    return pq.read_table(path, columns=list(columns) or None).to_pylist()


@pytest.mark.slow
def test_no_donor_is_screened_or_judged_by_a_model_that_saw_it(done):
    """From the files that the trainings and the screens read and wrote, not from the plan."""
    screened = defaultdict(set)
    for fold, arm, place in done.runs():
        taught = {
            row["donor"] for row in rows(done.tokens(fold), "donor", "study_split") if row["study_split"] == "train"
        }
        run = Run.open(place)
        assert run.manifest["bundle"]["weights_sha256"] == Bundle.open(done.bundle(fold)).weights_sha256
        seen = {row["donor"] for row in run.sql("SELECT DISTINCT donor FROM shifts").to_pylist()}
        donor_of = {row["cell_id"]: row["donor"] for row in rows(done.tokens(fold), "cell_id", "donor")}
        judged = {donor_of[row["cell_id"]] for row in rows(done.bundle(fold) / "evaluation/predictions.parquet")}
        assert taught
        assert seen == judged
        assert not taught & seen
        assert taught | seen == {f"d{i}" for i in range(6)}
        screened[arm] |= seen
    assert screened == {arm: {f"d{i}" for i in range(6)} for arm in ("delete", "overexpress")}
    weights = {Bundle.open(done.bundle(fold)).weights_sha256 for fold in range(3)}
    assert len(weights) == 3


@pytest.mark.slow
def test_the_table_of_cells_says_what_each_is_for(done):
    found = rows(done.cells)
    count = defaultdict(int)
    for row in found:
        count[row["donor"], row["label"], row["role"]] += 1
    assert set(count.values()) == {10, 14}
    assert {key[2]: n for key, n in count.items()} == {"analysis": 10, "pool": 14}
    assert len({row["cell_id"] for row in found}) == len(found)
    folds = {(row["donor"], row["fold"]) for row in found}
    assert len(folds) == 6  # both states of a donor in one fold


@pytest.mark.slow
def test_values_of_donors_are_means_over_their_cells(done):
    found = {(row["gene_id"], row["arm"], row["donor"]): row for row in rows(done.donors)}
    again = {}
    for fold, arm, place in done.runs():
        query = (
            "SELECT gene_ids, donor, avg(shift_well) AS m, avg(similarity) AS s, count(*) AS n FROM shifts GROUP BY ALL"
        )
        for row in Run.open(place).sql(query).to_pylist():
            again[row["gene_ids"], arm, row["donor"]] = (fold, row["n"], row["m"], row["s"])
    assert found.keys() == again.keys()
    for key, (fold, n, mean, similarity) in again.items():
        row = found[key]
        assert (row["fold"], row["cells"]) == (fold, n)
        assert row["shift"] == pytest.approx(mean, abs=1e-9)
        assert row["similarity"] == pytest.approx(similarity, abs=1e-7)


@pytest.mark.slow
def test_what_the_states_differ_in_moves_the_cells(done):
    """Deleted genes of the sick move them to the well, deleted genes that both have do not."""
    by_gene = defaultdict(list)
    for row in rows(done.donors):
        if row["arm"] == "delete":
            by_gene[int(row["gene_id"][4:])].append(row["shift"])
    mean = {gene: np.mean(values) for gene, values in by_gene.items()}
    sick, others = (np.mean([mean[g] for g in some]) for some in (range(5), range(10, 30)))
    assert sick > 0
    assert sick > 2 * others


@pytest.mark.slow
def test_an_edit_that_changes_nothing_shifts_nothing(done):
    assert json.loads(done.idle.read_text()) == {"edits": 12, "largest": 0.0}


@pytest.mark.slow
def test_every_donor_is_held_against_its_own_goal(listed):
    """The vectors are mean embeddings of the donor's own cells, and the value of a donor is the shift towards them."""
    for fold in range(2):
        bundle = Bundle.open(listed.bundle(fold))
        states = json.loads(listed.states(fold).read_text())
        table = Cells.read(listed.tokens(fold), bundle)
        annotations = table.obs.to_pylist()
        who = sorted({row["donor"] for row in annotations if row["study_split"] == "test"})
        assert list(states) == ["sick", "well", *(f"well of {donor}" for donor in who)]
        vectors = embed(table, Encoder(bundle, dtype="float32"), level="cell", layer_count=2, tokens=4096)
        for donor in who:
            own = [
                row["donor"] == donor and row["state"] == "well" and row["study_split"] == "test" for row in annotations
            ]
            assert sum(own) == 10
            assert states[f"well of {donor}"] == pytest.approx(vectors[own].mean(0), abs=1e-5)
        others = [row["study_split"] == "state" and row["state"] == "sick" for row in annotations]
        assert states["sick"] == pytest.approx(vectors[others].mean(0), abs=1e-5)
        for arm in ("delete", "overexpress"):
            run = Run.open(listed.run(fold, arm))
            for donor in who:
                own = f'"shift_well of {donor}"'
                query = f"SELECT gene_ids, avg({own}) AS m FROM shifts WHERE donor = '{donor}' GROUP BY ALL"
                expected = {row["gene_ids"]: row["m"] for row in run.sql(query).to_pylist()}
                mine = [row for row in rows(listed.donors) if (row["donor"], row["arm"]) == (donor, arm)]
                found = {row["gene_id"]: row["shift"] for row in mine}
                assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_a_list_comes_with_its_controls(listed):
    genes = rows(listed.genes)
    assert [row["gene_id"] for row in genes if not row["control"]] == ["ENSG00000000000", "ENSG00000000005"]
    assert sum(row["control"] for row in genes) == 4
    assert {row["gene_id"] for row in rows(listed.donors)} <= {row["gene_id"] for row in genes}


SCRIPT = """
import json, os, sys
from rankshift.jobs.cohort.study import study
for _ in range(int(sys.argv[2])):  # one start of Python for all of them
    child = os.fork()
    if not child:
        study(**json.loads(sys.argv[1]))
        os._exit(0)
    code = os.waitpid(child, 0)[1]
sys.exit(code)
"""


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_tables(listed, cohort, tmp_path):
    """Killed while it writes a table, a model, states, a shard of a screen and the values; each time it goes on."""
    out = tmp_path / "study"
    given = {name: value for name, value in LISTED.items() if name != "say"}
    words = {"cells": str(cohort[0]), "bundle": str(cohort[1]), "out": str(out), **given, "resume": True}
    marks = [Halt(out / name) for name in PLACES]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(words), str(len(marks) + 1)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    for mark in marks:
        stopped = mark.wait()
        assert not (out / "verdicts.parquet").exists()
        mark.lift()
        os.kill(stopped, signal.SIGKILL)
    assert process.wait(PATIENCE) == 0
    for name in TABLES:
        assert (out / name).read_bytes() == (listed.path / name).read_bytes(), name


@pytest.mark.slow
def test_what_is_done_is_not_done_again(done, cohort):
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("*")}
    study(*cohort, done.path, **STUDY, resume=True)
    assert {path: path.stat().st_mtime_ns for path in done.path.rglob("*")} == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"folds": 7}, "--folds is 7, the cells are of 6 donors"),
        ({"folds": 1}, "--folds is 1: give at least 2"),
        ({"donor": "nobody"}, "--donor 'nobody' is not a column"),
        ({"start": "ill"}, "no donor has the label 'ill' in 'state': the labels are sick, well"),
        ({"donor": "asked"}, "--donor 'asked' is missing in 1 of 288 cells"),
        ({"batch": ("kit",)}, "the batch column 'kit' is the label by another name"),
        ({"donor": "half", "goal_of": "donor"}, "--goal-of donor: 6 of 6 donors with 'sick' have no cells of 'well'"),
        ({"cell_type": "kind"}, "--cell-type 'kind' is not a column"),
        ({"min_cells": 0}, "--min-cells is 0"),
        ({"goal": "sick"}, "state 'sick' is named twice"),
        ({"donor": "state"}, "--label and --donor are both 'state'"),
        ({"arms": ("activate",)}, "--arms 'activate'"),
        ({"controls": 5}, "--controls are genes beside a list"),
        ({"genes": ["NOSUCH"]}, "none of the 1 genes is in the vocabulary"),
        ({"genes": ["ENSG00000000001"], "controls": 100}, "--background is 100"),
        ({"cells_per_donor": 0}, "--cells-per-donor is 0"),
        ({"goal_of": "mother"}, "--goal-of 'mother' is unknown"),
        ({"batch": ("donor",)}, "--batch names 'donor'"),
        ({"epochs": 0}, "--epochs is 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(cohort, tmp_path, wrong, said):
    with pytest.raises(InputError) as error:
        study(*cohort, tmp_path / "study", **{**STUDY, **wrong})
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_another_study_does_not_go_on_in_its_folder(done, cohort, tmp_path):
    with pytest.raises(InputError, match="continue the study with --resume"):
        study(*cohort, done.path, **STUDY)
    with pytest.raises(InputError, match="is a study with another --folds"):
        study(*cohort, done.path, **{**STUDY, "folds": 2}, resume=True)
    other = shutil.copy(cohort[0], tmp_path / "other.parquet")
    table = pq.read_table(other)
    pq.write_table(table.slice(1), other)
    with pytest.raises(InputError, match="is a study of other cells"):
        study(other, cohort[1], done.path, **STUDY, resume=True)


def test_a_dry_run_says_the_cost_and_writes_nothing(cohort, tmp_path):
    said: list[str] = []
    study(*cohort, tmp_path / "study", **{**STUDY, "say": said.append}, dry_run=True)
    assert not (tmp_path / "study").exists()
    # 60 start cells of ten genes: 10 deletions, 9 overexpressions (the first is in front already), and twice the original
    assert any("1,260 in 6 screens" in line for line in said)
    # 14 pool cells of 6 donors and 2 states, each seen in 2 of 3 folds, 6 times over
    assert any("2,016 cells are learnt from" in line for line in said)


@pytest.mark.slow
def test_states_that_cannot_be_told_apart_end_the_study_and_the_page_says_so(untold, tmp_path):
    """Labels by chance: the gate is not passed, nothing is screened, and the result stands in the folder."""
    said: list[str] = []
    asked = {**STUDY, "folds": 2, "epochs": 1, "say": said.append}
    folder = study(*untold, tmp_path / "study", **asked)
    gate = json.loads(folder.gate.read_text())
    assert not gate["passed"]
    assert 0.3 < gate["balanced_accuracy"] < 0.7
    assert any("NOT PASSED" in line for line in said)
    assert not (folder.path / "runs").exists()
    assert not folder.verdicts.exists()
    page = folder.report.read_text()
    assert "cannot tell the states apart" in page
    assert 'id="verdicts"' not in page


@pytest.mark.slow
def test_the_gate_counts_every_donor_by_the_model_that_has_not_seen_it(done):
    """Balanced accuracies by hand, from the predictions that the trainings wrote."""
    gate = json.loads(done.gate.read_text())
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for fold in range(3):
        donor_of = {row["cell_id"]: row["donor"] for row in rows(done.tokens(fold), "cell_id", "donor")}
        for row in rows(done.bundle(fold) / "evaluation/predictions.parquet"):
            right[donor_of[row["cell_id"]], row["true"]].append(row["true"] == row["predicted"])
    assert set(map(len, right.values())) == {10}
    for i in range(6):
        mean = np.mean([np.mean(right[f"d{i}", state]) for state in ("sick", "well")])
        assert gate["donors"][f"d{i}"] == pytest.approx(mean)
    assert gate["passed"]


@pytest.mark.slow
def test_verdicts_are_rows_of_genes_that_rest_on_the_donors(done):
    """The effect of an arm is the centre over donors: between the smallest and the largest adjusted value, of the same sign."""
    found = {row["gene_id"]: row for row in rows(done.verdicts)}
    values = defaultdict(list)
    for row in rows(done.donors):
        values[row["gene_id"], row["arm"]].append(row)
    assert found.keys() == {gene for gene, _ in values}
    for gene, row in found.items():
        enough = [v for v in values[gene, "delete"] if v["cells"] >= 5]
        other = {v["donor"] for v in values[gene, "overexpress"] if v["cells"] >= 5}
        assert row["donors"] == sum(v["donor"] in other for v in enough)
    summary = json.loads(done.summary.read_text())
    assert sum(summary["verdicts"].values()) == len(found)


@pytest.mark.slow
def test_the_page_holds_the_verdicts_and_the_donors_behind_them(done):
    page = done.report.read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    at = [column["name"] for column in data["columns"]].index("gene_id")
    assert [row[at] for row in data["rows"]] == pq.read_table(done.verdicts)["gene_id"].to_pylist()
    assert sorted(donor for donor, _ in data["donors"]) == [f"d{i}" for i in range(6)]
    for row in rows(done.donors):
        place = [donor for donor, _ in data["donors"]].index(row["donor"])
        value, cells = data["values"][row["gene_id"]][data["arms"].index(row["arm"])][place]
        assert (value, cells) == (pytest.approx(row["shift"], rel=1e-5), row["cells"])
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "").replace(str(done.path), "")
