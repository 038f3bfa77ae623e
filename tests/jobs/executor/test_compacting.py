"""A run that is compacted while it is computed: the same rows, whatever becomes of the process that sorts them."""

import fcntl

import pytest

from rankshift.jobs.executor import compacting
from rankshift.jobs.executor.compacting import Compacting
from rankshift.jobs.executor.local import Local
from rankshift.jobs.executor.shard_work import fan_out
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener
from rankshift.screen.runs.compacted import INDEX, generations
from rankshift.screen.runs.layout import COMPACTED
from rankshift.screen.runs.run import Run
from support import GOLDEN, ROWS, SCREEN, Halt, alive

CELLS = GOLDEN / "v1/cells.parquet"
pytestmark = pytest.mark.slow


@pytest.fixture
def screener(bundles, tmp_path) -> Screener:
    bundle = Bundle.open(bundles["v1"])
    return Screener.open(prepare(CELLS, bundle, tmp_path / "run", Options(**SCREEN)).path, bundle)


@pytest.fixture
def two_are_enough(monkeypatch):
    monkeypatch.setattr(compacting, "PARTS", 2)


def compute(screener: Screener, bundle) -> tuple[Run, list[str]]:
    said: list[str] = []
    with Local(0) as here:
        fan_out(screener, bundle, here, say=said.append)
    return Run.open(screener.run.path), said


def test_all_parts_are_sorted_when_the_screen_has_ended(screener, bundles, alone, two_are_enough):
    run, said = compute(screener, bundles["v1"])
    assert said == []
    assert {name for one in generations(run.path) for name in one.shards} == run.done
    assert "shard-0" not in run.views
    assert run.sql(ROWS).equals(alone)


def test_a_run_of_few_parts_is_left_as_it_is_and_so_is_one_that_shall_be(screener, bundles, monkeypatch):
    run, _ = compute(screener, bundles["v1"])
    assert not (run.path / COMPACTED).exists()
    monkeypatch.setattr(compacting, "PARTS", 1)
    monkeypatch.setenv(compacting.VARIABLE, "0")
    with Compacting(run, print) as told:
        told.told(1)
    assert not (run.path / COMPACTED).exists()


def test_where_it_fails_the_screen_goes_on_and_says_why_once(screener, bundles, two_are_enough):
    place = screener.run.path / COMPACTED
    place.mkdir()
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run, said = compute(screener, bundles["v1"])
    assert run.complete
    (line,) = said
    assert "is being compacted by another process" in line


def test_a_driver_that_is_stopped_ends_it_and_nothing_of_it_stays(screener, bundles, monkeypatch):
    run, _ = compute(screener, bundles["v1"])
    before = run.sql(ROWS)
    monkeypatch.setattr(compacting, "PARTS", 1)
    halt = Halt(run.path.resolve() / COMPACTED / INDEX)
    stood: list[int] = []

    def stopped() -> None:
        with Compacting(run, print) as told:
            told.told(1)
            stood.append(halt.wait())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    halt.lift()
    assert not alive(stood)
    assert [path.name for path in (run.path / COMPACTED).glob(".*")] == [".lock"]
    assert run.sql(ROWS).equals(before)
