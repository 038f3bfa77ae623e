"""Without any extra: counts are screened, asked, judged and reported in process; what needs more says what to install."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping

import pyarrow.parquet as pq
import pytest

from rankshift.jobs.cli import run_command
from rankshift.screen.errors import InputError
from rankshift.screen.extras import EXTRAS, need, said
from support import GOLDEN, ROOT

V1 = GOLDEN / "v1"
DISTRIBUTIONS = {"sklearn": "scikit-learn", "umap": "umap-learn"}  # where the import has another name
ABSENT = {module for modules in EXTRAS.values() for module in modules} | {"triton", "tokenizers", "datasets"}

SESSION = """
import contextlib, io, json, sys

absent, commands = json.loads(sys.argv[1])

class Absent:  # imports find of these packages what they find where nothing was installed
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from rankshift.jobs.cli import run_command

out = {}
for name, arguments in commands.items():
    said = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = run_command(arguments)
    out[name] = [code, said.buffer.getvalue().decode()]
import rankshift as rs
try:
    rs.pretrain
except rs.InputError as error:
    out["python"] = [2, str(error)]
out["loaded"] = [0, " ".join(sorted(set(absent) & {name.split(".")[0] for name in sys.modules}))]
print(json.dumps(out))
"""

CELLS, COUNTS = str(V1 / "cells.parquet"), str(V1 / "cells.h5ad")
ROUTE = ["--state-key", "cell_type", "--start", "cm", "--goal", "fb"]
VOCABULARY = ["--vocabulary", f"{V1}/vocabulary.json", "--medians", f"{V1}/medians.json"]
COMMANDS: dict[str, list[str]] = {
    "bundle": ["bundle", f"{V1}/model", *VOCABULARY, "--out", "b"],
    "screen": ["screen", COUNTS, "--bundle", "b", "--out", "r", "--perturb", "delete", *ROUTE],
    "query": ["query", "r", "SELECT count(*) AS n FROM shifts", "--format", "csv"],
    "stats": ["stats", "r", "--min-cells", "2"],
    "report": ["report", "r", "--out", "r.html", "--min-cells", "2"],
    "embed": ["embed", CELLS, "--bundle", "b", "--out", "e.parquet"],
    "map": ["embed", CELLS, "--bundle", "b", "--out", "f.parquet", "--plot", "f.png"],
    "attention": ["embed", CELLS, "--bundle", "b", "--out", "g.parquet", "--level", "attention"],
    "workers": ["screen", CELLS, "--bundle", "b", "--out", "s", "--perturb", "delete", "--workers", "2"],
    "pool": ["pool", "start"],
    "submit": ["submit", "--list"],
    "pretrain": ["pretrain", CELLS, "--vocabulary", "b/vocabulary.parquet", "--out", "p", "--workers", "0"],
    "finetune": ["finetune", CELLS, "--bundle", "b", "--out", "t", "--task", "cell", "--label", "cell_type"],
    "mixture": ["stats", "r", "--mode", "mixture", "--out", "m.csv"],
}
EXTRA_OF = {"map": "plots", "attention": "fast", "workers": "cluster", "pool": "cluster", "submit": "cluster"}
EXTRA_OF |= {"pretrain": "train", "finetune": "train", "python": "train"}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, tuple[int, str]], list[str]]:
    """{command: (exit code, what it said)} of a process that has no extra, and the files that are there in the end."""
    folder = tmp_path_factory.mktemp("core")
    command = [sys.executable, "-c", SESSION, json.dumps([sorted(ABSENT), COMMANDS])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = {name: tuple(found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}
    return said, sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bundle", "screen", "query", "stats", "report", "mixture", "embed"])
def test_the_core_screens_asks_judges_reports_and_embeds(name, core):
    code, said = core[0][name]
    assert code == 0, said


@pytest.mark.slow
def test_the_core_loads_no_extra_and_perturbs_each_gene_that_everything_installed_ranks(core, tmp_path):
    assert run_command(["bundle", f"{V1}/model", *VOCABULARY, "--out", str(tmp_path / "b")]) == 0
    whole = ["--bundle", str(tmp_path / "b"), "--out", str(tmp_path / "c.parquet"), "--keep", "cell_type"]
    assert run_command(["tokenize", COUNTS, *whole]) == 0
    lists = pq.read_table(tmp_path / "c.parquet", filters=[("cell_type", "=", "cm")])["input_ids"]
    assert core[0]["query"][1].split()[1] == str(len(lists.combine_chunks().flatten()))
    assert core[0]["loaded"][1] == ""
    assert core[1] == ["b", "e.parquet", "m.csv", "r", "r.html"]  # what was refused left nothing


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRA_OF)
def test_a_missing_extra_is_a_line_that_says_what_to_install(name, core):
    code, said = core[0][name]
    assert code == 2, said
    line = said.strip().splitlines()[-1]
    assert line.endswith(f'which is not installed: pip install "rankshift[{EXTRA_OF[name]}]"'), said
    assert re.search(r"needs \w+, which", line), line


def test_every_extra_is_declared_with_the_modules_that_are_looked_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        brought = {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower() for line in extras[extra]}
        assert {DISTRIBUTIONS.get(module, module) for module in modules} <= brought, extra


def test_only_modules_of_extras_are_told_of_so():
    need("cluster", "nothing", "json")  # which is there
    with pytest.raises(InputError, match=r'^this needs optuna, .* "rankshift\[tune\]"$'), said():
        raise ModuleNotFoundError("No module named 'optuna.x'", name="optuna.x")
    with pytest.raises(ModuleNotFoundError), said():
        raise ModuleNotFoundError("No module named 'rankshift.nowhere'", name="rankshift.nowhere")
