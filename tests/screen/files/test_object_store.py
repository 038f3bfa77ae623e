"""Runs in an object store: a real S3 interface on the loopback, where nothing can be renamed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankshift.jobs.cli import run_command
from rankshift.jobs.executor.shard_work import fan_out
from rankshift.jobs.pool.cluster import lent
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.prepare import Options, prepare
from rankshift.screen.engine.screener import Screener, missing, run
from rankshift.screen.errors import InputError
from rankshift.screen.files.object_store import Mirror, fetched, url_of
from rankshift.screen.runs.run import Run
from support import GOLDEN

CELLS = GOLDEN / "v1/cells.parquet"
SCREEN = {"perturb": "delete", "embedding": "cell", "shard_tokens": 600}
ROWS = "FROM shifts ORDER BY cell, perturbation"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path) -> str:
    """An empty bucket, and mirrors in a folder of the test."""
    import boto3

    own = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**own, "AWS_ENDPOINT_URL": server, "RANKSHIFT_MIRRORS": str(tmp_path / "mirrors")}.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(str(tmp_path))) % 10**9}"
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def alone(bundles, tmp_path_factory):
    return run(CELLS, bundles["v1"], tmp_path_factory.mktemp("alone") / "run", **SCREEN).sql(ROWS)


def test_urls_survive_paths():
    assert url_of(Path("s3://bucket/some/run")) == "s3://bucket/some/run"
    assert url_of("/tmp/run") is None
    assert fetched("/tmp/run") == Path("/tmp/run")


def test_a_screen_into_a_bucket_has_the_rows_of_one_on_disk(bundles, bucket, alone):
    done = run(CELLS, bundles["v1"], f"{bucket}/runs/one", **SCREEN)
    assert done.complete
    assert "noise_floor" in Run.open(f"{bucket}/runs/one").manifest
    assert Run.open(f"{bucket}/runs/one").sql(ROWS).equals(alone)


def test_a_reader_elsewhere_sees_committed_parts_only(bundles, bucket, alone, monkeypatch, tmp_path):
    place = f"{bucket}/runs/half"
    bundle = Bundle.open(bundles["v1"])
    screener = Screener.open(prepare(CELLS, bundle, place, Options(**SCREEN)).place, bundle)
    from rankshift.screen.engine.screener import load_encoder

    encoder = load_encoder(screener.run, bundle)
    for shard in screener.shards[:2]:
        screener.compute(shard, encoder)
    part = screener.run.path / "shifts" / f"{screener.shards[2].name}.parquet"
    part.write_bytes(b"half a part, left by a writer that died")
    screener.run.share(f"shifts/{part.name}")
    monkeypatch.setenv("RANKSHIFT_MIRRORS", str(tmp_path / "elsewhere"))
    seen = Run.open(place)
    assert seen.done == {shard.name for shard in screener.shards[:2]}
    assert not seen.complete
    assert seen.sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist() == [sum(s.lists for s in screener.shards[:2])]
    assert [s.index for s in missing(Screener.open(place, bundle))] == [s.index for s in screener.shards[2:]]
    run(CELLS, bundles["v1"], place, resume=True, **SCREEN)
    assert Run.open(place).sql(ROWS).equals(alone)


def test_workers_write_into_the_bucket(bundles, bucket, alone, ray_cluster):
    """Workers do not share the test's environment: the address and the credentials are in the URL."""
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    name = bucket.removeprefix("s3://")
    place = f"s3://key:secret@{name}/runs/ray?scheme=http&endpoint_override={endpoint}&region=us-east-1"
    bundle = Bundle.open(bundles["v1"])
    screener = Screener.open(prepare(CELLS, bundle, place, Options(**SCREEN)).place, bundle)
    with lent(2) as lease:
        fan_out(screener, bundles["v1"], lease)
    assert Run.open(f"{bucket}/runs/ray").sql(ROWS).equals(alone)


def test_the_command_takes_urls_for_cells_bundle_and_run(bundles, bucket, capfd, tmp_path):
    bundle = Mirror.of(f"{bucket}/bundle")
    assert bundle is not None
    bundle.local.parent.mkdir(parents=True)
    bundle.local.symlink_to(bundles["v1"])
    bundle.push(sorted(p.relative_to(bundles["v1"]).as_posix() for p in bundles["v1"].rglob("*") if p.is_file()))
    bundle.local.unlink()
    data = Mirror.of(f"{bucket}/data")
    assert data is not None
    data.local.mkdir(parents=True)
    (data.local / "cells.parquet").write_bytes(CELLS.read_bytes())
    data.push(["cells.parquet"])
    data.drop()
    where = ["--bundle", f"{bucket}/bundle", "--out", f"{bucket}/run", "--perturb", "delete", "--workers", "0"]
    assert run_command(["screen", f"{bucket}/data/cells.parquet", *where]) == 0
    assert run_command(["query", f"{bucket}/run", "SELECT count(*) AS n FROM shifts", "--format", "csv"]) == 0
    assert "551" in capfd.readouterr().out
    assert run_command(["screen", f"{bucket}/data/cells.parquet", *where]) == 2
    assert "exists: continue it with --resume" in capfd.readouterr().err


def test_another_run_at_the_same_url_is_not_mixed_with_the_mirror_of_the_first(
    bundles, bucket, alone, monkeypatch, tmp_path
):
    import boto3

    place, here = f"{bucket}/run", str(tmp_path / "mirrors")
    run(CELLS, bundles["v1"], place, **SCREEN)
    client = boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.Bucket(bucket.removeprefix("s3://")).objects.delete()
    monkeypatch.setenv("RANKSHIFT_MIRRORS", str(tmp_path / "elsewhere"))
    run(CELLS, bundles["v1"], place, **{**SCREEN, "perturb": "overexpress"})
    monkeypatch.setenv("RANKSHIFT_MIRRORS", here)
    assert set(Run.open(place).sql("SELECT DISTINCT kind FROM shifts")["kind"].to_pylist()) == {"overexpress"}


def test_what_is_not_there_is_said_in_one_line(bucket):
    with pytest.raises(InputError, match="is not a run"):
        Run.open(f"{bucket}/nothing")
    with pytest.raises(InputError, match="holds nothing: check the address"):
        fetched(f"{bucket}/nothing")
