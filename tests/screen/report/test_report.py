"""The report's content against SQL and the statistics, for every kind of run."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from drawn_runs import Draw, sealed
from rankshift.screen.errors import InputError
from rankshift.screen.notebook import Run
from rankshift.screen.notebook import run as screen
from rankshift.screen.report import Findings, write_report
from rankshift.screen.report.plots.network import edges
from rankshift.screen.report.plots.state_embedding import embed_states
from rankshift.screen.report.plots.state_map import state_map
from rankshift.screen.stats import StatOptions, statistics
from support import GOLDEN

V1 = GOLDEN / "v1"
ROUTE = {"states": V1 / "state_embeddings.json", "state_key": "disease", "start": "nf", "goal": "dcm"}
FEW = StatOptions(min_cells=2, bootstrap=20)
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Page(HTMLParser):
    """The text of a report by element, and proof that every element is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(path.read_text())
        assert not self.open
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data

    def row(self, gene: str) -> dict[str, Any]:
        """A row of the table."""
        i = self.data["table"]["gene_ids"].index(gene)
        return {name: values[i] for name, values in self.data["table"].items()}


@pytest.fixture(scope="session")
def moved(bundles, tmp_path_factory) -> Run:
    """Deletion of every gene in toy cells, from one state to another, with gene shifts."""
    out = tmp_path_factory.mktemp("report") / "moved"
    return screen(V1 / "cells.parquet", bundles["v1"], out, perturb="delete", gene_shifts=True, **ROUTE)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Run:
    """A drawn run in which ten genes of 200 truly shift."""
    draw = Draw(
        cells=300, genes=200, per_cell=60, shifted=10, effect=3e-3, donors=(0.4, 0.3, 0.2, 0.1), abundance_sd=0.4
    )
    return draw.run(tmp_path_factory.mktemp("report") / "drawn")[0]


def report_of(run: Run, folder: Path, **options) -> Page:
    out = folder / "report.html"
    write_report(run, out, **{"judging": FEW, "embed": False, **options})
    return Page(out)


@pytest.mark.slow
def test_the_table_is_that_of_the_statistics(drawn, tmp_path):
    page = report_of(drawn, tmp_path, judging=StatOptions())
    result = statistics(drawn, "goal")
    expected = result.table().to_pylist()
    assert len(page.data["table"]["symbols"]) == len(expected) == 200
    for row in expected:
        shown = page.row(row["gene_ids"])
        assert shown["cells"] == row["cells"]
        assert shown["hit"] == row["hit"]
        for key, name in {
            "effect": "shift_mean",
            "fdr": "fdr",
            "low": "shift_low",
            "adjusted_fdr": "adjusted_fdr",
        }.items():
            assert shown[key] == (None if row[name] is None else pytest.approx(row[name], rel=1e-5)), name
    hits, tested = result.summary["hits"], result.summary["tested"]
    assert f"{hits} of {tested} tested genes shift the cells" in page.text
    left = sum(row["hit"] and row["adjusted_fdr"] < 0.05 for row in expected)
    assert f"{left or 'None'} of the {hits} hits remain" in page.text


@pytest.mark.slow
def test_hits_of_technical_classes_are_counted(drawn, tmp_path):
    hits = [row["gene_ids"] for row in statistics(drawn, "goal").table().to_pylist() if row["hit"]]
    copy = shutil.copytree(drawn.path, tmp_path / "run")
    names = pq.read_table(copy / "perturbations.parquet")
    called = dict(zip(hits, ["RPL13", "MT-ND1", "RPS3"], strict=False))
    symbols = [called.get(gene, f"GENE{i}") for i, gene in enumerate(names["gene_ids"].to_pylist())]
    place = names.column_names.index("symbols")
    pq.write_table(names.set_column(place, "symbols", [symbols]), copy / "perturbations.parquet")
    said = "Of the hits 2 ribosomal and 1 mitochondrial genes often tell how cells were handled"
    assert said in report_of(Run.open(copy), tmp_path, judging=StatOptions()).text
    assert "how cells were handled" not in report_of(drawn, tmp_path, judging=StatOptions()).text


@pytest.mark.slow
def test_hits_stand_first_and_the_planted_genes_are_among_them(drawn, tmp_path):
    page = report_of(drawn, tmp_path, judging=StatOptions())
    hits = page.data["table"]["hit"]
    assert hits == sorted(hits, reverse=True)
    effects = np.abs(page.data["table"]["effect"])[np.array(hits)]
    assert (np.diff(effects) <= 0).all()
    assert effects[9] > 2e-3  # the ten genes drawn with 3e-3


@pytest.mark.slow
def test_single_cells_are_those_of_the_run(moved, tmp_path):
    page = report_of(moved, tmp_path)
    for row, values in page.data["genes"].items():
        gene = page.data["table"]["gene_ids"][int(row)]
        stored = moved.sql(f"SELECT cell, shift_dcm FROM shifts WHERE gene_ids = '{gene}' ORDER BY cell")
        assert values["cell"] == stored["cell"].to_pylist()
        assert values["effect"] == pytest.approx(stored["shift_dcm"].to_pylist(), rel=1e-4)
    assert page.data["groups"]["cell_type"]["names"] == sorted(
        set(moved.sql("SELECT cell_type FROM cells")["cell_type"].to_pylist())
    )


@pytest.mark.slow
def test_what_does_not_fit_is_left_out_and_the_query_is_shown(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("rankshift.screen.report.data.BYTES", 195 * 150 + 21 * 400)
    monkeypatch.setattr("rankshift.screen.report.page.ROWS", 150)
    page = report_of(drawn, tmp_path, judging=StatOptions())
    assert len(page.data["table"]["symbols"]) == 150
    assert "The strongest 150 of 200; all of them come with: rankshift stats" in page.text
    kept = sum(len(v["effect"]) for v in page.data["genes"].values())
    assert 0 < kept <= 400
    assert [*page.data["genes"]] == [str(i) for i in range(len(page.data["genes"]))]  # the strongest
    assert page.data["effect"] == "shift_goal"


@pytest.mark.slow
def test_one_vote_per_donor(drawn, tmp_path):
    judging = StatOptions(by="donor", bootstrap=20)
    page = report_of(drawn, tmp_path, judging=judging)
    expected = statistics(drawn, "goal", judging=judging).table().to_pylist()[0]
    shown = page.row(expected["gene_ids"])
    assert shown["effect"] == pytest.approx(expected["balanced_mean"], rel=1e-5)
    assert shown["fdr"] == pytest.approx(expected["balanced_fdr"], rel=1e-5)
    assert "Each value of “donor” counts once" in page.text
    assert "a report with --by donor counts each group once" in report_of(drawn, tmp_path).text


@pytest.mark.slow
def test_without_states_similarity_is_judged(bundles, tmp_path):
    run = screen(V1 / "cells.parquet", bundles["v1"], tmp_path / "run", perturb="overexpress")
    page = report_of(run, tmp_path)
    expected = statistics(run, "mixture", judging=FEW).table().to_pylist()[0]
    shown = page.row(expected["gene_ids"])
    assert shown["effect"] == pytest.approx(1 - expected["similarity_mean"], rel=1e-4)
    assert shown["low"] == pytest.approx(1 - expected["similarity_high"], rel=1e-4)
    assert "states" not in page.data["figures"]
    assert "network" not in page.data["figures"]


SYMBOLS = [*json.loads((V1 / "gene_names.json").read_text()).values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generation", "options"),
    [
        ("v1", {"perturb": "overexpress", "genes": SYMBOLS[:1], "max_cells": 1}),
        ("v1", {"perturb": "overexpress", "genes": SYMBOLS[:1], "max_cells": 1, **ROUTE}),
        ("v1", {"perturb": "overexpress", "genes": SYMBOLS[:3], "how": "together", **ROUTE}),
        ("v1", {"perturb": "overexpress", "genes": SYMBOLS[:3], "how": "pairs", **ROUTE}),
        ("v1", {"perturb": "inhibit", "rank_shift": 1, "max_cells": 2, "states": ROUTE["states"]}),
        ("v2", {"perturb": "delete", "embedding": "cls", "max_cells": 3, "gene_shifts": True}),
    ],
    ids=["one gene in one cell", "the same with states", "together", "pairs", "states without route", "cls"],
)
def test_every_kind_of_run_has_a_report(generation, options, bundles, tmp_path):
    cells = V1.parent / generation / "cells.parquet"
    run = screen(cells, bundles[generation], tmp_path / "run", **options)
    page = report_of(run, tmp_path, judging=StatOptions(bootstrap=5), embed=True)
    count = run.sql("SELECT count(DISTINCT perturbation) AS n FROM shifts")["n"][0].as_py()
    assert len(page.data["table"]["symbols"]) == count
    assert "volcano" in page.data["figures"]
    means = run.sql("SELECT gene_ids, avg(similarity) AS s FROM shifts GROUP BY 1").to_pylist()
    for row in means:
        if "similarity" in page.data["table"]:
            assert page.row(row["gene_ids"])["similarity"] == pytest.approx(row["s"], rel=1e-4)


@pytest.mark.slow
def test_gene_sets_are_refused_where_they_are_none_or_several_genes_are_perturbed_at_once(bundles, tmp_path):
    options = {"perturb": "overexpress", "genes": SYMBOLS[:3], "how": "pairs", "max_cells": 2}
    run = screen(V1 / "cells.parquet", bundles["v1"], tmp_path / "run", **options)
    (tmp_path / "sets.gmt").write_text("A\t-\t" + "\t".join(SYMBOLS))
    for file, message in {
        "sets.gmt": "--sets compares single genes, and this run perturbs several at once",
        "missing.gmt": "missing.gmt does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            report_of(run, tmp_path, sets=tmp_path / file)


@pytest.mark.slow
def test_an_unfinished_run_says_so(moved, tmp_path):
    copy = shutil.copytree(moved.path, tmp_path / "run")
    manifest = {**moved.manifest, "shards": moved.manifest["shards"] + 2}
    del manifest["noise_floor"]
    (copy / "run.json").write_text(json.dumps(manifest))
    page = report_of(Run.open(copy), tmp_path)
    assert f"{manifest['shards'] - 2} of {manifest['shards']} shards are there" in page.text
    assert "this run has none yet" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("most", [0.0, 2e-6])
def test_a_run_that_is_the_same_again_in_float32_has_no_measure_of_noise(moved, tmp_path, most):
    copy = shutil.copytree(moved.path, tmp_path / "run")
    floor = {"n": 128, "median": most / 4, "p99": most / 2, "max": most, "spread": 1e-3}
    manifest = {**moved.manifest, "noise_floor": dict.fromkeys(moved.manifest["noise_floor"], floor)}
    (copy / "run.json").write_text(json.dumps(manifest))
    page = report_of(Run.open(copy), tmp_path)
    same = "128 of its values in float32 and they are the same: this is no measure of noise"
    assert (same in page.text) == (most == 0)
    assert ("An effect within that is no finding" in page.text) == (most > 0)
    assert ("numerical noise (p99)" in page.text) == (most > 0)


@pytest.mark.slow
def test_names_from_the_data_are_text_and_nothing_else(bundles, tmp_path):
    nasty = "</script><b>x</b>"
    cells = pq.read_table(V1 / "cells.parquet")
    cells = cells.append_column(nasty, [["<img src=x onerror=alert(1)>", '"&amp;\u2028$&'] * 6])
    pq.write_table(cells, tmp_path / "cells.parquet")
    states = {nasty: [0.1] * 32, "b'\"": list(np.linspace(-1, 1, 32))}
    width = len(json.loads(ROUTE["states"].read_text())["nf"])
    states = {name: (vector * width)[:width] for name, vector in states.items()}
    (tmp_path / "states.json").write_text(json.dumps(states))
    run = screen(
        tmp_path / "cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete", states=tmp_path / "states.json"
    )
    perturbations = pq.read_table(run.path / "perturbations.parquet")
    symbols = [f"{nasty}{i}" for i in range(len(perturbations))]
    place = perturbations.column_names.index("symbols")
    pq.write_table(perturbations.set_column(place, "symbols", [symbols]), run.path / "perturbations.parquet")
    page = report_of(sealed(run), tmp_path)
    assert "b" not in page.tags
    assert "img" not in page.tags
    assert set(page.data["table"]["symbols"]) == set(symbols)
    assert page.data["groups"][nasty]["names"] == ['"&amp;\u2028$&', "<img src=x onerror=alert(1)>"]
    shown = json.dumps(page.data["figures"]) + json.dumps(page.data["gene"])
    assert not re.search(r"</?(script|b>x|img)", shown)


def test_embedded_arrows_are_the_stored_shifts(moved, bundles):
    """The cosine to the goal of what the map embeds moves as far as the run stored."""
    findings = Findings.read(moved, FEW)
    gene = findings.strings("gene_ids")[0]
    number = moved.sql(f"SELECT perturbation FROM perturbations WHERE gene_ids = '{gene}'")["perturbation"][0].as_py()
    found = embed_states(moved, [number])
    start = found.states["nf"]
    goal = np.array(moved.manifest["states"]["dcm"])
    cosine = start @ goal / np.linalg.norm(start, axis=1) / np.linalg.norm(goal)
    stored = moved.sql("SELECT cell, any_value(cos_before_dcm) AS c FROM shifts GROUP BY 1 ORDER BY 1")
    assert cosine[stored["cell"].to_numpy()] == pytest.approx(stored["c"].to_numpy(), abs=1e-5)
    displacement, cells = found.moved[number]
    rows = moved.sql(f"SELECT cell, shift_dcm AS s FROM shifts WHERE perturbation = {number}")
    assert cells == len(rows)
    if cells == 1:
        before = start[rows["cell"][0].as_py()]
        after = before + displacement
        turned = after @ goal / np.linalg.norm(after) - before @ goal / np.linalg.norm(before)
        assert turned / np.linalg.norm(goal) == pytest.approx(rows["s"][0].as_py(), abs=1e-5)
    assert set(found.states) == {"nf", "dcm"}


def test_the_map_without_a_bundle_says_why_and_draws_stored_cosines(moved, tmp_path):
    findings = Findings.read(moved, FEW)
    made = state_map(findings, [0], bundle=tmp_path)
    assert "is not a bundle" in made.notes[0]
    mean = moved.sql(
        f"SELECT avg(shift_dcm) - avg(shift_nf) AS x FROM shifts WHERE gene_ids = '{findings.strings('gene_ids')[0]}'"
    )["x"][0].as_py()
    (arrow,) = made.arrows.values()
    assert arrow[0] == pytest.approx(mean, rel=1e-6)


@pytest.mark.slow
def test_edges_are_what_a_gene_moves_beyond_the_typical_perturbation(moved):
    findings = Findings.read(moved, FEW)
    rows = edges(findings, hits=2, affected=3).to_pylist()
    assert 0 < len(rows) <= 6
    for row in rows:
        effects = moved.sql(
            "SELECT 1 - sum(cosine_mean * n) / sum(n) AS typical, "
            f"1 - any_value(cosine_mean) FILTER (symbols = '{row['symbols']}') AS turned "
            f"FROM effects WHERE affected_symbol = '{row['affected_symbol']}'"
        ).to_pylist()[0]
        assert row["typical"] == pytest.approx(effects["typical"], rel=1e-6)
        assert row["excess"] == pytest.approx(effects["turned"] - effects["typical"], rel=1e-4, abs=1e-9)


@pytest.mark.slow
def test_notebooks_have_the_same_figures(moved):
    volcano = moved.plot_volcano(min_cells=2, bootstrap=0)
    points = sum(len(trace.x) for trace in volcano.data)
    assert points == statistics(moved, "goal", judging=StatOptions(min_cells=2, bootstrap=0)).summary["tested"]
    gene = moved.sql("SELECT symbols FROM shifts GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1")["symbols"][0].as_py()
    drawn = moved.plot_gene(gene, by="cell_type")
    stored = moved.sql(f"SELECT shift_dcm FROM shifts WHERE symbols = '{gene}' ORDER BY cell")["shift_dcm"]
    assert drawn.data[1].y == pytest.approx(stored.to_numpy())
    arrows = [a for a in moved.plot_states([gene], embed=False).layout.annotations if a.arrowhead == 2]
    assert len(arrows) == 1
    assert moved.plot_noise_floor(min_cells=2).data
    assert moved.plot_effects_network(min_cells=2).data
    with pytest.raises(InputError, match="has no perturbation 'NOTHING'"):
        moved.plot_gene("NOTHING")
