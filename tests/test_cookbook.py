"""docs/sql.md: every question is asked of a smaller demo; answers have the columns shown, and the values pandas finds."""

import importlib.util
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from rankshift.screen.runs.run import Run
from support import DEMO, ROOT

DOCS = ROOT / "docs"
SPEC = importlib.util.spec_from_file_location("cookbook", DOCS / "sql.py")
assert SPEC is not None
assert SPEC.loader is not None
cookbook = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cookbook)
PAGE = (DOCS / "sql.md").read_text()
QUESTIONS = cookbook.questions(PAGE)
CELLS, LEAST = DEMO["--max-cells"], 3

pytestmark = pytest.mark.slow  # a training and two screens before the first question


def smaller(command: str) -> str:
    """The same with fewer cells, genes and epochs, in this process."""
    for size, less in (("--epochs 5", "--epochs 1"), ("--max-cells 30", f"--max-cells {CELLS} --workers 0"),
                       ("--min-cells 5", f"--min-cells {LEAST}")):  # fmt: skip
        command = command.replace(size, less)
    if command == "rankshift demo":
        command += "".join(f" {option} {value}" for option, value in DEMO.items()) + " --workers 0"
    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory, finished) -> Path:
    """The runs of the page, smaller, made by the commands of the page; the demo finds its steps done."""
    folder = tmp_path_factory.mktemp("cookbook")
    shutil.copytree(finished, folder / "demo")
    cookbook.make(folder, [smaller(command) for command in cookbook.making(PAGE)])
    return folder


@pytest.fixture(scope="module")
def shifts(folder) -> pd.DataFrame:
    return Run.open(folder / "demo/delete").sql("SELECT * FROM shifts").to_pandas()


def asked(title: str) -> str:
    """The command under a heading of the page."""
    section = PAGE.split(f"### {title}\n")[1].split("\n### ")[0]
    return cookbook.questions(section)[0][0]


def rows_of(title: str, folder: Path) -> pd.DataFrame:
    """Rows of the question under a heading, as Python gets them."""
    words = shlex.split(asked(title))[2:]
    pairs = [(w, v.split("=")) for w, v in pairwise(words) if w in ("--with", "--table")]
    runs = {v[0]: folder / v[1] for w, v in pairs if w == "--with"}
    return Run.open(folder / words[0]).sql(words[-1], **runs).to_pandas()


def columns_of(answer: str) -> list[str]:
    return re.split(r"\s{2,}|,", answer.splitlines()[0].strip())


def test_the_page_is_whole():
    assert len(QUESTIONS) >= 20
    assert len(QUESTIONS) == PAGE.count("\n### ")
    for command, answer in QUESTIONS:
        assert "…" not in answer, command
        assert len(answer.splitlines()) > 1 or "--out" in command


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_every_question_has_an_answer_with_the_columns_shown(number, folder):
    command, shown = QUESTIONS[number]
    answer = cookbook.answer(command, folder)
    if "--out" in command:
        out, rows = re.fullmatch(r"(\S+): ([\d,]+) rows", answer).groups()
        assert pq.read_metadata(folder / out).num_rows == int(rows.replace(",", "")) > 0
        return
    assert columns_of(answer) == columns_of(shown)
    assert "no rows" not in answer
    assert len(answer.splitlines()) > 1


def test_what_does_not_depend_on_the_run_is_the_same(folder):
    title = "What is there to ask?"
    shown = dict(QUESTIONS)[asked(title)]
    assert cookbook.answer(asked(title), folder) == shown


def test_an_unchanged_run_gives_an_unchanged_page(folder):
    once = cookbook.answered(PAGE, lambda command: cookbook.answer(command, folder))
    assert cookbook.questions(once) != QUESTIONS
    assert cookbook.answered(once, lambda command: cookbook.answer(command, folder)) == once
    assert [command for command, _ in cookbook.questions(once)] == [command for command, _ in QUESTIONS]


def test_values_of_targets(folder, shifts):
    found = rows_of("Which genes, deleted, move cells most towards the goal?", folder)
    mean = shifts.groupby("symbols").shift_72.agg(lambda s: s.astype(float).mean())
    cells = shifts.groupby("symbols").size()
    first = mean[cells >= LEAST].nlargest(8)
    assert found.symbols.tolist() == first.index.tolist()
    assert found.shift_mean.tolist() == pytest.approx(first.tolist(), abs=1e-9)
    assert found.cells.tolist() == cells[first.index].tolist()
    acting = rows_of("Which genes act at all, above the noise floor, whatever the direction?", folder)
    similarity = shifts.groupby("symbols").similarity.agg(lambda s: s.astype(float).mean())
    assert acting.symbols.tolist() == similarity[cells >= 3].nsmallest(len(acting)).index.tolist()


def test_values_over_groups_and_cells(folder, shifts):
    one = shifts[shifts.symbols == "MT2A"].shift_72.astype(float)
    (row,) = rows_of("How does one gene's effect differ between cells?", folder).itertuples()
    wanted = [len(one), one.min(), one.quantile(0.25), one.median(), one.quantile(0.75), one.max()]
    assert list(row)[1:] == pytest.approx(wanted, abs=1e-9)
    by_row = shifts.assign(row=shifts.cell_id.str[6]).groupby(["symbols", "row"]).shift_72.mean().groupby("symbols")
    least = by_row.min()
    found = rows_of("Which genes act the same way in all groups?", folder)
    assert found.plate_rows.tolist() == by_row.size()[found.symbols].tolist()
    assert found.lowest.tolist() == pytest.approx(least[found.symbols].tolist(), rel=1e-4)
    responding = rows_of("Which cells respond most, to whatever is deleted?", folder)
    effect = (1 - shifts.similarity.astype(float)).groupby(shifts.cell_id).mean().nlargest(5)
    assert responding.cell_id.tolist() == effect.index.tolist()


def test_values_of_two_runs(folder, shifts):
    up = Run.open(folder / "demo/overexpress").sql("SELECT * FROM shifts").to_pandas()
    both = shifts[shifts.symbols == "MT1E"].merge(up, on=["gene_ids", "cell_id"], suffixes=("", "_up"))
    (row,) = rows_of("The same, cell by cell, for one gene?", folder).itertuples()
    opposed = int((both.shift_72 * both.shift_72_up < 0).sum())
    wanted = [len(both), both.shift_72.astype(float).mean(), both.shift_72_up.astype(float).mean(), opposed]
    assert list(row)[1:] == pytest.approx(wanted, abs=1e-9)
    means = [
        s.astype({"shift_72": float})
        .groupby("gene_ids")
        .shift_72.agg(["mean", "size"])
        .query(f"size >= {LEAST}")["mean"]
        for s in (shifts, Run.open(folder / "more/delete").sql("SELECT * FROM shifts").to_pandas())
    ]
    pair = pd.concat(means, axis=1, join="inner").to_numpy()
    (row,) = rows_of("Do two models agree?", folder).itertuples()
    assert row.genes == len(pair)
    assert row.correlation == pytest.approx(np.corrcoef(pair.T)[0, 1], abs=1e-6)


def test_values_of_the_network(folder):
    effects = Run.open(folder / "more/network").sql("SELECT * FROM effects").to_pandas()
    found = rows_of("Which genes move when a gene is deleted?", folder)
    assert (found.deleted != found.affected_symbol).all()
    assert found.cosine_mean.tolist() == sorted(effects[effects.n >= 3].cosine_mean)[: len(found)]
