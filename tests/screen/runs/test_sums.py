"""What a run has written is held against its checksums: damage is told, never read, and what was lost is computed again."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

from drawn_runs import Draw
from rankshift.screen.engine.screener import run as screen
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import _machine, sweep
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sums import mend
from rankshift.screen.stats import statistics
from support import GOLDEN, ROWS, SCREEN

CELLS = GOLDEN / "v1/cells.parquet"


@pytest.fixture(scope="module")
def quiet(bundles, tmp_path_factory):
    """A complete run of several shards with gene shifts, that nobody touches."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    return screen(CELLS, bundles["v1"], out, gene_shifts=True, **SCREEN)


@pytest.fixture
def copy(quiet, tmp_path):
    return Run.open(shutil.copytree(quiet.path, tmp_path / "run"))


def flip(path, place: float):
    raw = bytearray(path.read_bytes())
    raw[int(place * (len(raw) - 1))] ^= 1
    path.write_bytes(raw)


FILES = (
    "shifts/shard-000001.parquet",
    "genes/shard-000000.parquet",
    "perturbations.parquet",
    "cells.parquet",
    "vocabulary.parquet",
)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_of_any_file_is_told(name, place, copy):
    flip(copy.path / name, place)
    with pytest.raises(InputError, match=f"{name} does not have its recorded sha256|{name} .*cannot be read"):
        copy.sql("SELECT count(*) FROM shifts")


def test_a_bit_that_flips_while_a_process_has_the_run_open_is_told(copy):
    copy.sql("SELECT count(*) FROM shifts")
    flip(copy.path / FILES[0], 0.5)
    with pytest.raises(InputError, match="recorded sha256"):
        statistics(copy, "aggregate")


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def dangling(path):
    path.unlink()
    path.symlink_to("/nowhere")


def folder(path):
    path.unlink()
    path.mkdir()


LOSSES = {
    "gone": lambda path: path.unlink(), "empty": empty, "cut": cut, "bit": lambda path: flip(path, 0.4),
    "folder": folder, "dangling": dangling,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["shifts/shard-000001.parquet", "commits/shard-000001.json"])
def test_a_lost_part_or_marker_is_told_and_computed_again(name, loss, copy, quiet, bundles):
    if (name, loss) == ("commits/shard-000001.json", "bit"):
        loss = "cut"  # one bit of a marker may be one of a time, which nothing depends on
    LOSSES[loss](copy.path / name)
    if (name, loss) != ("commits/shard-000001.json", "gone"):
        with pytest.raises(InputError, match="shard-000001"):
            copy.sql("SELECT count(*) FROM shifts")
    again = screen(CELLS, bundles["v1"], copy.path, gene_shifts=True, resume=True, **SCREEN)
    assert again.sql(f"SELECT * {ROWS}").equals(quiet.sql(f"SELECT * {ROWS}"))
    assert again.complete


@pytest.mark.parametrize("rows", [7, -7, "12", float("nan"), 10**12, 0.5, None, True])
def test_a_marker_that_does_not_fit_its_part_is_refused(rows, copy):
    place = copy.path / "commits/shard-000000.json"
    marker = json.loads(place.read_text())
    marker["rows"] = marker["rows"] + rows if rows in (7, -7, 0.5) else rows
    place.write_text(json.dumps(marker))
    for ask in (lambda: copy.sql("SELECT count(*) FROM shifts"), lambda: statistics(copy, "aggregate")):
        with pytest.raises(InputError, match=r"shard-000000.*--resume"):
            ask()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", "{}".encode("utf-16"), b"[" * 100_000, b"\xff\xfe\x00"])
def test_a_marker_of_anything_else_is_refused_in_a_line(content, copy):
    (copy.path / "commits/shard-000000.json").write_bytes(content)
    with pytest.raises(InputError, match=r"shard-000000\.json") as refusal:
        copy.sql("SELECT count(*) FROM shifts")
    assert "\n" not in str(refusal.value)


def test_a_marker_without_a_part_is_told(copy):
    (copy.path / "commits/shard-000999.json").write_text('{"shard": "shard-000999", "rows": 3}')
    with pytest.raises(InputError, match=r"shifts/shard-000999\.parquet is gone"):
        copy.sql("SELECT count(*) FROM shifts")


def test_runs_of_before_checksums_were_kept_are_read():
    old = Run.open(GOLDEN / "run_v1")
    assert "files" not in old.manifest.more
    assert old.sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist() == [old.manifest.lists]


def test_temporary_files_of_processes_that_are_gone_are_cleared(tmp_path):
    Draw(cells=10, genes=20, per_cell=10).run(tmp_path / "run")
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout
    shifts = tmp_path / "run/shifts"
    dead = shifts / f".shard-000007.parquet.{_machine()}-{int(gone)}-0123abcd.tmp"
    mine = shifts / f".shard-000008.parquet.{_machine()}-{os.getpid()}-0123abcd.tmp"
    elsewhere = shifts / ".shard-000009.parquet.00000000-1-0123abcd.tmp"
    for path in (dead, mine, elsewhere):
        path.write_text("half")
    assert mend(tmp_path / "run") == {}
    assert (dead.exists(), mine.exists(), elsewhere.exists()) == (False, True, True)
    os.utime(elsewhere, (0, 0))
    sweep(shifts)
    assert not elsewhere.exists()


def test_sums_hold_for_tables_that_pyarrow_writes_again(copy):
    """What a marker records is of bytes, not of values: the same rows written otherwise are another file."""
    import pyarrow.parquet as pq

    part = copy.path / FILES[0]
    table = pq.read_table(part)
    pq.write_table(pa.table(table), part, compression="none")
    assert pq.read_table(part).equals(table)
    with pytest.raises(InputError, match="recorded sha256"):
        copy.sql("SELECT count(*) FROM shifts")
