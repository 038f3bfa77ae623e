"""Runs in an object store: a real S3 interface on the loopback, where nothing can be renamed."""

import os
from pathlib import Path

import pytest

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener, missing, run
from rankshift.screen.errors import InputError
from rankshift.screen.files.object_store import fetched, url_of
from rankshift.screen.runs.run import Run
from support import GOLDEN, ROWS, SCREEN

CELLS = GOLDEN / "v1/cells.parquet"


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
