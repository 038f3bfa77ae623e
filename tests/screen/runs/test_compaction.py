"""Compaction: the same rows in order, few files; killed at any moment, nothing changes for a query or a resume."""

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import drawn_runs
from rankshift.screen.errors import InputError
from rankshift.screen.runs import compaction, sums
from rankshift.screen.runs.compacted import INDEX, generations
from rankshift.screen.runs.compaction import compact
from rankshift.screen.runs.layout import COMMITS, COMPACTED, GENES, SHIFTS, part_path
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.aggregate_tables import cell_rows
from support import Halt

SHARDS, CELLS, PER_CELL = 6, 60, 40
KILLS = int(os.environ.get("RANKSHIFT_KILLS", "25"))  # 200 by hand


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    patch = pytest.MonkeyPatch()
    patch.setattr(drawn_runs, "ROWS", CELLS // SHARDS * PER_CELL)
    path = tmp_path_factory.mktemp("drawn") / "run"
    drawn_runs.Draw(cells=CELLS, genes=80, per_cell=PER_CELL, affected=50).run(path)
    patch.undo()
    return path


@pytest.fixture
def run(drawn, tmp_path) -> Run:
    shutil.copytree(drawn, tmp_path / "run")
    return Run.open(tmp_path / "run")


def rows(run: Run) -> tuple[pa.Table, pa.Table]:
    """All that queries can see of a run's measurements, in an order of its own."""
    return (
        run.sql("SELECT * FROM shifts ORDER BY cell, perturbation"),
        run.sql("SELECT * FROM genes ORDER BY ALL"),
    )


def uncommit(run: Run, *shards: int) -> None:
    for shard in shards:
        (run.path / COMMITS / f"shard-{shard:06d}.json").unlink()


def written(run: Run, folder: str) -> list[Path]:
    return sorted((run.path / COMPACTED).glob(f"{folder}-*.parquet"))


def test_the_rows_are_the_same_and_sorted(run):
    before = rows(run)
    done = compact(run)
    assert (done.shards, done.rows, done.files) == (SHARDS, CELLS * PER_CELL, 2)
    assert COMPACTED in run.views
    assert "shard-0" not in run.views
    assert all(a.equals(b) for a, b in zip(rows(run), before, strict=True))
    (file,) = written(run, SHIFTS)
    table = pq.read_table(file)
    parts = pa.concat_tables([pq.read_table(part_path(run.path, f"shard-{i:06d}")) for i in range(SHARDS)])
    assert table.equals(parts.sort_by([("perturbation", "ascending"), ("cell", "ascending")]))
    (genes,) = written(run, GENES)
    assert pq.read_table(genes)["perturbation"].to_pylist() == sorted(pq.read_table(genes)["perturbation"].to_pylist())


def test_files_and_row_groups_are_bounded_and_know_what_they_hold(run, monkeypatch):
    monkeypatch.setattr(compaction, "GROUP_ROWS", 2048)  # rows come in vectors of so many
    monkeypatch.setattr(compaction, "FILE_ROWS", 2048)
    before = rows(run)
    compact(run)
    first, second = written(run, SHIFTS)
    assert [pq.read_metadata(file).num_rows for file in (first, second)] == [2048, CELLS * PER_CELL - 2048]
    ranges = []
    for file in (first, second):
        about = pq.read_metadata(file).row_group(0).column(1)
        assert about.path_in_schema == "perturbation"
        ranges.append((about.statistics.min, about.statistics.max))
    assert ranges[0][1] <= ranges[1][0]
    assert all(a.equals(b) for a, b in zip(rows(run), before, strict=True))


def test_rows_are_those_of_files_whose_ranges_are_read_and_of_files_whose_are_not(run, monkeypatch):
    query = "SELECT gene_ids, cell_id, similarity FROM shifts ORDER BY ALL"
    monkeypatch.setattr(compaction, "GROUP_ROWS", 2048)
    monkeypatch.setattr(compaction, "FILE_ROWS", 2048)
    compact(run)
    known = run.sql(query)
    assert len(run.files(SHIFTS, run.queried)) > 1
    assert "union_by_name" in run.views
    monkeypatch.setattr("rankshift.screen.runs.views.KNOWN_FILES", 0)
    assert "union_by_name" not in run.views
    assert known.num_rows == sum(marker["rows"] for marker in run.committed.values())
    assert run.sql(query).equals(known)


def test_doing_it_again_writes_nothing(run):
    compact(run)
    before = {path: path.stat().st_mtime_ns for path in (run.path / COMPACTED).rglob("*.*")}
    assert compact(run).shards == 0
    assert {path: path.stat().st_mtime_ns for path in (run.path / COMPACTED).rglob("*.*")} == before


@pytest.mark.slow
def test_a_run_that_goes_on_is_compacted_in_generations(run):
    """Five of six shards, then the last: a generation of its own, because the first is far longer."""
    whole = rows(run)
    last = run.path / COMMITS / "shard-000005.json"
    marker = last.read_text()
    last.unlink()
    compact(run)
    partial = rows(run)
    assert partial[0].num_rows == CELLS * PER_CELL * 5 // 6
    last.write_text(marker)  # what a resume does
    assert all(a.equals(b) for a, b in zip(rows(run), whole, strict=True))
    assert f"{SHIFTS}/shard-000005" in run.views
    assert compact(run).shards == 1
    assert [len(one.shards) for one in generations(run.path)] == [5, 1]
    assert all(a.equals(b) for a, b in zip(rows(run), whole, strict=True))


def test_generations_of_one_size_become_one(run):
    whole = rows(run)
    markers = {name: (run.path / COMMITS / name).read_text() for name in os.listdir(run.path / COMMITS)}
    uncommit(run, 3, 4, 5)
    compact(run)
    for name, text in markers.items():
        (run.path / COMMITS / name).write_text(text)
    compact(run)
    assert [len(one.shards) for one in generations(run.path)] == [6]
    assert all(a.equals(b) for a, b in zip(rows(run), whole, strict=True))


def test_what_the_index_named_before_stays_for_queries_under_way(run):
    uncommit(run, 5)
    compact(run)
    (old,) = written(run, SHIFTS)
    with run.connect() as connection:
        marker = run.path / COMMITS / "shard-000004.json"
        marker.unlink()
        assert compact(run).shards == 4
        count = connection.execute("SELECT count(*) FROM shifts").fetchone()
    assert count == (CELLS * PER_CELL * 5 // 6,)
    assert old.exists()


def test_a_shard_that_is_not_committed_any_more_has_no_rows(run):
    compact(run)
    uncommit(run, 2)
    assert run.sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist() == [CELLS * PER_CELL * 5 // 6]
    assert "shard-000002" not in run.committed


def test_a_shard_committed_anew_is_read_from_its_part(run):
    """Its rows need not be those that were compacted: another device may have computed them."""
    compact(run)
    part = part_path(run.path, "shard-000002")
    table = pq.read_table(part)
    changed = table.set_column(2, "similarity", pa.array([0.25] * table.num_rows, pa.float32()))
    pq.write_table(changed, part)
    marker = run.path / COMMITS / "shard-000002.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "device": "another"}))
    drawn_runs.sealed(run)
    assert run.sql("SELECT count(*) AS n FROM shifts WHERE similarity = 0.25")["n"].to_pylist() == [table.num_rows]
    compact(run)
    assert run.sql("SELECT count(*) AS n FROM shifts WHERE similarity = 0.25")["n"].to_pylist() == [table.num_rows]
    assert "shard-0" not in run.views


def test_without_its_files_the_parts_are_read(run):
    before = rows(run)
    compact(run)
    written(run, SHIFTS)[0].unlink()
    assert all(a.equals(b) for a, b in zip(rows(run), before, strict=True))
    compact(run)
    assert "shard-0" not in run.views
    assert all(a.equals(b) for a, b in zip(rows(run), before, strict=True))


def test_where_its_files_are_damaged_the_parts_are_read(run):
    before = rows(run)
    compact(run)
    victim = written(run, SHIFTS)[0]
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 4
    victim.write_bytes(raw)
    assert "shard-000000" in run.views
    assert all(a.equals(b) for a, b in zip(rows(run), before, strict=True))
    compact(run)
    assert "shard-000000" not in run.views


def test_queries_hold_against_sums_what_they_read(run):
    """Not the parts of which the sorted copy has all rows: whoever reads these is told."""
    before = rows(run)
    compact(run)
    victim = part_path(run.path, "shard-000002")
    victim.write_bytes(victim.read_bytes()[:-9])
    assert all(a.equals(b) for a, b in zip(rows(run), before, strict=True))
    with pytest.raises(InputError, match=r"shard-000002\.parquet is gone or cannot be read"):
        cell_rows(run, published=True).read_all()


def test_what_the_compaction_has_read_is_not_read_again_to_be_checked(run, monkeypatch):
    """A bit that a disk has turned leaves the time of the file as it is."""
    monkeypatch.setattr(compaction, "TICK", -(10**12))  # as if the files had been there for long
    compact(run)
    victim = written(run, SHIFTS)[0]
    about = victim.stat()
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 4
    victim.write_bytes(raw)
    assert "shard-0" in run.views, "another time, another file: the parts are read"
    os.utime(victim, ns=(about.st_atime_ns, about.st_mtime_ns))
    monkeypatch.setattr(sums, "_known", {})  # as of a new process
    assert "shard-0" not in run.views
    (one,) = generations(run.path)
    assert one.damage(run.path, whole=True) == f"{victim.name} does not have its recorded sha256"  # what verify asks


def test_an_index_of_before_sums_were_kept_is_read(run):
    compact(run)
    index = run.path / COMPACTED / INDEX
    told = json.loads(index.read_text())
    for one in told["generations"]:
        del one["sums"]
    index.write_text(json.dumps(told))
    assert "shard-000000" not in run.views


def test_a_copied_run_is_compacted_still(run, tmp_path):
    """Its markers have other inodes and times there, and say the same."""
    compact(run)
    shutil.copytree(run.path, tmp_path / "copy", copy_function=shutil.copyfile)
    assert "shard-0" not in Run.open(tmp_path / "copy").views


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 1}', '{"version": 1, "generations": [3]}', '{"version": 2}', ""]
)
def test_a_damaged_index_is_one_line_that_says_what_to_do(run, text):
    compact(run)
    (run.path / COMPACTED / INDEX).write_text(text)
    with pytest.raises(InputError, match=r"index.json cannot be read .*: remove .*compacted, the parts have all rows"):
        run.sql("SELECT count(*) FROM shifts")


def test_tables_that_keep_the_order_of_processing_keep_it(run):
    before = cell_rows(run, published=True).read_all()
    compact(run)
    assert cell_rows(run, published=True).read_all().equals(before)


def test_two_at_once_are_refused(run):
    compact(run)
    with (run.path / COMPACTED / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being compacted by another process"):
            compact(run)


class Killed(BaseException):
    """Stands for the end of a process."""


class Steps:
    """Counts what a block does to the files of a run, and from step `last` on lets nothing happen any more.

    Neither that step nor any that tidies up behind it: on the disk it is as if the process had been killed there.
    """

    def __init__(self) -> None:
        self._path, self._last, self.count = "", 0, 0

    def watch(self, event: str, arguments: tuple) -> None:
        """An audit hook, which cannot be taken back: it does nothing but in `within`."""
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree") or (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        )
        # What is removed within an open folder is named without it.
        if self._path and changes and (self._path in str(arguments[0]) or not os.path.isabs(str(arguments[0]))):
            self.count += 1
            if self.count > self._last:
                raise Killed

    @contextmanager
    def within(self, path: Path, last: int) -> Iterator[None]:
        self._path, self._last, self.count = str(path.resolve()), last, 0
        try:
            yield
        finally:
            self._path = ""


@pytest.fixture(scope="module")
def steps() -> Steps:
    made = Steps()
    sys.addaudithook(made.watch)
    return made


def _dies(run: Run, steps: Steps, last: int) -> bool:
    """Compact, and die after so many changes; False where it was done before."""
    try:
        with steps.within(run.path, last):
            compact(Run.open(run.path))
    except Killed:
        return True
    return False


def _begin_with(run: Run, kept: dict[str, str], compacted: set[str]) -> None:
    """A run whose shards are all there, and of which these are compacted in one generation; none: nothing is."""
    shutil.rmtree(run.path / COMPACTED, ignore_errors=True)
    for name in kept.keys() - compacted:
        (run.path / COMMITS / f"{name}.json").unlink()
    if compacted:
        compact(Run.open(run.path))
    for name, text in kept.items():
        if name not in compacted:
            (run.path / COMMITS / f"{name}.json").write_text(text)


def _markers(run: Run) -> dict[str, str]:
    return {name: (run.path / COMMITS / f"{name}.json").read_text() for name in run.done}


def _same(run: Run, whole: tuple[pa.Table, pa.Table], kept: dict[str, str]) -> None:
    """Queries see the same rows, and a resume the same shards."""
    assert all(a.equals(b) for a, b in zip(rows(run), whole, strict=True))
    assert _markers(run) == kept


@pytest.mark.slow
@pytest.mark.parametrize("there", [0, 3], ids=["first", "merged"])
def test_killed_before_any_change_it_makes_nothing_changes(run, steps, there):
    """First with nothing compacted, then with a generation there that is to be merged."""
    whole, kept = rows(run), _markers(run)
    last = 0
    _begin_with(run, kept, set(sorted(kept)[:there]))
    while _dies(run, steps, last):
        _same(run, whole, kept)
        last += 1
        _begin_with(run, kept, set(sorted(kept)[:there]))
    assert last > 8, "a compaction makes its folder, opens its lock, writes two sorted files and the index"
    _same(run, whole, kept)
    compact(run)
    assert not list((run.path / COMPACTED).glob(".*.tmp"))


@pytest.mark.slow
def test_killed_again_and_again_nothing_changes(run, steps):
    """What one has left behind meets the next. Shards compacted before and the moment of the end are drawn."""
    whole, kept = rows(run), _markers(run)
    drawn = random.Random(0)
    for _ in range(KILLS):
        if drawn.random() < 0.3:
            _begin_with(run, kept, set(drawn.sample(sorted(kept), drawn.randrange(SHARDS))))
        _dies(run, steps, drawn.randrange(30))
        _same(run, whole, kept)
    compact(run)
    assert "shard-0" not in run.views
    _same(run, whole, kept)


@pytest.mark.slow
def test_a_process_that_is_killed_as_the_index_takes_its_place_changes_nothing(run):
    whole, kept = rows(run), _markers(run)
    halt = Halt(run.path.resolve() / COMPACTED / INDEX)
    program = (
        "import sys; from rankshift.screen.runs.compaction import compact; from rankshift.screen.runs.run import Run; "
    )
    process = subprocess.Popen([sys.executable, "-c", f"{program}compact(Run.open(sys.argv[1]))", str(run.path)])
    assert halt.wait() == process.pid
    _same(run, whole, kept)
    process.kill()
    process.wait()
    halt.lift()
    _same(run, whole, kept)
    compact(run)
    assert not list((run.path / COMPACTED).glob(".*.tmp"))
    _same(run, whole, kept)
