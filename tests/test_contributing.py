"""CONTRIBUTING.md: its worked example, a new kind of perturbation, screens cells and makes the lists that it promises."""

import re
import sys
from types import ModuleType

import numpy as np
import pytest

from rankshift.screen import run
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb import kinds
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import edits_of
from support import GOLDEN, ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture(autouse=True)
def promote(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's file as a module, and its line in the table."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)
    line = re.search(r'^    "promote": (Entry\(.*\)),$', PAGE, re.M)
    assert code is not None
    assert line is not None
    entry = eval(line[1], vars(kinds))
    module = ModuleType(entry.module)
    exec(code[1], vars(module))
    monkeypatch.setitem(sys.modules, entry.module, module)
    monkeypatch.setitem(kinds.KINDS, "promote", entry)


def test_every_gene_but_the_first_changes_places_with_the_one_above_it():
    edits = edits_of(
        np.array([2, 10, 11, 12, 3]), asked("promote", how="each", genes=None, frame=Frame(head=1, tail=1), limit=16)
    )
    lists = []
    for source, destination in zip(edits.source[:, 0], edits.destination[:, 0], strict=True):
        cell = [2, 10, 11, 12, 3]
        cell.insert(destination, cell.pop(source))
        lists.append(cell)
    assert lists == [[2, 11, 10, 12, 3], [2, 10, 12, 11, 3]]
    with pytest.raises(InputError, match="use --genes all"):
        asked("promote", how="each", genes=(10,), frame=Frame(), limit=16)


@pytest.mark.slow
def test_the_example_can_be_screened(generation, bundles, tmp_path):
    done = run(GOLDEN / generation / "cells.parquet", bundles[generation], tmp_path / "run", perturb="promote")
    rows = done.frame("SELECT * FROM shifts")
    genes = done.frame("SELECT length FROM cells")["length"] - (2 if generation == "v2" else 0)
    assert len(rows) == (genes - 1).sum()
    assert rows["similarity"].between(0, 1, inclusive="neither").all()
