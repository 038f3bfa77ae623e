"""Token tables: every cell is checked, and cells are chosen in the reference's order."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.select import select
from rankshift.screen.cells.writer import writing
from rankshift.screen.errors import InputError
from rankshift.screen.files.seal import KEY
from rankshift.screen.genes.framing import PLAIN

CLS, EOS = 2, 3


@pytest.fixture(scope="module")
def v1(bundles) -> Bundle:
    return Bundle.open(bundles["v1"])


@pytest.fixture(scope="module")
def v2(bundles) -> Bundle:
    return Bundle.open(bundles["v2"])


def table(path: Path, lists: list, kind: pa.DataType | None = None, **columns: list) -> Path:
    ids = pa.array(lists, kind or pa.list_(pa.int32()))
    pq.write_table(pa.table({"input_ids": ids, **columns}), path)
    return path


def lists_of(cells: Cells) -> list[list[int]]:
    return [cells.ids_of(i).tolist() for i in range(len(cells))]


def cells_of(lists: list[list[int]], **columns: list) -> Cells:
    offsets = np.cumsum([0, *map(len, lists)])
    ids = np.array([i for ids in lists for i in ids], np.int32)
    return Cells(ids=ids, offsets=offsets, obs=pa.table({"cell_id": list(range(len(lists))), **columns}))


# Reading


def test_a_parquet_table_and_a_dataset_folder_read_alike(golden, generation, bundles):
    bundle = Bundle.open(bundles[generation])
    one = Cells.read(golden / generation / "cells.parquet", bundle)
    two = Cells.read(golden / generation / "cells.dataset", bundle)
    assert lists_of(one) == lists_of(two)
    assert len(one) == 12
    assert one.frame.record == two.frame.record == (generation == "v2")
    assert one.obs.equals(two.obs)
    assert one.obs.column_names == ["cell_id", "disease", "cell_type"]
    assert one.notes == ()


@pytest.mark.parametrize("width", [pa.int16(), pa.int32(), pa.int64(), pa.uint16()])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_of_any_integer_are_read(tmp_path, v1, kind, width):
    cells = Cells.read(table(tmp_path / "c.parquet", [[5, 4], [7]], kind(width)), v1)
    assert lists_of(cells) == [[5, 4], [7]]
    assert cells.ids.dtype == np.int32
    assert cells.lengths.tolist() == [2, 1]


def test_a_cell_id_is_the_row_number_when_there_is_none(tmp_path, v1):
    cells = Cells.read(table(tmp_path / "c.parquet", [[5], [], [7]]), v1)
    assert cells.obs.column("cell_id").to_pylist() == [0, 2]
    assert cells.notes == ("1 cells without a gene dropped (first: 1)",)


def test_cells_of_only_specials_are_dropped_and_reported(tmp_path, v2):
    path = table(tmp_path / "c.parquet", [[CLS, 9, EOS], [CLS, EOS], None], cell_id=["a", "b", "c"])
    cells = Cells.read(path, v2)
    assert lists_of(cells) == [[CLS, 9, EOS]]
    assert cells.notes == ("2 cells without a gene dropped (first: b)",)


def test_a_gene_twice_in_a_cell_is_reported_and_kept(tmp_path, v1):
    cells = Cells.read(table(tmp_path / "c.parquet", [[5, 6], [7, 8, 7]]), v1)
    assert lists_of(cells) == [[5, 6], [7, 8, 7]]
    assert cells.notes == ("1 cells with a gene twice in the list kept as they are (first: 1)",)


def test_all_cells_with_a_gene_twice_are_counted_and_no_other(tmp_path, v1):
    """Cells of drawn lengths that share genes with the cells before them, against Python's sets."""
    rng = np.random.default_rng(14)
    genes = np.flatnonzero(v1.vocabulary.is_gene)[:60]
    lists = [rng.choice(genes, rng.integers(0, 25), replace=bool(cell % 2)).tolist() for cell in range(400)]
    twice = [cell for cell, tokens in enumerate(lists) if len(set(tokens)) < len(tokens)]
    assert 100 < len(twice) < 200
    told = f"{len(twice)} cells with a gene twice in the list kept as they are (first: {twice[0]})"
    assert told in Cells.read(table(tmp_path / "c.parquet", lists), v1).notes


def test_nested_columns_are_left_out_and_named(tmp_path, v1):
    cells = Cells.read(table(tmp_path / "c.parquet", [[5]], embedding=[[5.0, 6.0]], tissue=["heart"]), v1)
    assert cells.obs.column_names == ["cell_id", "tissue"]
    assert cells.notes == ("column embedding left out: it is nested",)


def test_plain_cells_may_be_read_with_a_vocabulary_that_has_specials(tmp_path, v2):
    assert Cells.read(table(tmp_path / "c.parquet", [[9, 8], [7]]), v2).frame == PLAIN


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[9, 8], [CLS, 9, EOS]], "cell 1 is framed by <cls> and <eos>, cell 0 is not"),
        ([[CLS, 9, EOS]] * 3 + [[9]], "cell 0 is framed by <cls> and <eos>, cell 3 is not"),
        ([[CLS, 9, EOS], [CLS, 9]], "cell 1 has only one of <cls>"),
        ([[CLS, 9, EOS], [9, EOS]], "cell 1 has only one of <cls>"),
        ([[CLS, 9, EOS, 8, EOS]], "cell 0 holds a special token inside"),
        ([[9, CLS, 8]], "cell 0 holds a special token inside"),
        ([[CLS, 0, 9, EOS]], "cell 0 holds a special token inside"),
        ([[9, 8, 1]], "cell 0 holds a special token inside"),
        ([[9, 164]], "cell 0 holds token 164, the vocabulary ends at 163 .* same generation"),
        ([[CLS, *range(4, 75), EOS]], "cell 0 has 73 tokens, the model takes 72"),
        ([[9, -1]], "holds token -1"),
        ([[9, None]], "empty values inside a list"),
        ([[CLS, EOS], []], "no cell with a gene"),
        ([], "no cell with a gene"),
    ],
)
def test_cells_that_do_not_fit_the_model_are_named(tmp_path, v2, lists, message):
    with pytest.raises(InputError, match=message):
        Cells.read(table(tmp_path / "c.parquet", lists), v2)


def test_a_bad_cell_far_from_the_first_is_found(tmp_path, v2):
    path = table(tmp_path / "c.parquet", [[CLS, 9, EOS]] * 20_000 + [[9, 8, 7]])
    with pytest.raises(InputError, match="cell 20000 is not"):
        Cells.read(path, v2)


def test_a_list_longer_than_any_cell_is_refused_before_it_is_read(tmp_path, v1):
    """Equal tokens are stored as their number: 17 million of them in a few kilobytes."""
    ids = pa.ListArray.from_arrays([0, 1 << 24], np.full(1 << 24, 5, np.int32))
    pq.write_table(pa.table({"input_ids": ids}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    with pytest.raises(
        InputError, match=r"has 16,777,216 values of input_ids.* in 1 cells, the limit is 65,536 a cell"
    ):
        Cells.read(tmp_path / "t.parquet", v1)


def test_padding_is_refused_without_specials_too(tmp_path, v1):
    with pytest.raises(InputError, match="cell 1 holds a special token inside"):
        Cells.read(table(tmp_path / "c.parquet", [[5, 6], [5, 0]]), v1)


def test_a_length_that_is_not_the_lists_is_refused(tmp_path, v1):
    with pytest.raises(InputError, match="cell b has 1 tokens but length 2"):
        Cells.read(table(tmp_path / "c.parquet", [[5], [6]], length=[1, 2], cell_id=["a", "b"]), v1)


@pytest.mark.parametrize(
    ("ids", "message"), [(["a", "b", "a"], "cell_id a occurs 2 times"), (["a", None, "b"], "1 cells have no cell_id")]
)
def test_cell_ids_must_be_unique_and_present(tmp_path, v1, ids, message):
    with pytest.raises(InputError, match=message):
        Cells.read(table(tmp_path / "c.parquet", [[5], [6], [7]], cell_id=ids), v1)


def test_files_that_are_no_token_table_are_refused(tmp_path, v1):
    with pytest.raises(InputError, match="does not exist"):
        Cells.read(tmp_path / "none.parquet", v1)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column input_ids, only a"):
        Cells.read(tmp_path / "a.parquet", v1)
    with pytest.raises(InputError, match="not lists of integers"):
        Cells.read(table(tmp_path / "f.parquet", [[1.5]], pa.list_(pa.float32())), v1)


@pytest.mark.parametrize("keep", [-1, 0.5, 3])
def test_a_truncated_table_is_refused(tmp_path, v1, keep):
    path = table(tmp_path / "c.parquet", [[5, 6]] * 1000)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        Cells.read(path, v1)


@pytest.mark.parametrize("name", ["c.parquet", "c.dataset"])
@pytest.mark.slow
def test_no_byte_of_a_table_of_ours_changes_unseen(name, tmp_path, v1):
    """Every byte in turn: the table is refused, or its cells are the same, as where the name of its own metadata changed."""
    path = tmp_path / name
    written = cells_of([[2, 3, 4], [5, 6], [7, 3]])
    written.write(path)
    held = path / "data-00000-of-00001.arrow" if path.is_dir() else path
    raw = held.read_bytes()
    same = 0
    for at in range(len(raw)):
        held.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        try:
            found = Cells.read(path, v1)
        except InputError:
            continue
        assert found.ids.tolist() == written.ids.tolist()
        assert found.obs.to_pydict() == written.obs.to_pydict()
        same += 1
    assert same < len(KEY) + 16 + 8  # the name of the seal, the size in it, and padding of Arrow


def test_a_sealed_table_that_another_program_wrote_again_is_read(tmp_path, v1):
    cells_of([[2, 3, 4], [5, 6]]).write(tmp_path / "c.dataset")
    stream = tmp_path / "c.dataset" / "data-00000-of-00001.arrow"
    with pa.memory_map(str(stream)) as source:
        held = pa.ipc.open_stream(source).read_all().slice(1)  # with the metadata, and so with the seal
    stream.unlink()
    with pa.ipc.new_stream(str(stream), held.schema) as out:
        out.write_table(held)
    assert Cells.read(tmp_path / "c.dataset", v1).ids.tolist() == [5, 6]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_table_damaged_inside_is_refused(sealed, tmp_path, v1):
    path = tmp_path / "c.parquet"
    rng = np.random.default_rng(0)
    cells_of([rng.permutation(np.arange(2, 150))[:60].tolist() for _ in range(500)]).write(path, sealed=sealed)
    raw = bytearray(path.read_bytes())
    raw[2000:6000] = bytes(4000)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="recorded checksum" if sealed else "truncated or damaged"):
        Cells.read(path, v1)


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.string(), pa.float64(), pa.null()])
def test_lengths_that_are_no_whole_numbers_are_refused(kind, tmp_path, v1):
    held = pa.table({"input_ids": [[5, 6]], "length": pa.array([None], kind)})
    pq.write_table(held, tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"length of .*c.parquet is .*, not whole numbers"):
        Cells.read(tmp_path / "c.parquet", v1)


def test_a_column_twice_is_refused(tmp_path, v1):
    lists = pa.array([[5, 6]], pa.list_(pa.int32()))
    pq.write_table(pa.Table.from_arrays([lists, lists], ["input_ids", "input_ids"]), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="has two columns 'input_ids': rename one"):
        Cells.read(tmp_path / "c.parquet", v1)


# The reference's .dataset folders


@pytest.fixture
def dataset(golden, tmp_path) -> Path:
    return Path(shutil.copytree(golden / "v1" / "cells.dataset", tmp_path / "cells.dataset"))


def test_an_index_file_of_a_dataset_is_obeyed(dataset, v1):
    plain = Cells.read(dataset, v1)
    chosen = pa.table({"indices": pa.array([7, 2, 5], pa.uint64())})
    with pa.ipc.new_stream(str(dataset / "indices.arrow"), chosen.schema) as stream:
        stream.write_table(chosen)
    state = json.loads((dataset / "state.json").read_text())
    (dataset / "state.json").write_text(json.dumps(state | {"_indices_files": [{"filename": "indices.arrow"}]}))
    cells = Cells.read(dataset, v1)
    assert cells.obs.column("cell_id").to_pylist() == [7, 2, 5]
    assert lists_of(cells) == [lists_of(plain)[i] for i in (7, 2, 5)]


def test_a_dataset_in_several_files_reads_in_their_order(dataset, v1):
    state = json.loads((dataset / "state.json").read_text())
    with pa.ipc.open_stream(str(dataset / "data-00000-of-00001.arrow")) as stream:
        whole = stream.read_all().combine_chunks()
    for i, part in enumerate((whole.slice(0, 5), whole.slice(5))):
        with pa.ipc.new_stream(str(dataset / f"part{i}.arrow"), whole.schema) as stream:
            stream.write_table(part)
    state["_data_files"] = [{"filename": f"part{i}.arrow"} for i in (1, 0)]
    (dataset / "state.json").write_text(json.dumps(state))
    assert Cells.read(dataset, v1).obs.column("cell_id").to_pylist() == [*range(5, 12), *range(5)]


def test_a_truncated_dataset_is_refused(dataset, v1):
    file = dataset / "data-00000-of-00001.arrow"
    raw = file.read_bytes()
    file.write_bytes(raw[:-8])  # without its end mark the stream reads as if it were complete
    with pytest.raises(InputError, match="truncated"):
        Cells.read(dataset, v1)
    file.write_bytes(raw[:1000] + raw[-8:])
    with pytest.raises(InputError, match="truncated or damaged"):
        Cells.read(dataset, v1)
    file.unlink()
    with pytest.raises(InputError, match=r"named in state.json but missing"):
        Cells.read(dataset, v1)


def test_folders_that_are_no_dataset_are_refused(dataset, tmp_path, v1):
    (dataset / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"not a .dataset folder"):
        Cells.read(dataset, v1)
    (dataset / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match="several splits"):
        Cells.read(dataset, v1)


# Writing and taking


def test_a_table_survives_its_file(tmp_path, v1):
    cells = cells_of([[5, 6, 7], [8], [9, 10]], tissue=["a", None, "b"], weight=[1.5, 2.5, 3.5])
    cells.write(tmp_path / "c.parquet", v1.vocabulary)
    read = Cells.read(tmp_path / "c.parquet", v1)
    assert lists_of(read) == lists_of(cells)
    assert read.obs.equals(cells.obs)
    schema = pq.read_schema(tmp_path / "c.parquet")
    assert schema.names == ["cell_id", "tissue", "weight", "input_ids", "length"]
    assert (schema.field("input_ids").type, schema.field("length").type) == (pa.list_(pa.int32()), pa.int32())


def test_a_table_tokenized_with_another_vocabulary_is_refused(tmp_path, v1, v2):
    cells_of([[9, 8]]).write(tmp_path / "c.parquet", v1.vocabulary)
    with pytest.raises(InputError, match="tokenized with another vocabulary"):
        Cells.read(tmp_path / "c.parquet", v2)


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "c.parquet"
    cells_of([[5]]).write(path)
    before = path.read_bytes()

    def half() -> None:
        with writing(path) as write:
            write(np.array([5], np.int32), np.array([0, 1]), pa.table({"cell_id": [0]}))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        half()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.parquet"]


@given(st.lists(st.lists(st.integers(2, 99), min_size=1, max_size=6), min_size=1, max_size=12), st.data())
def test_taking_rows_is_indexing_a_list(lists, data):
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=20))
    taken = cells_of(lists).take(rows)
    assert lists_of(taken) == [lists[row] for row in rows]
    assert taken.obs.column("cell_id").to_pylist() == rows


def test_rank_lists_are_views_of_one_array():
    cells = cells_of([[5, 6], [7]])
    assert np.shares_memory(cells.ids_of(1), cells.ids)


# Selecting

TISSUES = cells_of(
    [[5, 6], [7, 5, 9], [6, 8], [5, 6, 7, 8], [9]],
    tissue=["heart", "lung", "heart", None, "heart"],
    donor=[1, 2, 1, 2, 1],
    age=[40.0, 50.0, 60.0, None, 20.0],
)


def test_cells_come_by_falling_length_and_equal_ones_as_they_stood():
    assert select(TISSUES).tolist() == [3, 1, 0, 2, 4]


def test_a_condition_may_use_any_column_and_the_length():
    assert select(TISSUES, where="tissue = 'heart' AND length > 1").tolist() == [0, 2]
    assert select(TISSUES, where="age IS NULL OR age < 30 -- why not").tolist() == [3, 4]


def test_states_are_compared_whole_and_as_text():
    assert select(TISSUES, state_key="tissue", start="heart").tolist() == [0, 2, 4]
    assert select(TISSUES, state_key="donor", start="2").tolist() == [3, 1]
    with pytest.raises(
        InputError, match=r"no cell has tissue = 'hear' \(0 of 5\): the states are heart \(3\), lung \(1\)"
    ):
        select(TISSUES, state_key="tissue", start="hear")


def test_states_may_be_categories_truth_values_or_numbers():
    obs = {"cat": pa.array(["a", "b", "a"]).dictionary_encode(), "sick": [True, False, None], "batch": [1.0, 2.0, 1.0]}
    cells = cells_of([[5], [6], [7]], **obs)
    assert select(cells, state_key="cat", start="a").tolist() == [0, 2]
    assert select(cells, state_key="sick", start="True").tolist() == [0]
    assert select(cells, state_key="batch", start="1").tolist() == [0, 2]


def test_cells_must_hold_all_the_genes():
    assert select(TISSUES, contains=[5]).tolist() == [3, 1, 0]
    assert select(TISSUES, contains=[6, 8]).tolist() == [3, 2]


def test_the_sample_is_the_references():
    """Five qualifying cells, three wanted: permutation 4 2 3 1 0, then equal lengths stay in that order (PS E14)."""
    same = cells_of([[5], [6], [7], [8], [9]])
    assert select(same, max_cells=3).tolist() == [4, 2, 3]
    assert select(same, max_cells=5).tolist() == [0, 1, 2, 3, 4]


def test_the_sample_is_drawn_from_cells_that_already_qualify():
    lists = [[5, 6] if i % 2 else [7] for i in range(10)]
    assert select(cells_of(lists), contains=[5], max_cells=3).tolist() == [9, 5, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "colour = 'red'"}, "colour.* not found.*the columns are cell_id, tissue, donor, age, length"),
        ({"where": "age > 99"}, r"no cell is left after --where 'age > 99' \(0 of 5\)"),
        ({"where": "tissue ="}, "syntax error"),
        ({"where": "true); DROP TABLE cells; --"}, "--where"),
        ({"where": "true) UNION ALL SELECT 4 WHERE (true"}, "--where .*syntax error"),
        ({"where": "true UNION SELECT 4"}, "--where"),
        ({"where": "true; SELECT 4"}, "--where"),
        ({"where": "true) ORDER BY (1"}, "--where"),
        ({"where": "true) FROM (SELECT 1"}, "--where"),
        ({"where": "true FROM cells"}, "--where"),
        ({"where": "age > 1, age > 2"}, "--where"),
        ({"where": "donor IN (SELECT 1 FROM read_csv('/etc/hostname'))"}, "disabled by configuration"),
        (
            {"state_key": "colour", "start": "red"},
            "--state-key 'colour' is not a column: the columns are cell_id, tissue",
        ),
        ({"state_key": "tissue"}, "belong together"),
        ({"contains": [5, 42]}, r"hold token 42, a perturbed gene \(0 of 3\)"),
        ({"where": "donor = 2", "state_key": "tissue", "start": "heart"}, r"\(0 of 2\): the states are lung \(1\)"),
        ({"max_cells": 0}, "--max-cells is 0"),
    ],
)
def test_a_selection_that_leaves_nothing_says_why(options, message):
    with pytest.raises(InputError, match=message):
        select(TISSUES, **options)
