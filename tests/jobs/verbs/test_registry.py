"""A kind of perturbation that is registered and nowhere else known: a gene changes places with the one behind it."""

import numpy as np
import pytest
import torch
from transformers import BertModel
from typer.testing import CliRunner

from rankshift.jobs.cli.entry import app
from rankshift.screen import Bundle, Cells, InputError, Run
from rankshift.screen.genes.framing import PLAIN
from rankshift.screen.perturb import kinds
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.edits import CellEdits, moves
from rankshift.screen.perturb.groups import gene_places
from rankshift.screen.perturb.perturbation import Kind, Perturb
from rankshift.screen.report.findings import Findings
from rankshift.screen.report.sentences import title
from support import GOLDEN

CELLS = GOLDEN / "v1/cells.parquet"


def counts(ids: np.ndarray, offsets: np.ndarray, perturb: Perturb) -> np.ndarray:
    """Every gene but the last."""
    return np.maximum(perturb.frame.room(np.diff(offsets)) - 1, 0)


def edits(ids: np.ndarray, perturb: Perturb, below: int) -> CellEdits:
    """One move of each gene, one place down."""
    place = gene_places(ids, perturb)[:-1]
    return moves(ids[place], place, place + 1, len(ids))


def check(perturb: Perturb) -> None:
    """Nothing but all genes, one by one."""
    if perturb.genes is not None or perturb.how != "each":
        raise InputError("swap takes every gene of a cell: leave --genes and --how out")


SWAP = Kind(name="swap", counts=counts, edits=edits, check=check)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The line of the table."""
    monkeypatch.setitem(kinds.KINDS, "swap", kinds.Entry(module=__name__, attribute="SWAP", doing="Swapping"))


def test_a_registered_kind_is_screened_judged_and_told(bundles, tmp_path):
    words = ["screen", CELLS, "--bundle", bundles["v1"], "--out", tmp_path / "run", "--perturb", "swap"]
    words += ["--max-cells", "3", "--dtype", "float32", "--workers", "0"]
    told = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    done = Run.open(tmp_path / "run")
    bundle = Bundle.open(bundles["v1"])
    cells = Cells.read(tmp_path / "run/cells.parquet", bundle)
    model = BertModel.from_pretrained(bundle.path, add_pooling_layer=False).eval()

    def hidden(genes: list[int]) -> np.ndarray:
        with torch.no_grad():
            rows = model(torch.tensor([genes]), output_hidden_states=True).hidden_states[-2][0].double()
        return torch.nn.functional.normalize(rows, dim=1).numpy()

    rows = done.sql("SELECT cell, gene_ids, kind, similarity FROM shifts").to_pylist()
    found = {(row["cell"], row["gene_ids"]): row["similarity"] for row in rows}
    assert {row["kind"] for row in rows} == {"swap"}
    assert len(found) == sum(len(cells.ids_of(i)) - 1 for i in range(3))
    for cell in range(3):
        genes = cells.ids_of(cell).tolist()
        before = hidden(genes)
        for i in (0, 3, len(genes) - 2):
            swapped = [*genes[:i], genes[i + 1], genes[i], *genes[i + 2 :]]
            after = hidden(swapped)
            cosines = [float(before[genes.index(g)] @ after[swapped.index(g)]) for g in genes if g != genes[i]]
            assert found[cell, bundle.vocabulary.gene_of[genes[i]]] == pytest.approx(np.mean(cosines), abs=2e-5)
    assert title(Findings.read(done)).startswith("Swapping single genes in 3 cells")


def test_what_it_does_not_take_is_refused():
    plain = {"how": "each", "genes": None, "frame": PLAIN, "limit": 64}
    assert asked("swap", **plain).record["kind"] == "swap"
    with pytest.raises(InputError, match="swap takes every gene of a cell"):
        asked("swap", **plain | {"genes": (5,)})
    with pytest.raises(InputError, match="--refill fills what a deletion leaves free, swap frees nothing"):
        asked("swap", **plain, refill=True)
    with pytest.raises(InputError, match="belong to activate and inhibit, not to swap"):
        asked("swap", **plain, to=0.5)
    with pytest.raises(
        InputError, match="kind 'swop' is unknown: use one of delete, overexpress, activate, inhibit, swap"
    ):
        asked("swop", **plain)
