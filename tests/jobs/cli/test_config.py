"""A screen from a file of options: the file that a run keeps repeats it, what is given as well counts, typos are named."""

import tomllib

import pyarrow.parquet as pq
import pytest

from rankshift.jobs.cli import run_command
from rankshift.screen.notebook import Run, run
from support import GOLDEN

CELLS = GOLDEN / "v1/cells.parquet"
IDS = "SELECT cell_id, gene_ids, similarity, shift_dcm FROM shifts ORDER BY ALL"


@pytest.fixture(scope="module")
def first(bundles, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("config")
    genes = Run.open(GOLDEN / "run_v1").sql("SELECT gene_ids FROM perturbations LIMIT 9")["gene_ids"].to_pylist()
    (folder / "genes.txt").write_text("\n".join(genes))
    route = {"states": GOLDEN / "v1/state_embeddings.json", "state_key": "disease", "start": "nf", "goal": "dcm"}
    options = {"genes": str(folder / "genes.txt"), "alt": ("hcm",), "dtype": "float32", "where": "length > 3", **route}
    return run(CELLS, bundles["v1"], folder / "run", perturb="delete", say=str, **options)


def test_a_run_is_repeated_from_the_file_it_keeps(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the file may be used from anywhere
    config = first.path / "screen.toml"
    assert run_command(["screen", "--config", str(config), "--out", "again", "--workers", "0"]) == 0
    again = Run.open(tmp_path / "again")
    assert again.sql(IDS).equals(first.sql(IDS))
    assert (again.path / "screen.toml").read_text() == config.read_text()
    said = tomllib.loads(config.read_text())
    assert said["cells"] == [str(CELLS)]
    assert said["where"] == "length > 3"
    assert "max-cells" not in said


def test_what_is_given_as_well_counts(first, tmp_path):
    arguments = [
        "screen",
        "--config",
        str(first.path / "screen.toml"),
        "--out",
        str(tmp_path / "run"),
        "--workers",
        "0",
    ]
    assert run_command([*arguments, "--max-cells", "2", "--where", "length > 4"]) == 0
    assert pq.read_metadata(tmp_path / "run/cells.parquet").num_rows == 2
    assert tomllib.loads((tmp_path / "run/screen.toml").read_text())["where"] == "length > 4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-cell = 3", "max-cell is no option of screen: did you mean max-cells?"),
        ("colour = 3", "colour is no option of screen: see --help for the options"),
        ("config = 'x'", "config is no option of screen"),
        ("max-cells 3", "is no TOML"),
        ("[screen]\nmax-cells = 3", "[screen] is a table, options are lines of their own"),
        ("max-cells = 'many'", "Invalid value for '--max-cells'"),
    ],
)
def test_what_is_no_option_is_refused(text, message, tmp_path, capfd):
    (tmp_path / "screen.toml").write_text(text)
    config = ["--config", str(tmp_path / "screen.toml"), "--out", str(tmp_path / "run"), "--perturb", "delete"]
    assert run_command(["screen", str(CELLS), *config, "--bundle", str(tmp_path)]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_cells_in_memory_are_named_on_the_command_line(bundles, tmp_path):
    from rankshift.screen import tokenize

    cells = tokenize(GOLDEN / "v1/cells.h5ad", bundles["v1"])
    made = run(cells, bundles["v1"], tmp_path / "run", perturb="delete", max_cells=2, say=str)
    text = (made.path / "screen.toml").read_text()
    assert "# cells: Cells in memory" in text
    assert "cells" not in tomllib.loads(text)
