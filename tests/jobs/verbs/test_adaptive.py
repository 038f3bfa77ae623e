"""Adaptive screens from the command: rows and list of the full screen, whoever computes them and whatever was killed."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import anndata
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from rankshift.jobs.cli import run_command
from rankshift.jobs.verbs.export import export
from rankshift.jobs.verbs.screen import screen
from rankshift.screen.bundle.bundle import make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.engine.screener import run as full_screen
from rankshift.screen.errors import InputError
from rankshift.screen.explore import about, gene
from rankshift.screen.explore.opened.session import opened
from rankshift.screen.genes.vocabulary import make_vocabulary
from rankshift.screen.notebook import Run as NotebookRun
from rankshift.screen.notebook import run as run_in_python
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.statistics import MODES, statistics
from support import Halt, until

pytestmark = pytest.mark.slow

GENES, CELLS, LENGTH, TOP, MORE = 400, 40, 60, 10, 18
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
STATES = ("--state-key", "state", "--start", "a", "--goal", "b")
OPTIONS = ("--dtype", "float32", "--shard-tokens", "3000", "--top", str(TOP), "--min-cells", "3")
ROWS = "SELECT cell, perturbation, shift_b FROM shifts ORDER BY cell, perturbation"
LIST = "SELECT place, gene_ids, mean FROM answers WHERE place IS NOT NULL ORDER BY place"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A drawn model of 400 genes, 40 cells with 60 of them, and two states."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SHAPE, vocab_size=GENES + 2, max_position_embeddings=64))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.4 if "embeddings" in key else 0.12)
    model.save_pretrained(folder / "checkpoint")
    names = {"<pad>": 0, "<mask>": 1} | {f"ENSG{i:011d}": i for i in range(2, GENES + 2)}
    make_vocabulary(names).write(folder / "vocabulary.parquet")
    bundle = make_bundle(folder / "checkpoint", folder / "vocabulary.parquet", folder / "bundle")
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.choice(GENES, LENGTH, replace=False) + 2 for _ in range(CELLS)]).astype(np.int32)
    obs = pa.table({"cell_id": [f"cell{i}" for i in range(CELLS)], "state": ["a"] * CELLS, "donor": ["x", "y"] * 20})
    Cells(ids=ids, offsets=np.arange(CELLS + 1) * LENGTH, obs=obs, frame=bundle.frame_tokens.frame).write(
        folder / "cells.parquet", bundle.vocabulary
    )
    vectors = {name: rng.normal(size=32).tolist() for name in "ab"}
    (folder / "states.json").write_text(json.dumps(vectors))
    return folder


def command(inputs: Path, out: Path | str, *more: str) -> list[str]:
    cells = ["screen", str(inputs / "cells.parquet"), "--bundle", str(inputs / "bundle"), "--out", str(out)]
    return [*cells, "--perturb", "delete", "--states", str(inputs / "states.json"), *STATES, *more]


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory) -> Path:
    """An adaptive screen in this process. Not to be changed."""
    out = tmp_path_factory.mktemp("done") / "run"
    assert run_command(command(inputs, out, *OPTIONS, "--workers", "0")) == 0
    return out


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> Run:
    """The full screen."""
    states = {"states": inputs / "states.json", "state_key": "state", "start": "a", "goal": "b"}
    out = tmp_path_factory.mktemp("whole") / "run"
    return full_screen(inputs / "cells.parquet", inputs / "bundle", out, perturb="delete", dtype="float32", **states)


def plans(run: Path) -> list[tuple]:
    return [tuple(pq.read_table(p).to_pylist()) for p in sorted(run.glob("rounds/*/plan.parquet"))]


def test_finished_genes_are_those_of_the_full_screen(done, whole):
    run = Run.open(done)
    answers = run.sql("SELECT * FROM answers").to_pandas().set_index("perturbation")
    full = whole.sql(ROWS).to_pandas()
    got = run.sql(ROWS).to_pandas().merge(full, on=["cell", "perturbation"], suffixes=("", "_full"))
    assert len(got) == len(run.sql(ROWS)) < 0.6 * len(full)
    np.testing.assert_allclose(got.shift_b, got.shift_b_full, rtol=0, atol=2e-6)
    by_gene = full.groupby("perturbation").shift_b
    mean, cells = by_gene.mean(), by_gene.size()
    assert set(answers.index[answers.state == "untested"]) == set(answers.index) - set(cells.index[cells >= 3])
    finished = answers[answers.state == "finished"]
    assert (finished.measured == finished.cells).all()
    assert (finished.cells == cells[finished.index]).all()
    np.testing.assert_allclose(finished["mean"], mean[finished.index], rtol=0, atol=1e-6)
    assert finished[["low", "high"]].isna().all(axis=None)
    estimated = answers[answers.state == "estimated"]
    assert (estimated.measured < estimated.cells).all()
    inside = (estimated.low <= mean[estimated.index]) & (mean[estimated.index] <= estimated.high)
    assert inside.mean() >= 0.9
    last = finished["mean"][finished.place == TOP].item()
    error = by_gene.std()[finished.index] / np.sqrt(cells[finished.index])
    assert ((finished["mean"] - last).abs() <= error * (1 + 1e-6)).tolist() == finished.tied.tolist()
    assert ((estimated.low <= last) & (last <= estimated.high)).tolist() == estimated.tied.tolist()
    assert answers.tied[answers.state == "untested"].isna().all()
    wanted = mean[cells >= 3].sort_values(ascending=False).index[:TOP]
    listed = answers.dropna(subset="place").sort_values("place")
    assert listed.place.tolist() == list(range(1, TOP + 1))
    assert (listed.state == "finished").all()
    assert len(set(listed.index) & set(wanted)) >= TOP - 1


@pytest.mark.parametrize("workers", ["1", "2", "4"])
def test_workers_measure_the_same_rows(inputs, done, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("RANKSHIFT_EXECUTOR", "local")
    assert run_command(command(inputs, tmp_path / "run", *OPTIONS, "--workers", workers)) == 0
    assert plans(tmp_path / "run") == plans(done)
    assert Run.open(tmp_path / "run").sql(ROWS).equals(Run.open(done).sql(ROWS))
    assert Run.open(tmp_path / "run").sql(LIST).equals(Run.open(done).sql(LIST))


def test_ray_workers_measure_the_same_rows(inputs, done, tmp_path, ray_cluster):
    run = tmp_path / "run"
    assert run_command(command(inputs, run, *OPTIONS, "--workers", "2")) == 0
    assert plans(run) == plans(done)
    assert Run.open(run).sql(ROWS).equals(Run.open(done).sql(ROWS))


def test_killed_for_good_at_a_plan_a_shard_and_the_answers(inputs, done, tmp_path):
    """A process is killed just before it names one of these files, the next one just before another."""
    run = tmp_path / "run"
    words = [sys.executable, "-m", "rankshift", *command(inputs, run, *OPTIONS, "--workers", "0")]
    for name in ("predict/part-000001.npy", "rounds/02/plan.parquet", "commits/shard-3000000.json", "answers.parquet"):
        halt = Halt(run / name)
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        until(lambda halt=halt, process=process: halt.standing() == process.pid or process.poll() is not None)
        assert process.poll() is None
        process.kill()
        process.wait()
        halt.lift()
        assert not (run / name).exists()
        words = [sys.executable, "-m", "rankshift", "resume", str(run), "--workers", "0"]
    assert run_command(["resume", str(run), "--workers", "0"]) == 0
    assert plans(run) == plans(done)
    assert Run.open(run).sql(ROWS).equals(Run.open(done).sql(ROWS))
    assert Run.open(run).sql(LIST).equals(Run.open(done).sql(LIST))
    assert not list(run.rglob("*.tmp"))


def test_a_run_in_an_object_store_is_the_same(inputs, done, continued, bucket, tmp_path, monkeypatch):
    """Asked for, resumed, queried and continued from mirrors that hold nothing yet."""
    place = f"{bucket}/run"

    def elsewhere(name: str) -> None:
        monkeypatch.setenv("RANKSHIFT_MIRRORS", str(tmp_path / name))

    assert run_command(command(inputs, place, *OPTIONS, "--workers", "0", "--budget", "700")) == 0
    elsewhere("second")
    assert not Run.open(place).sql(ROWS).equals(Run.open(done).sql(ROWS))
    assert run_command(["resume", place, "--workers", "0"]) == 0
    elsewhere("third")
    assert Run.open(place).sql(ROWS).equals(Run.open(done).sql(ROWS))
    assert Run.open(place).sql(LIST).equals(Run.open(done).sql(LIST))
    assert run_command(["export", place, "--out", str(tmp_path / "answers.csv")]) == 0
    elsewhere("fourth")
    assert run_command(["resume", place, "--continue-full", "--workers", "0"]) == 0
    elsewhere("third")
    assert Run.open(place).complete
    assert Run.open(place).sql(ROWS).equals(Run.open(continued).sql(ROWS))
    with pytest.raises(InputError, match="no view answers"):
        Run.open(place).sql(LIST)


def test_what_was_killed_in_any_round_goes_on(inputs, done, tmp_path, capfd):
    """Killed: the answers, later rounds, and every other shard of the round; also a plan without any of its shards."""
    rounds = len(plans(done))
    assert rounds >= 4
    for killed in range(rounds + 1):
        run = tmp_path / f"killed{killed}"
        shutil.copytree(done, run)
        (run / "answers.parquet").unlink()
        for number in range(killed + 1, rounds + 1):
            shutil.rmtree(run / f"rounds/{number:02d}")
        shards = sorted((int(p.stem.split("-")[1]), p) for p in (run / "commits").iterdir())
        for i, (index, marker) in enumerate(shards):
            if index // 1_000_000 > killed or (index // 1_000_000 == killed and (i % 2 or killed == 2)):
                marker.unlink()
        if killed == 0:
            (run / "predict/part-000001.npy").unlink()
        capfd.readouterr()
        assert run_command(["query", str(run), "SELECT 1 AS one"]) == 0
        assert "the adaptive screen has not ended" in capfd.readouterr().err
        assert run_command(["resume", str(run), "--workers", "0"]) == 0
        assert plans(run) == plans(done)
        assert Run.open(run).sql(ROWS).equals(Run.open(done).sql(ROWS))
        assert Run.open(run).sql(LIST).equals(Run.open(done).sql(LIST))
        assert "genes finished; expected to miss" in capfd.readouterr().err


def measured_once(run: Path) -> pa.Table:
    rows = Run.open(run).sql(ROWS)
    pairs = list(zip(rows["cell"].to_pylist(), rows["perturbation"].to_pylist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    return rows


def holds(rows: pa.Table, some: pa.Table) -> None:
    """Rows that were there are there, to the bit."""
    both = some.to_pandas().merge(rows.to_pandas(), on=["cell", "perturbation"], how="left", suffixes=("", "_now"))
    assert (both.shift_b == both.shift_b_now).all()


@pytest.fixture(scope="module")
def continued(inputs, done, tmp_path_factory) -> Path:
    """The adaptive screen after --continue-full. Not to be changed."""
    out = tmp_path_factory.mktemp("continued") / "run"
    shutil.copytree(done, out)
    assert run_command(["resume", str(out), "--continue-full", "--workers", "0"]) == 0
    return out


def test_it_goes_on_to_the_full_screen_and_measures_nothing_twice(done, whole, continued, tmp_path):
    run = Run.open(continued)
    rows, full = measured_once(continued), whole.sql(ROWS)
    assert rows.select(["cell", "perturbation"]).equals(full.select(["cell", "perturbation"]))
    np.testing.assert_allclose(rows["shift_b"].to_numpy(), full["shift_b"].to_numpy(), rtol=0, atol=2e-6)
    holds(rows, Run.open(done).sql(ROWS))
    for part in (done / "shifts").iterdir():
        assert (continued / "shifts" / part.name).read_bytes() == part.read_bytes()
    assert run.complete
    assert set(run.manifest.noise_floor or {}) == set(whole.manifest.noise_floor or {})
    mine, theirs = (statistics(one, "goal").table().to_pandas().set_index("gene_ids") for one in (run, whole))
    np.testing.assert_allclose(mine.shift_mean, theirs.shift_mean[mine.index], rtol=0, atol=1e-6)
    for one in (run, whole):
        export(one.path, tmp_path / one.path.parent.name, prefix="x")
    pickles = [
        {p.name: pickle.loads(p.read_bytes()) for p in (tmp_path / one.path.parent.name).iterdir()}
        for one in (run, whole)
    ]
    assert pickles[0].keys() == pickles[1].keys()
    for name, cell in pickles[0].items():
        assert list(cell["b"]) == list(pickles[1][name]["b"])


def test_a_continued_run_is_a_full_one_for_every_verb(inputs, continued, tmp_path, capfd):
    assert "top" not in tomllib.loads((continued / "screen.toml").read_text())
    with pytest.raises(InputError, match="no view answers"):
        Run.open(continued).sql("SELECT * FROM answers")
    copy = tmp_path / "run"
    shutil.copytree(continued, copy)
    assert run_command(["stats", str(copy)]) == 0
    assert run_command(["report", str(copy), "--out", str(tmp_path / "report.html"), "--no-embed"]) == 0
    assert run_command(["verify", str(copy)]) == 0
    capfd.readouterr()
    assert run_command(command(inputs, copy, "--dtype", "float32", "--workers", "0", "--resume")) == 0
    assert "0 perturbations of 40 cells" in capfd.readouterr().err
    assert run_command(command(inputs, copy, *OPTIONS, "--workers", "0", "--resume")) == 2
    assert "goes on to the full screen: leave out --top" in capfd.readouterr().err


def test_what_was_killed_on_the_way_to_the_full_screen_goes_on(inputs, done, continued, tmp_path, capfd):
    """Killed before it was recorded that all is asked, and with every other shard of every round missing."""
    run = tmp_path / "run"
    shutil.copytree(done, run)
    shutil.copytree(continued / "rounds/999", run / "rounds/999")
    assert run_command(["resume", str(run), "--workers", "0"]) == 0
    assert Run.open(run).sql(LIST).equals(Run.open(done).sql(LIST))
    cells = command(inputs, run, "--dtype", "float32", "--workers", "0", "--resume", "--continue-full")
    assert run_command(cells) == 0
    whole_rows = Run.open(continued).sql(ROWS)
    assert Run.open(run).sql(ROWS).equals(whole_rows)
    for marker in sorted((run / "commits").iterdir())[::2]:
        marker.unlink()
    with pytest.raises(
        InputError, match="goes on from an adaptive screen, statistics need every gene's rows: finish it"
    ):
        statistics(Run.open(run), "goal")
    assert run_command(["resume", str(run), "--workers", "0"]) == 0
    assert Run.open(run).sql(ROWS).equals(whole_rows)


def test_more_genes_are_found_without_measuring_anything_twice(inputs, done, whole, tmp_path):
    more = tmp_path / "more"
    shutil.copytree(done, more)
    assert run_command(["resume", str(more), "--top", str(MORE), "--workers", "0"]) == 0
    fresh = tmp_path / "fresh"
    assert run_command(command(inputs, fresh, *OPTIONS, "--top", str(MORE), "--workers", "0")) == 0
    rows = measured_once(more)
    holds(rows, Run.open(done).sql(ROWS))
    one, two = (
        {*zip(*(r[n].to_pylist() for n in ("cell", "perturbation")), strict=True)}
        for r in (rows, Run.open(fresh).sql(ROWS))
    )
    assert two <= one
    assert len(one) < whole.sql(ROWS).num_rows
    listed = Run.open(more).sql("SELECT * FROM answers WHERE place IS NOT NULL ORDER BY place").to_pandas()
    assert listed.place.tolist() == list(range(1, MORE + 1))
    by_gene = whole.sql(ROWS).to_pandas().groupby("perturbation").shift_b
    best = by_gene.mean()[by_gene.size() >= 3].sort_values(ascending=False)
    np.testing.assert_allclose(listed["mean"], best[listed.perturbation], rtol=0, atol=1e-6)
    assert len(set(listed.perturbation) & set(best.index[:MORE])) >= MORE - 1
    assert tomllib.loads((more / "screen.toml").read_text())["top"] == MORE
    # Killed in the second race: what is missing of the first one's rounds is measured again, then the plan goes on.
    again = tmp_path / "again"
    shutil.copytree(more, again)
    (again / "answers.parquet").unlink()
    shutil.rmtree(sorted((again / "rounds").iterdir())[-1])
    for number, marker in enumerate(sorted((again / "commits").iterdir())):
        if number % 2 or marker.stem.endswith(f"{len(plans(again)) + 1}000000"):
            marker.unlink()
    resumed = command(inputs, again, *OPTIONS, "--top", str(MORE), "--workers", "0", "--resume")
    assert run_command(resumed) == 0
    assert plans(again) == plans(more)
    assert Run.open(again).sql(ROWS).equals(rows)


@pytest.mark.parametrize(
    ("verb", "match"),
    [
        (["resume", "RUN", "--top", "9"], "--top is 9, .* was asked for 10: ask for as many or more"),
        (["resume", "RUN", "--top", "21"], "--top is 21 of .* genes, it pays up to 5%"),
        (["resume", "RUN", "--top", "500"], "--top is 500, .* genes are in 3 cells"),
        (["resume", "RUN", "--top", "20", "--continue-full"], "--continue-full measures all rows: leave out --top"),
        (["resume", "FULL", "--continue-full"], "is no adaptive screen: leave out --top, --budget and --continue-full"),
        (["resume", "FULL", "--top", "20"], "is no adaptive screen"),
        (["RUN", "--continue-full"], "add --resume"),
        (["RUN", "--continue-full", "--resume", "--top", "10"], "leave out --top"),
    ],
)
def test_bad_ways_to_go_on(inputs, done, whole, tmp_path, capfd, verb, match):
    shutil.copytree(done, tmp_path / "run")
    verb = [{"RUN": str(tmp_path / "run"), "FULL": str(whole.path)}.get(word, word) for word in verb]
    if verb[0] != "resume":
        verb = command(inputs, Path(verb[0]), *verb[1:])
    assert run_command([*verb, "--workers", "0"]) == 2
    assert re.search(match, capfd.readouterr().err)
    assert Run.open(tmp_path / "run").sql(LIST).equals(Run.open(done).sql(LIST))


def test_nothing_takes_a_part_for_the_whole(inputs, done, whole, tmp_path, capfd):
    run = Run.open(done)
    for mode in MODES:
        with pytest.raises(InputError, match="is adaptive, statistics need every gene's rows: ask its view answers"):
            statistics(run, mode, null=whole if mode == "null" else None)
    with pytest.raises(InputError, match="is adaptive, statistics need"):
        statistics(whole, "null", null=run)
    with pytest.raises(InputError, match="exports need"):
        export(done, tmp_path / "out")
    with pytest.raises(InputError, match="is adaptive, it tests nothing and has no view hits: ask its view answers"):
        run.sql("SELECT * FROM hits")
    refused = (
        ["stats", "RUN"],
        ["stats", "RUN", "--by", "donor", "--out", "OUT.csv"],
        ["stats", "RUN", "--mode", "aggregate", "--out", "OUT.csv"],
        ["stats", "RUN", "--reference-names", "--out", "OUT.csv"],
        ["report", "RUN", "--min-cells", "2", "--out", "OUT.html"],
        ["export", "RUN", "--min-cells", "2", "--out", "OUT.csv"],
        ["export", "RUN", "--out", "OUT"],
    )
    for words in refused:
        words = [word.replace("RUN", str(done)).replace("OUT", str(tmp_path / "file")) for word in words]
        assert run_command(words) == 2
        assert "is adaptive" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
    shutil.copytree(done, tmp_path / "run")
    (tmp_path / "run/answers.parquet").unlink()
    for words in (["stats"], ["report"], ["export"]):
        assert (
            run_command(
                [*words, str(tmp_path / "run"), "--out", str(tmp_path / f"x.{'html' * (words == ['report']) or 'csv'}")]
            )
            == 2
        )
        assert "it is of adaptive screens that have ended" in capfd.readouterr().err


def test_every_verb_says_what_is_finished_and_what_estimated(done, whole, tmp_path, capfd):
    run = Run.open(done)
    answers = run.sql("SELECT * FROM answers").to_pandas().set_index("gene_ids")
    shifts = run.sql("SELECT gene_ids, gene_state, count(*) AS n FROM shifts GROUP BY ALL").to_pandas()
    assert (shifts.gene_state == answers.state[shifts.gene_ids].to_numpy()).all()
    assert (shifts.n == answers.measured[shifts.gene_ids].to_numpy()).all()
    assert run_command(["query", str(done), "SELECT 1 AS one"]) == 0
    assert "column gene_state says of which" in capfd.readouterr().err
    for verb in ("stats", "export"):
        assert run_command([verb, str(done), "--out", str(tmp_path / f"{verb}.csv")]) == 0
        table = pd.read_csv(tmp_path / f"{verb}.csv").set_index("gene_ids")
        assert table.place[:TOP].tolist() == list(range(1, TOP + 1))
        for name in ("state", "mean", "low", "high", "cells", "measured"):
            pd.testing.assert_series_equal(table[name], answers[name][table.index], check_dtype=False)
        assert "hit" not in table
        assert (table.p_value.notna() == (table.state == "finished")).all()
    assert run_command(["export", str(done), "--out", str(tmp_path / "a.xlsx")]) == 0
    sheet = pd.read_excel(tmp_path / "a.xlsx", sheet_name="answers").set_index("gene_ids")
    assert (sheet.state == answers.state[sheet.index]).all()
    assert len(pd.read_excel(tmp_path / "a.xlsx", sheet_name="top")) == TOP
    assert run_command(["export", str(done), "--out", str(tmp_path / "a.h5ad")]) == 0
    var = anndata.read_h5ad(tmp_path / "a.h5ad").var
    assert (var.state.astype(str) == answers.state[var.index]).all()
    assert run_command(["export", str(done), "--out", str(tmp_path / "a.duckdb")]) == 0
    with duckdb.connect(str(tmp_path / "a.duckdb"), read_only=True) as there:
        assert dict(there.sql("SELECT gene_ids, state FROM answers").fetchall()) == answers.state.to_dict()
        assert "statistics" not in {name for (name,) in there.sql("SELECT table_name FROM duckdb_tables()").fetchall()}
    assert run_command(["report", str(done), "--out", str(tmp_path / "a.html")]) == 0
    html = (tmp_path / "a.html").read_text()
    assert html.count('<tr class="finished">') == TOP
    assert html.count('<tr class="estimated">') == min(200, (answers.state == "estimated").sum())
    assert "://" not in html
    assert re.search(
        r"10 genes of highest mean shift_b are listed of 10 asked for; .* expected to miss 0\.\d of the top 10;", html
    )
    assert f"{(answers.state == 'untested').sum():,} are in fewer than 3 cells and untested" in html


def test_cells_of_a_gene_are_shown_where_all_of_them_were_measured(done):
    run = NotebookRun.open(done)
    answers = run.sql("SELECT * FROM answers").to_pandas()
    first = {state: answers.gene_ids[answers.state == state].iloc[0] for state in ("finished", "estimated")}
    assert run.plot_gene(first["finished"]).data
    cells = anndata.AnnData(np.zeros((CELLS, 1)), obs=pd.DataFrame(index=[f"cell{i}" for i in range(CELLS)]))
    run.annotate(cells, [first["finished"]])
    assert cells.uns["rankshift"]["perturbations"].state.tolist() == answers.sort_values("perturbation").state.tolist()
    for verb in (run.plot_gene, lambda gene: run.annotate(cells, [gene])):
        with pytest.raises(
            InputError, match=f"{first['estimated']} is estimated in .* from .* of .* cells: ask the view"
        ):
            verb(first["estimated"])
    with opened({"one": run}, {}) as session:
        shown = session.run("one")
        rows = session.ask(f"SELECT * FROM {shown.table}").to_pandas().set_index("gene_ids")
        assert rows.state.to_dict() == answers.set_index("gene_ids").state.to_dict()
        assert (rows.shift_b.notna() == (rows.state == "finished")).all()
        assert (rows.estimated_low.notna() == (rows.state == "estimated")).all()
        seen = session.ask(f"SELECT DISTINCT perturbation FROM {shown.rows}")["perturbation"].to_pylist()
        assert set(seen) == set(answers.perturbation[answers.state == "finished"])
        assert "adaptive" in about.about(session, "1")["runs"][0]["notes"][0]
        for state, found in first.items():
            number = int(answers.perturbation[answers.gene_ids == found].iloc[0])
            page = gene.gene(session, shown, number, None, None)
            assert (page["total"] > 0) == (page["place"] is not None) == (state == "finished")
            assert gene.number_of(session, shown, found) == number
            assert number in gene.find(session, shown, found)["perturbation"]


@pytest.mark.parametrize("verb", [run_in_python, screen], ids=["here", "workers=0"])
def test_python_has_the_same_screen(inputs, done, tmp_path, verb):
    more = {"workers": 0} if verb is screen else {}
    route = {"states": inputs / "states.json", "state_key": "state", "start": "a", "goal": "b"}
    asked = {"dtype": "float32", "shard_tokens": 3000, "top": TOP, "min_cells": 3, **route, **more}
    where = (inputs / "cells.parquet", inputs / "bundle", tmp_path / "run")
    said: list[str] = []
    made = verb(*where, perturb="delete", say=said.append, **asked)
    assert plans(made.path) == plans(done)
    assert made.sql(ROWS).equals(Run.open(done).sql(ROWS))
    assert made.sql(LIST).equals(Run.open(done).sql(LIST))
    assert any("expected to miss" in line for line in said)
    more_genes = verb(*where, perturb="delete", resume=True, say=str, **{**asked, "top": TOP + 2})
    assert more_genes.sql(LIST).num_rows == TOP + 2
    there = more_genes.sql(ROWS).num_rows
    full = {name: value for name, value in asked.items() if name not in ("top", "min_cells")}
    counted: list[int] = []
    if verb is run_in_python:
        full["done"] = counted.append
    whole_run = verb(*where, perturb="delete", resume=True, continue_full=True, say=str, **full)
    assert whole_run.complete
    assert not whole_run.partial
    assert whole_run.sql(ROWS).num_rows == whole_run.manifest.lists
    assert whole_run.manifest.noise_floor
    if counted:
        assert sum(counted) == whole_run.manifest.lists - there


@pytest.mark.parametrize(
    ("asked", "column", "ranked"),
    [
        (["--bottom"], "shift_b", lambda mean: mean.sort_values()),
        (["--absolute"], "shift_b", lambda mean: mean.abs().sort_values(ascending=False)),
        (["--rank-by", "a", "--bottom"], "shift_a", lambda mean: mean.sort_values()),
        (["--rank-by", "similarity"], "similarity", lambda mean: mean.sort_values()),
    ],
    ids=["away from the goal", "either direction", "away from the start", "similarity"],
)
def test_other_rankings(inputs, whole, tmp_path, capfd, asked, column, ranked):
    out = tmp_path / "run"
    assert run_command(command(inputs, out, *OPTIONS, *asked, "--workers", "0")) == 0
    full = whole.frame(f"SELECT perturbation, avg({column}) AS mean FROM shifts GROUP BY 1 HAVING count(*) >= 3")
    best = ranked(full.set_index("perturbation")["mean"]).index[:TOP]
    listed = Run.open(out).frame("SELECT * FROM answers WHERE place IS NOT NULL ORDER BY place")
    assert len(set(best) & set(listed.perturbation)) >= TOP - 1
    assert ranked(listed.set_index("perturbation")["mean"]).index.tolist() == listed.perturbation.tolist()
    assert run_command(["stats", str(out), "--out", str(tmp_path / "table.csv")]) == 0
    assert column in capfd.readouterr().err
    assert run_command(command(inputs, out, *OPTIONS, "--workers", "0", "--resume")) == 2
    assert "was prepared with " in capfd.readouterr().err


def test_a_budget_ends_it_and_more_lets_it_go_on(inputs, done, tmp_path, capfd):
    out = tmp_path / "run"
    assert run_command(command(inputs, out, *OPTIONS, "--workers", "0", "--budget", "700")) == 0
    assert "stopped by the budget: " in capfd.readouterr().err
    some, whole = Run.open(out).sql(ROWS).num_rows, Run.open(done).sql(ROWS)
    assert some < whole.num_rows
    assert plans(out) == plans(done)[: len(plans(out))]
    assert run_command(command(inputs, out, *OPTIONS, "--workers", "0", "--resume")) == 0
    assert Run.open(out).sql(ROWS).equals(whole)


def test_seeds_and_strata_are_kept_and_change_what_is_drawn(inputs, done, tmp_path):
    out = tmp_path / "run"
    options = [*OPTIONS, "--seed", "1", "--strata", "donor", "--bottom", "--confidence", "0.9"]
    assert run_command(command(inputs, out, *options, "--workers", "0")) == 0
    adaptive = Run.open(out).manifest.adaptive
    assert adaptive is not None
    assert (adaptive.seed, adaptive.strata, adaptive.highest, adaptive.confidence) == (1, "donor", False, 0.9)
    assert plans(out)[0] != plans(done)[0]
    low, high = (Run.open(run).sql(LIST).to_pandas() for run in (out, done))
    assert low["mean"].is_monotonic_increasing
    assert low["mean"].max() < high["mean"].min()


def test_with_a_rate_more_genes_are_finished_and_it_says_what_may_be_missing(inputs, done, tmp_path, capfd):
    out = tmp_path / "run"
    assert run_command(command(inputs, out, *OPTIONS, "--fdr", "0.1", "--workers", "0")) == 0
    said = capfd.readouterr().err
    finished = [Run.open(run).sql("SELECT * FROM answers WHERE state = 'finished'").to_pandas() for run in (done, out)]
    assert len(finished[1]) >= len(finished[0])
    called = int((finished[1].fdr < 0.1).sum())
    assert f"{called:,} have an effect at a false discovery rate of 10%, expected to miss " in said
    assert Run.open(out).manifest.adaptive.fdr == 0.1
    assert "fdr = 0.1" in (out / "screen.toml").read_text()
    rows = Run.open(out).sql(ROWS)
    shutil.rmtree(out / "rounds/03")
    (out / "answers.parquet").unlink()
    assert run_command(["resume", str(out), "--workers", "0"]) == 0
    assert Run.open(out).sql(ROWS).equals(rows)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--top", "401"], "--top is 401"),
        (["--top", "50", "--min-cells", "3"], "it pays up to 5%"),
        (["--top", "5", "--min-cells", "9"], "--top pays from 200: leave it out"),
        (["--top", "5", "--confidence", "1"], "--confidence is 1, it lies between 0.5 and 0.999"),
        (["--top", "5", "--gene-shifts"], "--gene-shifts and --top exclude each other"),
        (["--top", "5", "--how", "pairs", "--anchor", "ENSG00000000009"], "--how pairs joins them"),
        (["--top", "5", "--min-cells", "3", "--strata", "batch"], "--strata 'batch' is not a column"),
        (["--top", "5", "--confidence", "0"], "--confidence is 0, it lies between 0.5 and 0.999"),
        (["--top", "0"], "--top is 0: ask for at least 1 gene"),
        (["--top", "5", "--fdr", "0"], "--fdr is 0, it lies above 0 and goes up to 0.5"),
        (["--top", "5", "--fdr", "0.51"], "--fdr is 0.51, it lies above 0"),
        (["--top", "5", "--fdr", "nan"], "--fdr is nan, it lies above 0"),
        (["--fdr", "0.05"], "--fdr belongs to adaptive screens: add --top"),
        (["--top", "5", "--min-cells", "0"], "--min-cells is 0"),
        (["--top", "5", "--seed", "-1"], "--seed is -1"),
        (
            ["--top", "5", "--how", "together", "--genes", "ENSG00000000009,ENSG00000000010"],
            "--how together joins them",
        ),
        (["--top", "5", "--absolute", "--bottom"], "--absolute ranks both ends, --bottom one of them"),
        (["--top", "5", "--absolute", "--rank-by", "similarity"], "a similarity has one direction"),
        (["--top", "5", "--rank-by", "c"], "--rank-by 'c' is not measured: use one of similarity, a, b"),
        (["--rank-by", "a"], "--rank-by belongs to adaptive screens: add --top"),
        (["--continue-full"], "--continue-full goes on from a run to the full screen: add --resume"),
        (["--confidence", "0.9"], "--confidence belongs to adaptive screens: add --top"),
        (["--budget", "9"], "--budget belongs to adaptive screens: add --top"),
        (
            ["--top", "5", "--min-cells", "3", "--budget", "599"],
            "--budget is 599 passes, the pilot takes 600: allow more",
        ),
    ],
)
def test_bad_input(inputs, tmp_path, capfd, options, match):
    assert run_command(command(inputs, tmp_path / "run", *options, "--workers", "0")) == 2
    assert match in capfd.readouterr().err


def test_a_resumed_run_is_the_one_that_was_asked(inputs, done, capfd):
    for options, match in (
        (("--seed", "3"), "prepared with --seed 0, asked is 3"),
        (("--confidence", "0.9"), "--confidence 0.98"),
        (("--fdr", "0.05"), "prepared with --fdr null, asked is 0.05"),
    ):
        assert run_command(command(inputs, done, *OPTIONS, *options, "--workers", "0", "--resume")) == 2
        assert match in capfd.readouterr().err
    assert run_command(command(inputs, done, "--workers", "0", "--dtype", "float32", "--resume")) == 2
    assert "prepared with --top 10, asked is null" in capfd.readouterr().err


def test_a_dry_run_says_what_the_pilot_costs(inputs, tmp_path, capfd):
    assert run_command(command(inputs, tmp_path / "run", *OPTIONS, "--workers", "0", "--dry-run")) == 0
    assert "predictions and pilot 600 passes (24.6% of them)" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
