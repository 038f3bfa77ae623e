"""Shards on leased workers: the same rows for any number of workers, and after a worker was killed."""

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from rankshift.jobs.executor.fan_out import FanOut
from rankshift.jobs.executor.ray import OnRay, RayCrew
from rankshift.jobs.executor.shard_work import ShardJob, ShardWork, fan_out
from rankshift.jobs.pool.cluster import end_pool, make_pool
from rankshift.jobs.pool.lease import Lease
from rankshift.jobs.pool.worker import Grant
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener, missing, run
from rankshift.screen.runs.run import Run
from support import GOLDEN, ROWS, SCREEN, alive, until


def prepared(bundle: Path, out: Path, **options: Any) -> Screener:
    opened = Bundle.open(bundle)
    return Screener.open(prepare(GOLDEN / "v1/cells.parquet", opened, out, Options(**SCREEN, **options)).path, opened)


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_are_bit_identical_for_any_number_of_workers(workers, bundles, tmp_path, alone, ray_cluster):
    screener = prepared(bundles["v1"], tmp_path / "run")
    rows = []
    with OnRay(workers) as executor:
        fan_out(screener, bundles["v1"], executor, rows.append)
    assert Run.open(tmp_path / "run").sql(ROWS).equals(alone)
    assert "noise_floor" in Run.open(tmp_path / "run").manifest
    assert 0 < sum(rows) <= alone.num_rows


@pytest.mark.parametrize("workers", [1, 2])
def test_products_on_differences_are_the_same_on_any_number_of_workers(workers, bundles, tmp_path, ray_cluster):
    """Every worker keeps the originals of its own groups."""
    options = {"dtype": "int8-delta", "max_cells": 4}
    here = run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "here", **SCREEN, **options)
    with OnRay(workers) as executor:
        fan_out(prepared(bundles["v1"], tmp_path / "there", **options), bundles["v1"], executor, lambda rows: None)
    assert here.manifest.lists > 100
    assert Run.open(tmp_path / "there").sql(ROWS).equals(here.sql(ROWS))


def test_nothing_is_lost_or_doubled_when_a_worker_is_killed(bundles, tmp_path, alone, ray_cluster):
    screener = prepared(bundles["v1"], tmp_path / "run")
    begun = threading.Event()
    with OnRay(2) as executor, executor.lease() as lease:
        grant = lease.wait()[0]
        victim = ray.get(grant.handle.status.remote())["process"]
        lease.release(grant)

        def kill() -> None:
            begun.wait(60)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        FanOut(RayCrew(lease), ShardWork(screener, bundles["v1"])).drive(lambda rows: begun.set())
        killer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(victim, 0)
    done = Run.open(tmp_path / "run")
    assert done.complete
    assert done.sql(ROWS).equals(alone)


def test_a_run_whose_workers_and_driver_died_is_resumed(bundles, tmp_path, alone, ray_cluster):
    screener = prepared(bundles["v1"], tmp_path / "run")
    with OnRay(1) as executor, executor.lease() as lease:
        (grant,) = lease.wait()
        ray.get(grant.handle.open_job.remote(grant.epoch, "job", ShardJob(screener, bundles["v1"]), []))
        ray.get([grant.handle.compute.remote(grant.epoch, "job", shard) for shard in screener.shards[:3]])
        grant.handle.compute.remote(grant.epoch, "job", screener.shards[3])
        ray.kill(grant.handle, no_restart=False)
    assert {s.name for s in screener.shards[:3]} <= set(screener.run.committed)
    with OnRay(1) as executor:
        fan_out(screener, bundles["v1"], executor)
    assert Run.open(tmp_path / "run").sql(ROWS).equals(alone)


def test_an_error_of_a_shard_reaches_the_driver(bundles, tmp_path, ray_cluster):
    screener = prepared(bundles["v1"], tmp_path / "run")
    for shard in missing(screener):
        (tmp_path / "run/shifts" / f"{shard.name}.parquet" / "x").mkdir(parents=True)  # where no file can be put
    with pytest.raises(OSError, match="shard-"), OnRay(1) as executor:
        fan_out(screener, bundles["v1"], executor)


class Stopping(RayCrew):
    """A crew that stops the process of its worker, as a machine may, before the worker is sent its first piece."""

    stopped: int | None = None

    def compute(self, grant: Grant, key: str, piece: Any) -> "ray.ObjectRef":
        if self.stopped is None:
            self.stopped = ray.get(grant.handle.status.remote())["process"]
            os.kill(self.stopped, signal.SIGSTOP)
        return super().compute(grant, key, piece)


def test_a_worker_that_hangs_is_told_of_and_started_again(bundles, tmp_path, alone, ray_cluster):
    """It is the only one, so nobody else can do its pieces: what ends the screen is the process that takes its place."""
    screener, said = prepared(bundles["v1"], tmp_path / "run"), []
    pool = make_pool("hanging", 1, hung=5.0)
    try:
        with Lease(pool, 1) as lease:
            crew = Stopping(lease)
            FanOut(crew, ShardWork(screener, bundles["v1"]), say=said.append, hung=1.0).drive()
        assert said[0] == "hanging-0 has not answered for 1 s: its work is given to others"
        assert Run.open(tmp_path / "run").sql(ROWS).equals(alone)
        assert crew.stopped is not None
        until(lambda: not alive([crew.stopped]))
    finally:
        end_pool(pool)
        with suppress(ProcessLookupError):
            os.kill(crew.stopped, signal.SIGKILL)
