"""Labels of cells and of genes: sorted class ids, what is left out, what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rankshift.jobs.finetuning.labels.gene_labels import gene_labels, read_classes
from rankshift.jobs.finetuning.labels.labels import NONE, cell_labels
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import make_vocabulary

KINDS = ["b", "a", "b", None, "c", "a", "b", "a", "b", "b"]


def table(**columns: list) -> Cells:
    """Cells of three genes each, tokens 2 to 7, with these columns."""
    n = len(next(iter(columns.values())))
    ids = np.concatenate([2 + (np.arange(3) + i) % 6 for i in range(n)]).astype(np.int32)
    obs = pa.table({"cell_id": [f"c{i}" for i in range(n)], **columns})
    return Cells(ids=ids, offsets=np.arange(n + 1) * 3, obs=obs)


def test_class_ids_follow_the_sorted_names():
    labels = cell_labels(table(kind=KINDS), ["kind"], where="kind <> 'c' or kind is null")
    assert labels.tasks[0].classes == ("a", "b")
    assert labels.rows.tolist() == [0, 1, 2, 5, 6, 7, 8, 9]
    assert labels.values[:, 0].tolist() == [1, 0, 1, 0, 1, 0, 1, 1]
    assert labels.notes == ("1 cells without a label left out",)


def test_numbers_and_flags_are_classes_too():
    hours = cell_labels(table(hours=[72, 0, 24, 0, 72, 24]), ["hours"])
    assert hours.tasks[0].classes == ("0", "24", "72")
    assert hours.values[:, 0].tolist() == [2, 0, 1, 0, 2, 1]
    flags = cell_labels(table(ill=[True, False, True, False]), ["ill"])
    assert flags.tasks[0].classes == ("false", "true")


def test_rare_classes_are_dropped_by_share_and_named():
    labels = cell_labels(table(kind=KINDS), ["kind"], rare=0.2)
    assert labels.tasks[0].classes == ("a", "b")
    assert labels.notes[0] == "kind: rare classes dropped: c (1)"
    assert 4 not in labels.rows


def test_caps_draw_cells_by_a_seed():
    cells = table(kind=["a", "b"] * 50)
    most = cell_labels(cells, ["kind"], max_cells=30, seed=1)
    assert len(most) == 30
    assert most.rows.tolist() == cell_labels(cells, ["kind"], max_cells=30, seed=1).rows.tolist()
    assert most.rows.tolist() != cell_labels(cells, ["kind"], max_cells=30, seed=2).rows.tolist()
    even = cell_labels(table(kind=["a"] * 90 + ["b"] * 10), ["kind"], max_cells_per_class=10)
    assert np.bincount(even.values[:, 0]).tolist() == [10, 10]


def test_several_tasks_keep_cells_that_have_one_of_the_labels():
    cells = table(kind=["a", "b", None, "a", "b", None], sex=["f", None, "m", "m", "f", None])
    labels = cell_labels(cells, ["kind", "sex"], weights=[1.0, 0.5])
    assert labels.rows.tolist() == [0, 1, 2, 3, 4]
    assert labels.values.tolist() == [[0, 0], [1, NONE], [NONE, 1], [0, 1], [1, 0]]
    assert [task.weight for task in labels.tasks] == [1.0, 0.5]


def test_regression_takes_numbers_also_when_written_as_text():
    labels = cell_labels(table(age=["1.5", "2", None, "4"]), ["age"], numeric=True)
    assert labels.values[:, 0].tolist() == [1.5, 2.0, 4.0]
    assert labels.rows.tolist() == [0, 1, 3]
    assert labels.tasks[0].classes == ()


@pytest.mark.parametrize(
    ("columns", "label", "options", "message"),
    [
        ({"kind": KINDS}, ["hour"], {}, "'hour' is not a column: the columns are cell_id, kind"),
        ({"kind": ["a"] * 4}, ["kind"], {}, "has only 'a' as a class"),
        ({"kind": [None, None]}, ["kind"], {}, "has none as a class"),
        ({"kind": KINDS}, ["kind"], {}, "class 'c' of kind has 1 cell, at least 2"),
        ({"kind": KINDS}, ["kind"], {"numeric": True}, "give a column of numbers"),
        ({"age": [1.0, 1.0]}, ["age"], {"numeric": True}, "one value only"),
        ({"age": [1.0, float("inf")]}, ["age"], {"numeric": True}, "not finite"),
        ({"age": [1.0, 2.0]}, ["age"], {"numeric": True, "max_cells_per_class": 3}, "needs one label with classes"),
    ],
)
def test_what_cannot_be_learnt_is_refused(columns, label, options, message):
    with pytest.raises(InputError, match=message):
        cell_labels(table(**columns), label, **options)


@pytest.fixture
def genes():
    names = {"<pad>": 0, "<mask>": 1, **{f"ENSG0000000000{i}": i for i in range(2, 10)}}
    return make_vocabulary(names, names={"TBX5": "ENSG00000000003"})


def test_gene_classes_by_id_symbol_and_alias(genes):
    cells = table(kind=["a"] * 6)
    classes = {"up": ["ensg00000000002.7", "TBX5", "MISSING1"], "down": ["OLD", "ENSG00000000005", "ENSG00000000009"]}
    labels = gene_labels(cells, np.arange(6), classes, genes, {"OLD": "ENSG00000000004"})
    assert labels.task.classes == ("down", "up")
    assert labels.tokens.tolist() == [2, 3, 4, 5]
    assert labels.values.tolist() == [1, 1, 0, 0]
    assert labels.notes == (
        "1 genes are not in the vocabulary: MISSING1",
        "1 genes are in none of the cells: ENSG00000000009",
    )
    assert labels.of_tokens(10, np.array([0, 3])).tolist() == [NONE, NONE, 1, NONE, NONE, 0, *[NONE] * 4]


def test_a_gene_has_one_class(genes):
    with pytest.raises(InputError, match="gene ENSG00000000003 is in class 'a' and in 'b'"):
        gene_labels(table(kind=["a"] * 6), np.arange(6), {"a": ["TBX5"], "b": ["ENSG00000000003"]}, genes, {})
    with pytest.raises(InputError, match="class 'b' has 1 genes in the cells"):
        gene_labels(
            table(kind=["a"] * 6), np.arange(6), {"a": [f"ENSG0000000000{i}" for i in (2, 4)], "b": ["TBX5"]}, genes, {}
        )
    with pytest.raises(InputError, match="none of the 1 genes of --genes is in the cells"):
        gene_labels(table(kind=["a"] * 6), np.arange(6), {"a": ["X"]}, genes, {})


def test_classes_are_read_from_json_and_csv(tmp_path: Path):
    (tmp_path / "c.json").write_text(json.dumps({"up": ["A", "B"], "down": ["C"]}))
    (tmp_path / "c.csv").write_text("gene,class\nA,up\nC,down\nB,up\n")
    assert read_classes(tmp_path / "c.json") == read_classes(tmp_path / "c.csv") == {"up": ["A", "B"], "down": ["C"]}
    (tmp_path / "bad.json").write_text('{"up": "A"}')
    with pytest.raises(InputError, match=r"is not \{class: \[genes\]\}"):
        read_classes(tmp_path / "bad.json")
    (tmp_path / "bad.csv").write_text("A,up,1\n")
    with pytest.raises(InputError, match="line 1 has 3 columns"):
        read_classes(tmp_path / "bad.csv")
