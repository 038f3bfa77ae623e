"""Shards on leased workers: the same rows for any number of workers, and after a worker was killed."""

import os
import signal
import threading
from pathlib import Path

import pytest
import ray

from rankshift.jobs.executor.ray import FanOut
from rankshift.jobs.executor.shard_work import ShardWork, fan_out
from rankshift.jobs.pool.cluster import lent
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.prepare import Options, prepare
from rankshift.screen.engine.screener import Screener, run
from rankshift.screen.runs.run import Run
from support import GOLDEN

ROWS = "FROM shifts ORDER BY cell, perturbation"


def prepared(bundle: Path, out: Path) -> Screener:
    opened = Bundle.open(bundle)
    options = Options(perturb="delete", embedding="cell", shard_tokens=600)
    return Screener.open(prepare(GOLDEN / "v1/cells.parquet", opened, out, options).path, opened)


@pytest.fixture(scope="module")
def alone(bundles, tmp_path_factory):
    """The rows of the same screen in process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    options = {"perturb": "delete", "embedding": "cell", "shard_tokens": 600}
    return run(GOLDEN / "v1/cells.parquet", bundles["v1"], out, **options).sql(ROWS)


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_are_bit_identical_for_any_number_of_workers(workers, bundles, tmp_path, alone, ray_cluster):
    screener = prepared(bundles["v1"], tmp_path / "run")
    rows = []
    with lent(workers) as lease:
        fan_out(screener, bundles["v1"], lease, rows.append)
    assert Run.open(tmp_path / "run").sql(ROWS).equals(alone)
    assert "noise_floor" in Run.open(tmp_path / "run").manifest
    assert 0 < sum(rows) <= alone.num_rows


def test_nothing_is_lost_or_doubled_when_a_worker_is_killed(bundles, tmp_path, alone, ray_cluster):
    screener = prepared(bundles["v1"], tmp_path / "run")
    begun = threading.Event()
    with lent(2) as lease:
        grant = lease.wait()[0]
        victim = ray.get(grant.handle.status.remote())["process"]
        lease.give(grant)

        def kill() -> None:
            begun.wait(60)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        FanOut(lease, ShardWork(screener, bundles["v1"], lease)).drive(lambda rows: begun.set())
        killer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(victim, 0)
    done = Run.open(tmp_path / "run")
    assert done.complete
    assert done.sql(ROWS).equals(alone)


def test_a_run_whose_workers_and_driver_died_is_resumed(bundles, tmp_path, alone, ray_cluster):
    screener = prepared(bundles["v1"], tmp_path / "run")
    path = str(tmp_path / "run")
    with lent(1) as lease:
        (grant,) = lease.wait()
        ray.get(grant.handle.ready.remote(grant.epoch, path, str(bundles["v1"]), []))
        ray.get([grant.handle.compute.remote(grant.epoch, path, shard.index) for shard in screener.shards[:3]])
        grant.handle.compute.remote(grant.epoch, path, 3)
        ray.kill(grant.handle, no_restart=False)
    assert {s.name for s in screener.shards[:3]} <= set(screener.run.committed)
    with lent(1) as lease:
        fan_out(screener, bundles["v1"], lease)
    assert Run.open(tmp_path / "run").sql(ROWS).equals(alone)


def test_an_error_of_a_shard_reaches_the_driver(bundles, tmp_path, ray_cluster):
    screener = prepared(bundles["v1"], tmp_path / "run")
    (tmp_path / "run/shifts").rename(tmp_path / "run/elsewhere")
    (tmp_path / "run/shifts").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="shifts"), lent(1) as lease:
        fan_out(screener, bundles["v1"], lease)
