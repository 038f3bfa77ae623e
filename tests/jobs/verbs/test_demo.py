"""The demo from the command line, smaller: its files, its table, its plot, and a second run that does nothing again."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib import image

from rankshift.jobs.cli import run_command
from rankshift.jobs.show.shift_plot import genes_of, plot_shifts
from rankshift.jobs.verbs.demo import KINDS, MYOBLASTS, TOP
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run
from support import DEMO

CELLS, GENES = DEMO["--max-cells"], DEMO["--input-size"]


def run_demo(out: Path, *more: str) -> int:
    return run_command(["demo", "--out", str(out), *(str(word) for option in DEMO.items() for word in option), *more])


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def test_files(finished):
    assert sorted(p.name for p in finished.iterdir()) == [
        "bundle", "cells.parquet", "delete", "demo.json", "finetuned", "overexpress", "report.html", "shifts.png",
        "states.json", "vocabulary.parquet",
    ]  # fmt: skip
    bundle = Bundle.open(finished / "bundle")
    bundle.verify()
    assert bundle.vocabulary.size == 11_285 + 2
    assert bundle.vocabulary.token_of("MYOG") == bundle.vocabulary.by_id["ENSG00000122180"]
    cells = Cells.read(finished / "cells.parquet", bundle)
    assert (len(cells), set(cells.lengths.tolist())) == (271, {GENES})
    hours, times = np.unique(cells.obs["hours"].to_pylist(), return_counts=True)
    assert dict(zip(hours.tolist(), times.tolist(), strict=True)) == {"0": 69, "24": 74, "48": 79, "72": 49}
    states = json.loads((finished / "states.json").read_text())
    assert {name: len(vector) for name, vector in states.items()} == {"0": 128, "24": 128, "48": 128, "72": 128}


def test_every_gene_of_the_sampled_cells_is_screened(finished):
    for kind, lists in (("delete", CELLS * GENES), ("overexpress", CELLS * (GENES - 1))):
        run = Run.open(finished / kind)
        assert run.complete
        assert run.manifest["route"] == ["hours", "0", "72"]
        row = run.sql(
            "SELECT count(*) AS n, count(DISTINCT cell_id) AS cells, min(hours) AS first, max(hours) AS last, "
            "bool_and(isfinite(shift_72) AND similarity < 1 AND abs(shift_72) < 0.5) AS sane, "
            "stddev_pop(shift_72) AS spread FROM shifts"
        ).to_pylist()[0]
        assert (row["n"], row["cells"], row["first"], row["last"], row["sane"]) == (lists, CELLS, "0", "0", True)
        assert row["spread"] > 3 * run.manifest["noise_floor"]["shift_72"]["median"]


def test_the_fine_tuned_encoder_screens_too(finished):
    tuned = Bundle.open(finished / "finetuned" / "bundle")
    assert tuned.config["id2label"] == {"0": "0", "1": "72"}
    run = Run.open(finished / "finetuned" / "overexpress")
    assert run.complete
    assert run.manifest["bundle"]["weights_sha256"] == tuned.weights_sha256
    assert tuned.weights_sha256 != Bundle.open(finished / "bundle").weights_sha256
    metrics = json.loads((finished / "finetuned" / "bundle" / "evaluation" / "metrics.json").read_text())
    assert metrics


def test_the_plot_is_a_picture_of_both_runs(finished):
    pixels = image.imread(finished / "shifts.png")
    high, wide = pixels.shape[:2]
    assert (wide, high) == (1920, 840)
    for half in (pixels[:, : wide // 2, :3], pixels[:, wide // 2 :, :3]):
        named = np.abs(half - np.array([0xC2, 0x41, 0x0C]) / 255).max(-1) < 0.1
        assert named.sum() > 100  # the coloured points of the named genes
        assert 0.6 < (half.min(-1) > 0.98).mean() < 0.98  # neither empty nor black


def test_genes_of_a_run(finished):
    run = Run.open(finished / "delete")
    table = genes_of(run, "72", 3).to_pylist()
    order = [row["shift"] - row["error"] for row in table]
    assert order == sorted(order, reverse=True)
    assert min(row["cells"] for row in table) == 3
    # The first one again, by hand, from the files.
    cells = pq.read_table(run.path / "cells.parquet").to_pylist()
    gene = pq.read_table(run.path / "perturbations.parquet").to_pylist()
    token = next(row["tokens"][0] for row in gene if row["symbols"] == table[0]["gene"])
    places = [cell["input_ids"].index(token) + 1 for cell in cells if token in cell["input_ids"]]
    assert table[0]["rank"] == pytest.approx(np.mean(places))
    name = table[0]["gene"]
    shifts = run.sql(f"SELECT shift_72 FROM shifts WHERE symbols = '{name}'")["shift_72"].to_numpy().astype(float)
    assert (table[0]["cells"], len(places)) == (len(shifts), len(shifts))
    assert table[0]["shift"] == pytest.approx(shifts.mean(), rel=1e-6)
    assert table[0]["error"] == pytest.approx(shifts.std(ddof=1) / math.sqrt(len(shifts)), rel=1e-5)


def test_plots_refuse_what_they_cannot_show(finished, tmp_path):
    run = Run.open(finished / "delete")
    with pytest.raises(InputError, match="no state '73': its states are 0, 72"):
        plot_shifts([run], "73", tmp_path / "p.png")
    with pytest.raises(InputError, match="is in 13 cells"):
        plot_shifts([run], "72", tmp_path / "p.png", least_cells=13)
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_does_nothing_again_and_shows_the_same(finished, capfd):
    before = contents(finished)
    assert run_demo(finished) == 0
    assert contents(finished) == before
    shown = capfd.readouterr()
    assert shown.err.count("there already") == 11
    assert "unigram entropy" in shown.err
    assert "Trapnell et al." in shown.err
    assert "not biology" in shown.err
    for kind in KINDS:
        assert f'rankshift query {finished / kind} "{TOP}"' in shown.err
        first = Run.open(finished / kind).sql(TOP).to_pylist()[0]
        assert f"{first['gene']} " in shown.out
        assert f"{first['mean_shift']:.6g}" in shown.out


def test_it_goes_on_where_it_stopped(finished, tmp_path, capfd):
    out = tmp_path / "demo"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "overexpress")
    part = next((out / "delete" / "commits").iterdir())
    part.unlink()  # a shard that was never committed
    (out / "shifts.png").unlink()
    before = contents(finished / "bundle")
    assert run_demo(out, "--workers", "0") == 0
    said = capfd.readouterr().err
    assert said.count("there already") == 8
    assert contents(finished / "bundle") == before
    for kind in KINDS:
        again, first = (Run.open(folder / kind).sql(TOP) for folder in (out, finished))
        assert again.equals(first)


def test_folders_it_must_not_touch(finished, tmp_path, capfd):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert run_demo(tmp_path / "mine") == 2
    assert "holds no demo: give another --out" in capfd.readouterr().err
    assert run_demo(finished, "--epochs", "2") == 2
    assert "holds a demo with other settings" in capfd.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    (broken / "cells.parquet").write_bytes(b"PAR1")
    assert run_demo(broken) == 2
    assert f"remove {broken}/cells.parquet and start again" in capfd.readouterr().err


def test_source_and_licence_travel_with_the_cells():
    readme = (MYOBLASTS.parent / "README.md").read_text()
    for fact in ("GSE52529", "Trapnell", "32:381", "Artistic License 2.0", "HSMMSingleCell", "r-bioc-hsmmsinglecell"):
        assert fact in readme
    assert (MYOBLASTS.parent / "LICENSE").read_text().startswith("The Artistic License 2.0")


def test_too_few_cells_are_refused_before_anything_is_computed(tmp_path, capfd):
    assert run_command(["demo", "--out", str(tmp_path / "demo"), "--max-cells", "3"]) == 2
    assert "give at least 10" in capfd.readouterr().err
    assert not (tmp_path / "demo").exists()
