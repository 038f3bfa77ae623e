"""Markers: what is committed is what the folder holds now, in the order of the shards, and a changed marker is read again."""

import json
import math
import os
from pathlib import Path

import pytest

from drawn_runs import Draw
from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import COMMITS, EMPTY_PART
from rankshift.screen.runs.markers import committed, committed_names, in_order
from rankshift.screen.runs.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / COMMITS).mkdir()
    return tmp_path


def mark(run: Path, name: str, **marker: object) -> None:
    """Write a marker as a commit does: beside, then renamed."""
    (run / "new").write_text(json.dumps(marker))
    os.replace(run / "new", run / COMMITS / f"{name}.json")


def test_every_reading_sees_what_is_committed_now(folder: Path) -> None:
    assert committed(folder) == {}
    mark(folder, "shard-000001", rows=5)
    assert committed(folder) == {"shard-000001": {"rows": 5}}
    mark(folder, "shard-000000", rows=7)
    assert list(committed(folder)) == ["shard-000000", "shard-000001"]
    (folder / COMMITS / "shard-000001.json").unlink()
    assert committed(folder) == {"shard-000000": {"rows": 7}}
    assert committed_names(folder) == {"shard-000000"}


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -1.0, "1", True])
def test_seconds_that_are_no_time_are_refused(seconds, folder: Path) -> None:
    mark(folder, "shard-000000", rows=5, encode_seconds=seconds)
    with pytest.raises(InputError, match=r"shard-000000.json is damaged"):
        committed(folder)


def test_a_marker_written_again_is_read_again(folder: Path) -> None:
    mark(folder, "shard-000000", rows=5)
    before = committed(folder)
    mark(folder, "shard-000000", rows=6)
    assert committed(folder) == {"shard-000000": {"rows": 6}}
    assert before == {"shard-000000": {"rows": 5}}


def test_a_marker_that_did_not_change_is_not_read_again(folder: Path) -> None:
    mark(folder, "shard-000000", rows=5)
    first = committed(folder)["shard-000000"]
    mark(folder, "shard-000001", rows=5)
    assert committed(folder)["shard-000000"] is first


def test_files_of_writers_that_died_are_no_markers(folder: Path) -> None:
    (folder / COMMITS / ".shard-000000.json.1234.tmp").write_text("{")
    assert committed(folder) == {}
    assert committed_names(folder) == set()


def test_no_folder_no_markers(tmp_path: Path) -> None:
    assert committed(tmp_path) == {}
    assert committed_names(tmp_path) == set()


def test_shards_beyond_a_million_come_last() -> None:
    names = [f"shard-{i:06d}" for i in (0, 99_999, 100_000, 999_999, 1_000_000, 1_000_001, 10_000_000)]
    assert in_order(set(names)) == names


def test_views_name_the_empty_part_only_where_there_is_no_other(tmp_path: Path) -> None:
    run, _ = Draw(cells=10, genes=20, per_cell=5, affected=3).run(tmp_path / "run")
    assert f"{EMPTY_PART}.parquet" not in run.views
    for marker in (run.path / COMMITS).iterdir():
        marker.unlink()
    assert run.views.count(f"{EMPTY_PART}.parquet") == 2
    for view in ("shifts", "genes"):
        assert Run.open(run.path).sql(f"SELECT count(*) AS n FROM {view}")["n"].to_pylist() == [0]
