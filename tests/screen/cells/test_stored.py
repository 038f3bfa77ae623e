"""Cells that are not in memory are the cells of the table: read in any order, prepared, and taken by workers."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells import ragged, stored
from rankshift.screen.cells.cells import Cells, blocks
from rankshift.screen.cells.ragged import Tokens, offsets_of
from rankshift.screen.cells.stored import ChosenCells, SpooledCells, StoredCells
from rankshift.screen.engine import write
from rankshift.screen.engine.screener import Screener, load_encoder, run
from rankshift.screen.errors import InputError
from rankshift.screen.files.object_store import Mirror
from rankshift.screen.runs.shards import plan
from support import GOLDEN, ROWS, SCREEN

CELLS = GOLDEN / "v1/cells.parquet"


@pytest.fixture(scope="module")
def v1(bundles) -> Bundle:
    return Bundle.open(bundles["v1"])


def spool(patch: pytest.MonkeyPatch) -> None:
    """No token stays in memory, and blocks are of a few cells."""
    patch.setattr(stored, "MEMORY", 0)
    patch.setattr(blocks, "__defaults__", (None, 5))
    patch.setattr(write, "GROUP", 3)


@pytest.fixture
def spooling(monkeypatch) -> None:
    spool(monkeypatch)


def refillable(path: Path, bundle: Bundle, cells: int = 7) -> Path:
    """A table whose cells have from no to four genes below the limit."""
    genes = np.flatnonzero(bundle.vocabulary.is_gene)
    whole = [np.random.default_rng(i).permutation(genes)[: 20 + i % 5].tolist() for i in range(cells)]
    kind = pa.list_(pa.int32())
    columns = {"input_ids": pa.array([w[:20] for w in whole], kind), "input_ids_uncropped": pa.array(whole, kind)}
    pq.write_table(pa.table({"cell_id": [f"c{i}" for i in range(cells)], **columns}), path)
    return path


def same(one: Cells, two: Cells) -> bool:
    """The same lists, annotations, and genes below the limit?"""
    below = [x.below.ids.tolist() + x.below.offsets.tolist() if x.below is not None else None for x in (one, two)]
    arrays = np.array_equal(one.ids, two.ids) and np.array_equal(one.offsets, two.offsets)
    return arrays and one.obs.equals(two.obs) and one.frame == two.frame and below[0] == below[1]


# Tokens in a file


@given(
    lists=st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=20),
    most=st.sampled_from([None, 0, 40]),
    size=st.sampled_from([100, 70_000]),
    data=st.data(),
)
def test_lists_come_back_in_any_order_wherever_they_are_held(lists, most, size, data):
    tokens = Tokens(size, most)
    for one in lists:
        tokens.append(np.array(one, np.int32))
    assert len(tokens) == sum(map(len, lists))
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=12))
    offsets = offsets_of(np.array([len(one) for one in lists]))
    found = tokens.lists(offsets[rows], np.array([len(lists[row]) for row in rows], np.int64))
    assert found.tolist() == [token for row in rows for token in lists[row]]
    assert found.dtype == np.int32


def test_a_disk_that_is_full_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(ragged.tempfile, "TemporaryFile", partial(Path("/dev/full").open, "wb"))
    with pytest.raises(InputError, match=r"0\.0 GB of cells do not fit into .*No space left.*set TMPDIR"):
        Tokens(100, 0).append(np.arange(9, dtype=np.int32))


# Tables that are read


@pytest.mark.parametrize("below", [False, True])
def test_a_table_that_is_not_held_in_memory_has_the_same_cells(below, v1, tmp_path, spooling):
    paths = [refillable(tmp_path / "a.parquet", v1), refillable(tmp_path / "b.parquet", v1, 4)]
    for path in (CELLS, paths[0], paths):
        wanted = Cells.read(path, v1, below=below)
        found = SpooledCells.read(path, v1, below=below)
        assert found.notes == wanted.notes
        assert found.lengths.tolist() == wanted.lengths.tolist()
        for rows in (np.arange(len(wanted)), [3, 0, 0, 2], []):
            assert same(found.take(rows), wanted.take(rows))
        chosen = ChosenCells(table=found, rows=np.array([5, 2]), refill=2 if below else None)
        assert chosen.ids_of(1).tolist() == wanted.ids_of(2).tolist()
        counts = [0, 0] if wanted.below is None else np.minimum(wanted.below.counts[[5, 2]], 2).tolist()
        assert [chosen.below_of(0), chosen.below_of(1)] == counts


@pytest.mark.slow
def test_a_screen_of_cells_that_are_not_held_writes_the_same_files(v1, tmp_path, spooling, monkeypatch):
    """The rows of 12 cells in blocks of 5, against those of a screen that holds all of them."""
    table = refillable(tmp_path / "below.parquet", v1)
    genes = [v1.vocabulary.gene_of[int(token)] for token in Cells.read(CELLS, v1).ids_of(0)[:3]]
    state = {"state_key": "disease", "start": "nf", "goal": "dcm"}
    screens = {
        "states": (CELLS, {"perturb": "delete", **state}),
        "where": (CELLS, {"perturb": "activate", "rank_shift": 1, "where": "length > 30", "max_cells": 5}),
        "by": (CELLS, {"perturb": "inhibit", "to": 1.0, "gene_shifts": True, "by": "disease"}),
        "together": (CELLS, {"perturb": "delete", "how": "together", "genes": genes[:2]}),
        "anchor": (CELLS, {"perturb": "overexpress", "how": "pairs", "anchor": genes[0]}),
        "refill": (table, {"perturb": "delete", "refill": True}),
    }
    for name, (cells, options) in screens.items():
        run(cells, v1.path, tmp_path / name / "spooled", dtype="float32", shard_tokens=600, **options)
    monkeypatch.undo()
    for name, (cells, options) in screens.items():
        run(cells, v1.path, tmp_path / name / "held", dtype="float32", shard_tokens=600, **options)
        one, two = (_parts(tmp_path / name / how) for how in ("spooled", "held"))
        assert one == two, name
        one, two = (pq.read_table(tmp_path / name / how / "cells.parquet") for how in ("spooled", "held"))
        assert one.equals(two), name


def _parts(run: Path) -> dict[str, str]:
    """sha256 of every Parquet file but that of the cells, whose row groups differ; and of the cells, what was recorded."""
    files = [path for path in run.rglob("*.parquet") if path.name != "cells.parquet"]
    found = {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found | {"cells": json.loads((run / "run.json").read_text())["cells"]["sha256"]}


# Workers


@pytest.fixture(scope="module")
def quiet(v1, tmp_path_factory) -> Path:
    """A complete run of several row groups, that nobody touches."""
    with pytest.MonkeyPatch.context() as patch:
        spool(patch)
        return run(CELLS, v1.path, tmp_path_factory.mktemp("quiet") / "run", **SCREEN).path


@pytest.fixture
def prepared(quiet, v1, tmp_path, spooling) -> Screener:
    """A copy of it, for tests that damage what they read."""
    return Screener.open(shutil.copytree(quiet, tmp_path / "run"), v1)


def test_a_run_is_read_by_row_groups(prepared, v1):
    wanted = Cells.read(prepared.run.path / "cells.parquet", v1)
    assert pq.ParquetFile(prepared.run.path / "cells.parquet").num_row_groups == 4
    rows = [11, 0, 1, 2, 3, 4, 4]
    assert same(prepared.cells.take(rows), wanted.take(rows))
    assert same(prepared.cells.take([]), wanted.take([]))
    assert [prepared.cells.ids_of(i).tolist() for i in range(12)] == [wanted.ids_of(i).tolist() for i in range(12)]
    assert prepared.cells.lengths.tolist() == wanted.lengths.tolist()
    assert prepared.cells.obs.equals(wanted.obs)
    assert len(prepared.cells) == 12


def test_what_was_counted_and_planned_is_read_and_not_counted_again(prepared, v1, monkeypatch):
    path = prepared.run.path
    counts, shards = prepared.counts, list(prepared.shards)
    assert counts.tolist() == prepared.cells.lengths.tolist()  # one deletion for every gene
    assert shards == list(plan(counts, prepared.cells.lengths, SCREEN["shard_tokens"]))
    assert prepared.shards[-1] == shards[-1]
    assert prepared.shards[1:3] == shards[1:3]
    for name in ("lists.parquet", "shards.parquet"):  # a run of before
        (path / name).unlink()
    record = json.loads((path / "run.json").read_text())
    record["files"] = {name: found for name, found in record["files"].items() if (path / name).is_file()}
    (path / "run.json").write_text(json.dumps(record))
    old = Screener.open(path, v1)
    assert old.counts.tolist() == counts.tolist()
    assert list(old.shards) == shards


def test_a_worker_reads_the_cells_of_its_shard_alone(prepared, v1):
    """The last row group is damaged: who computes the first shard does not notice, who computes the last one says so."""
    place = prepared.run.path / "cells.parquet"
    column = pq.read_metadata(place).row_group(3).column(3)
    data = bytearray(place.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 0xFF
    place.write_bytes(data)
    worker = Screener.open(prepared.run.path, v1, whole=False)
    encoder = load_encoder(worker.run, v1)
    assert worker.compute(prepared.shards[0], encoder) == prepared.shards[0].lists
    with pytest.raises(InputError, match="truncated or damaged"):
        worker.compute(prepared.shards[-1], encoder)
    with pytest.raises(InputError, match=r"cells\.parquet does not have its recorded sha256"):
        Screener.open(prepared.run.path, v1)


def test_cells_of_another_frame_or_vocabulary_are_refused(prepared, v1, bundles):
    v2 = Bundle.open(bundles["v2"])
    place = prepared.run.path / "cells.parquet"
    with pytest.raises(InputError, match="another vocabulary"):
        StoredCells.open(place, v2, v1.frame_tokens.frame)
    with pytest.raises(InputError, match="other cells than were prepared"):
        StoredCells.open(place, v1, v2.frame_tokens.frame).ids_of(0)
    place.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        StoredCells.open(place, v1, v1.frame_tokens.frame)


def test_a_worker_of_a_bucket_fetches_no_table_of_cells(v1, bucket, alone, tmp_path, monkeypatch, spooling):
    run(CELLS, v1.path, f"{bucket}/run", **SCREEN)
    monkeypatch.setenv("RANKSHIFT_MIRRORS", str(tmp_path / "elsewhere"))
    worker = Screener.open(f"{bucket}/run", v1, whole=False)
    for shard in worker.shards[:2]:
        worker.compute(shard, load_encoder(worker.run, v1))
    mirror = Mirror.of(f"{bucket}/run")
    assert mirror is not None
    assert not (mirror.local / "cells.parquet").exists()
    assert worker.run.sql(ROWS).equals(alone)
