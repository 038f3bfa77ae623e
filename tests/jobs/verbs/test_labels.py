"""A column of labels means the same to every verb, in every type that a file may give it."""

import json

import pyarrow as pa
import pytest

from rankshift.jobs.compat.inputs import matching
from rankshift.jobs.finetuning.labels.labels import cell_labels
from rankshift.jobs.verbs.embed import embed
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import label_texts
from rankshift.screen.cells.select import select
from rankshift.screen.engine.screener import run as screen
from rankshift.screen.errors import InputError
from rankshift.screen.stats.donors import Donors
from support import labelled

NAN = float("nan")
# One column of six cells, 0 0 1 1 missing 1, in every type that a file may give it.
SPELLINGS = {
    "int64": pa.array([0, 0, 1, 1, None, 1], pa.int64()),
    "float64": pa.array([0.0, 0.0, 1.0, 1.0, NAN, 1.0]),
    "float32": pa.array([0.0, -0.0, 1.0, 1.0, NAN, 1.0], pa.float32()),
    "text": pa.array(["0", "0", "1", "1", "nan", "1"]),
    "categories": pa.array([0.0, 0.0, 1.0, 1.0, None, 1.0]).dictionary_encode(),
}


def bundle(bundles):
    return Bundle.open(bundles["v1"])


def _some_genes(cells, bundles):
    v = bundle(bundles).vocabulary
    return [v.ensembl_id[t] for t in cells.ids_of(0)[:2]]


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_number_is_one_label_in_every_type_and_a_missing_one_is_none(spelling, tmp_path, bundles):
    column = SPELLINGS[spelling]
    assert label_texts(column, "x").to_pylist() == ["0", "0", "1", "1", None, "1"]
    path = labelled(tmp_path, disease=column, donor=column)
    cells = Cells.read(path, bundle(bundles))

    assert sorted(select(cells, state_key="disease", start="1").tolist()) == [2, 3, 5]
    if spelling != "text":
        assert sorted(select(cells, state_key="disease", start="1.0").tolist()) == [2, 3, 5]
    with pytest.raises(InputError, match=r"the states are 1 \(3\), 0 \(2\)$"):
        select(cells, state_key="disease", start="nan")

    embed(path, bundles["v1"], tmp_path / "states.json", by="disease", say=str)
    assert [*json.loads((tmp_path / "states.json").read_text())] == ["0", "1"]
    route = {"state_key": "disease", "start": "0", "goal": "1", "states": tmp_path / "states.json"}
    run = screen(path, bundles["v1"], tmp_path / "run", perturb="delete", max_cells=2, **route)
    assert run.manifest["route"] == ["disease", "0", "1"]
    assert set(run.sql("SELECT DISTINCT cell_id FROM shifts")["cell_id"].to_pylist()) == {0, 1}

    whole = screen(path, bundles["v1"], tmp_path / "whole", perturb="delete", genes=_some_genes(cells, bundles))
    donors = Donors.read(whole, "donor")
    assert sorted(donors.names) == ["0", "1"]
    assert (donors.of_cell == -1).sum() == 1

    labels = cell_labels(cells, ["disease"])
    assert labels.tasks[0].classes == ("0", "1")
    assert labels.rows.tolist() == [0, 1, 2, 3, 5]
    assert len(matching(cells, {"disease": [1]})) == len(matching(cells, {"disease": ["1"]})) == 3
