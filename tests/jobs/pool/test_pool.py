"""The pool with real workers: two drivers share it, gangs train on it, and whoever dies takes nothing along."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from rankshift.jobs.executor.fan_out import FanOut
from rankshift.jobs.executor.ray import OnRay, RayCrew, train_on
from rankshift.jobs.executor.shard_work import ShardWork, fan_out
from rankshift.jobs.finetuning.finetune import finetune
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.pool.cluster import end_pool, make_pool
from rankshift.jobs.pool.lease import Lease
from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.pretrain import PretrainJob, train
from rankshift.jobs.training.gang import WorkerGone
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener, run
from rankshift.screen.errors import InputError, Stopped
from rankshift.screen.runs.run import Run
from support import GOLDEN, ROWS, SCREEN, Halt, until

V1 = GOLDEN / "v1"
TTL = 3.0
TINY = {"layers": 1, "width": 32, "heads": 1, "inner": 32, "batch_tokens": 128, "save_every": 0, "dropout": 0.0}


@pytest.fixture
def pool(ray_cluster) -> Iterator[Any]:
    """A pool of two workers that lives for one test."""
    pool = make_pool(f"test-{time.time_ns()}", 2, TTL)
    yield pool
    end_pool(pool)


def screener(bundle: Path, out: Path, **options: Any) -> Screener:
    opened = Bundle.open(bundle)
    return Screener.open(prepare(V1 / "cells.parquet", opened, out, Options(**{**SCREEN, **options})).path, opened)


def job(out: Path, bundle: Path, **options: Any) -> PretrainJob:
    chosen = Pretraining(**{**TINY, **options})
    return PretrainJob(cells=V1 / "cells.parquet", vocabulary=bundle / "vocabulary.parquet", out=out, options=chosen)


class Telling:
    """The report of a driver that keeps what it is told, and stops when asked to."""

    def __init__(self) -> None:
        self.cells, self.stop = 0, threading.Event()

    def __call__(self, n: int, note: str = "") -> None:
        self.cells += n

    def stopped(self) -> bool:
        return self.stop.is_set()


def on(pool: Any, workers: int) -> OnRay:
    """An executor whose workers are those of this pool."""
    return OnRay(workers, what="screen", pool=pool)


def state(pool: Any) -> dict[str, Any]:
    return dict(ray.get(pool.state.remote()))


def test_a_screen_and_a_fine_tuning_at_once_both_finish_with_the_numbers_of_a_run_alone(pool, bundles, tmp_path, alone):
    work, waited = screener(bundles["v1"], tmp_path / "run"), {}

    def screen() -> None:
        with on(pool, 2) as executor:
            fan_out(work, bundles["v1"], executor)

    driver, halt = threading.Thread(target=screen), Halt(tmp_path / "run/commits/shard-000001.json")
    driver.start()
    halt.wait()
    options = Finetuning(task="cell", label=("cell_type",), test=0.34, epochs=2, dropout=0.0, batch_tokens=256)
    with Lease(pool, 2, gang=True, what="train") as lease:
        until(lambda: any(worker["state"] == "free" for worker in state(pool)["workers"].values()))
        began = len(work.run.committed)
        halt.go_on()
        tuned = finetune(
            V1 / "cells.parquet",
            bundles["v1"],
            tmp_path / "tuned",
            options,
            launch=lambda train, job, total: train_on(lease, train, job, Telling()),
        )
        waited["shards"] = len(work.run.committed) - began
    driver.join()
    assert Run.open(tmp_path / "run").sql(ROWS).equals(alone)
    assert tuned.config["finetuning"]["task"] == "cell"
    assert waited["shards"] <= 2  # the shard that the stopped one was in, and its next if that began before it heard


def test_weights_trained_on_the_pool_are_screened_without_the_disk(pool, bundles, tmp_path):
    with Lease(pool, 1, gang=True, what="train") as lease:
        result = train_on(lease, train, job(tmp_path / "model", bundles["v1"], epochs=1), Telling())
    bundle = Path(result["bundle"])
    sha256 = Bundle.open(bundle).weights_sha256
    work = screener(bundle, tmp_path / "run")
    with on(pool, 2) as executor:
        fan_out(work, bundle, executor)
    loads = [load for worker in state(pool)["workers"].values() for load in worker["loads"] if load[0] == sha256]
    assert loads
    assert {source for _, _, source, _ in loads} <= {"memory", "peer"}
    assert "memory" in {source for _, _, source, _ in loads}
    expected = run(V1 / "cells.parquet", bundle, tmp_path / "alone", **SCREEN).sql(ROWS)
    assert Run.open(tmp_path / "run").sql(ROWS).equals(expected)


def test_cells_are_embedded_on_workers_in_their_order(pool, bundles, monkeypatch):
    from rankshift.jobs.executor import embedding_work

    monkeypatch.setattr(embedding_work, "BLOCK", 5)
    bundle = Bundle.open(bundles["v1"])
    cells = Cells.read(V1 / "cells.parquet", bundle)
    with on(pool, 2) as executor:
        vectors = embedding_work.embed_on(executor, cells, bundles["v1"], level="cell", layer_count=2, dtype="float32")
    here = embed(cells, Encoder(bundle), level="cell", layer_count=2, tokens=4096)
    np.testing.assert_allclose(vectors, here, atol=1e-6)


def test_a_killed_worker_ends_the_training_with_a_checkpoint_to_go_on_from(pool, bundles, tmp_path):
    work = job(tmp_path / "model", bundles["v1"], epochs=400)
    telling = Telling()
    with Lease(pool, 2, gang=True) as lease:

        def kill() -> None:
            try:
                until(lambda: telling.cells > 0)
                second = sorted(ray.get(pool.handles.remote()).items())[1][1]  # ranks are in the order of names
                os.kill(ray.get(second.status.remote())["process"], signal.SIGKILL)
            except BaseException:
                telling.stop.set()
                raise

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(WorkerGone, match=r"rank 1 is gone after step .* --resume"):
            train_on(lease, train, work, telling)
        killer.join()
    assert (work.unfinished / "state.safetensors").exists()
    until(lambda: all(w["state"] == "free" for w in state(pool)["workers"].values()))


def test_a_stopped_gang_saves_itself_and_another_goes_on(pool, bundles, tmp_path):
    epochs = 60  # long enough to be stopped on a fast machine
    telling = Telling()
    with Lease(pool, 2, gang=True) as lease:
        stopper = threading.Thread(target=lambda: (until(lambda: telling.cells > 0), telling.stop.set()))
        stopper.start()
        with pytest.raises(Stopped):
            train_on(lease, train, job(tmp_path / "model", bundles["v1"], epochs=epochs), telling)
        stopper.join()
    with Lease(pool, 1, gang=True) as lease:
        again = train_on(lease, train, job(tmp_path / "model", bundles["v1"], epochs=epochs), Telling())
    whole = train_here(job(tmp_path / "whole", bundles["v1"], epochs=epochs))
    assert again["held_out_loss"] == pytest.approx(
        whole["held_out_loss"], abs=1e-3
    )  # sums over two ranks round otherwise


def train_here(work: PretrainJob) -> dict[str, Any]:
    from rankshift.jobs.training.gang import Rank

    return train(Rank(), work, Telling())


DRIVER = """
import sys, ray
from pathlib import Path
from rankshift.jobs.pool.lease import Lease
ray.init("auto" if len(sys.argv) < 3 else sys.argv[2], namespace="rankshift", log_to_driver=False)
with Lease(ray.get_actor(sys.argv[1], namespace="rankshift"), 2, what="doomed") as lease:
    grants = []
    while len(grants) < 2:
        grants += lease.wait()
    print("held", flush=True)
    import time; time.sleep(600)
"""


def test_a_driver_that_dies_gives_its_workers_back_in_time(pool, bundles, tmp_path, alone):
    name = next(iter(state(pool)["workers"])).rsplit("-", 1)[0]
    where = ray.get_runtime_context().gcs_address
    doomed = subprocess.Popen([sys.executable, "-c", DRIVER, name, where], stdout=subprocess.PIPE, text=True)
    try:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == "held\n"
    finally:
        doomed.kill()
        doomed.wait()
    work = screener(bundles["v1"], tmp_path / "run")
    with on(pool, 2) as executor:
        fan_out(work, bundles["v1"], executor)
    assert Run.open(tmp_path / "run").sql(ROWS).equals(alone)


def test_a_pool_that_died_learns_again_who_holds_what(pool, bundles, tmp_path, alone):
    work, killed = screener(bundles["v1"], tmp_path / "run"), threading.Event()

    def kill(rows: int) -> None:
        if not killed.is_set():
            killed.set()
            ray.kill(pool, no_restart=False)

    with Lease(pool, 2, what="screen") as lease:
        FanOut(RayCrew(lease), ShardWork(work, bundles["v1"])).drive(kill)
        assert killed.is_set()
        assert list(state(pool)["leases"]) == [lease.name]
    assert Run.open(tmp_path / "run").sql(ROWS).equals(alone)
    assert all(w["models"] for w in state(pool)["workers"].values())


def test_a_call_of_a_lease_that_is_over_is_refused(pool):
    with Lease(pool, 1) as lease:
        (grant,) = lease.wait()
    until(lambda: all(w["state"] == "free" for w in state(pool)["workers"].values()))
    with pytest.raises(ray.exceptions.RayTaskError, match="was lent again"):
        ray.get(grant.handle.compute.remote(grant.epoch, "anything", 0))


def test_code_of_another_version_is_refused(pool):
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(pool.open.remote("old driver", 1, False, "0" * 64))
    assert isinstance(caught.value.cause, InputError)
    assert "this command 000000000000: restart the pool" in str(caught.value.cause)
