"""Raw pickles read back: what a dictionary must hold, and that nothing else gets past the reader."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from rankshift.compat import InSilicoPerturberStats
from rankshift.compat.pickles import RawValues
from rankshift.screen.errors import InputError
from tests.support import GOLDEN

SUFFIX = "_raw.pickle"


def pickled(folder: Path, content: object) -> Path:
    """A folder with one file of raw values."""
    (folder / f"in_silico_delete_dict_cell_embs_0batch-1{SUFFIX}").write_bytes(pickle.dumps(content))
    return folder


def test_lists_of_equal_keys_are_joined_in_the_order_of_their_cells(tmp_path):
    for batch, values in ((10, [0.3]), (2, np.array([0.2], np.float32)), (0, 0.125)):
        content = {(5, "cell_emb"): values, ((5, 6), np.int64(7)): [0.5]}
        (tmp_path / f"x_{batch}batch-1{SUFFIX}").write_bytes(pickle.dumps(content))
    found = RawValues.read(tmp_path, SUFFIX)
    assert found.cells == {None: {(5,): pytest.approx([0.125, 0.2, 0.3])}}
    assert found.genes == {((5, 6), 7): [0.5, 0.5, 0.5]}


def test_values_by_state_are_kept_apart(tmp_path):
    found = RawValues.read(pickled(tmp_path, {"fb": {(5, "cell_emb"): [0.1]}, 0: {(5, "cell_emb"): [0.2]}}), SUFFIX)
    assert found.states == ["fb", 0]
    assert found.cells[0] == {(5,): [0.2]}


@pytest.mark.parametrize(
    "content",
    [
        3.5,
        {"a": 1},
        {(5, "cell_emb"): [0.5], "fb": {"a": [1]}},
        {(5, 6, 7): [0.5]},
        {("5", "cell_emb"): [0.5]},
        {(5, "cell"): [0.5]},
        {(5.5, "cell_emb"): [0.5]},
        {(True, "cell_emb"): [0.5]},
        {((), "cell_emb"): [0.5]},
        {(5, None): [0.5]},
        {(5, "cell_emb"): []},
        {(5, "cell_emb"): None},
        {(5, "cell_emb"): "0.5"},
        {(5, "cell_emb"): ["0.5"]},
        {(5, "cell_emb"): [[0.5]]},
        {(5, "cell_emb"): [0.5, [0.5]]},
        {(5, "cell_emb"): [float("inf")]},
        {(5, 6): [float("nan")]},
        {(5, 6): [float("-inf")]},
        {(5, "cell_emb"): [1e39]},  # more than float32 holds
        {(5, "cell_emb"): [True]},
    ],
)
def test_a_dictionary_that_holds_no_raw_values_is_refused(content, tmp_path):
    with pytest.raises(InputError, match=r"0batch-1_raw\.pickle: .*: give the folder of raw pickles alone") as refused:
        RawValues.read(pickled(tmp_path, content), SUFFIX)
    assert "\n" not in str(refused.value)
    if isinstance(content, dict):
        with pytest.raises(InputError, match="give dictionaries as raw pickles hold them"):
            RawValues.merged([content])


def test_a_cell_without_a_value_is_kept_as_not_a_number(tmp_path):
    """As `rankshift export` writes the mean over no gene, and the published code computes it."""
    found = RawValues.read(pickled(tmp_path, {(5, "cell_emb"): [0.5, float("nan")]}), SUFFIX)
    assert np.isnan(found.cells[None][(5,)]).tolist() == [False, True]


def test_pairs_have_three_values_of_every_cell(tmp_path):
    held = RawValues.read(pickled(tmp_path, {((5, 6), "cell_emb"): [(0.9, 0.8, 0.6)]}), SUFFIX, each=3)
    assert np.array(held.cells[None][(5, 6)]).tolist() == [[0.9, 0.8, 0.6]]
    with pytest.raises(InputError, match="3 finite numbers for every cell are needed"):
        RawValues.read(pickled(tmp_path, {((5, 6), "cell_emb"): [(0.9, 0.8)]}), SUFFIX, each=3)


def test_a_pickle_is_never_executed(tmp_path):
    with pytest.raises(InputError, match="only dictionaries of plain values are read"):
        RawValues.read(pickled(tmp_path, Path("x")), SUFFIX)


@pytest.mark.parametrize(
    ("key", "token"), [((5, 10**6), 10**6), ((5, -3), -3), ((10**6, "cell_emb"), 10**6), ((-1, "cell_emb"), -1)]
)
def test_tokens_outside_the_dictionary_are_refused(key, token, tmp_path):
    content = {(5, "cell_emb"): [0.5], (5, 6): [0.5], key: [0.5]}
    stats = InSilicoPerturberStats(
        mode="aggregate_gene_shifts", token_dictionary_file=GOLDEN / "v1/token_dictionary.pkl", model_version="V1"
    )
    with pytest.raises(InputError, match=f"hold token {token}, the token dictionary ends"):
        stats.get_stats(pickled(tmp_path, content), None, tmp_path, "x")
