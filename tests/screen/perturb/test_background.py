"""Genes drawn beside a list: how many, from where, how like, and what a run says of them."""

import numpy as np
import pyarrow as pa
import pytest

from rankshift.screen.cells.cells import Cells
from rankshift.screen.engine.screener import run
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.background import background
from support import GOLDEN

CELLS = GOLDEN / "v1/cells.parquet"
V = 400
IS_GENE = np.arange(V) >= 2


def drawn_cells() -> Cells:
    """Gene t is in the first t of 300 cells, and in each the front is for the rarest: detection and rank run together."""
    lists = [[t for t in range(2, 302) if t > cell] for cell in range(300)]
    return Cells(
        ids=np.concatenate(lists).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64),
        obs=pa.table({"cell_id": [str(i) for i in range(300)]}),
        frame=Frame(head=0, tail=0),
    )


def test_genes_are_like_those_of_the_list_and_none_of_it():
    cells, listed = drawn_cells(), (150, 250)
    found = background(cells, listed, IS_GENE, 12, 0)
    assert len(set(found)) == 12
    assert not set(found) & set(listed)
    assert all(
        abs(token - listed[turn % 2]) <= 15 for turn, token in enumerate(found)
    )  # the tenth nearest is 5 away, of 6 drawn


def test_a_seed_draws_the_same_and_another_one_others():
    cells = drawn_cells()
    one, again, other = (background(cells, (150,), IS_GENE, 8, seed) for seed in (3, 3, 4))
    assert one == again
    assert one != other


def test_a_gene_that_no_cell_has_is_passed_over():
    assert all(abs(token - 150) <= 15 for token in background(drawn_cells(), (399, 150), IS_GENE, 8, 0))


def test_what_cannot_be_drawn_is_refused():
    cells = drawn_cells()
    with pytest.raises(
        InputError, match="--background is 300, the cells have 299 genes besides the list: ask for fewer"
    ):
        background(cells, (150,), IS_GENE, 300, 0)
    with pytest.raises(InputError, match="no cell has a gene of the list"):
        background(cells, (399,), IS_GENE, 1, 0)


@pytest.mark.slow
def test_a_run_tells_the_drawn_genes_from_the_list_and_is_the_same_again(bundles, tmp_path):
    from rankshift.screen.bundle.bundle import Bundle

    bundle = Bundle.open(bundles["v1"])
    tokens = Cells.read(CELLS, bundle).ids_of(0)[:3]
    listed = [bundle.vocabulary.gene_of[t] for t in tokens]
    asked = {"perturb": "delete", "genes": listed, "background": 20, "dtype": "float32"}
    done = run(CELLS, bundles["v1"], tmp_path / "one", **asked)
    rows = done.sql("SELECT gene_ids, panels FROM perturbations").to_pylist()
    assert [r["gene_ids"] for r in rows if r["panels"] == ["list"]] == listed
    drawn = [r["gene_ids"] for r in rows if r["panels"] == ["background"]]
    assert len(rows) == 23
    assert len(drawn) == 20
    assert run(CELLS, bundles["v1"], tmp_path / "one", resume=True, **asked).complete
    alone = run(CELLS, bundles["v1"], tmp_path / "two", perturb="delete", genes=[*listed, *drawn], dtype="float32")
    query = "SELECT cell, gene_ids, similarity FROM shifts ORDER BY ALL"
    assert done.sql(query).equals(alone.sql(query))


@pytest.mark.parametrize("options", [{}, {"genes": ["A", "B"], "how": "together"}])
def test_it_belongs_to_lists_of_single_genes(options, bundles, tmp_path):
    with pytest.raises(InputError, match="background draws genes beside a list of single genes"):
        run(CELLS, bundles["v1"], tmp_path / "run", perturb="delete", background=5, **options)
