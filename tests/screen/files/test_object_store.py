"""Runs in an object store: a real S3 interface on the loopback, where nothing can be renamed."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener, missing, run
from rankshift.screen.errors import InputError
from rankshift.screen.files.object_store import Mirror, fetched, mirrors, url_of
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


@pytest.mark.parametrize("more", ["", "?region=us-east-1"])
def test_a_small_object_is_put_in_one_piece_and_a_large_one_comes_whole(bucket, more):
    """S3 writes the number of pieces behind the tag of an object that was uploaded in pieces."""
    import boto3

    mirror = Mirror.of(f"{bucket}/files{more}")
    held = {"empty": b"", "small": b"a part", "large": bytes(range(256)) * (3 << 14)}  # 12 MB
    mirror.local.mkdir(parents=True)
    for name, content in held.items():
        (mirror.local / name).write_bytes(content)
    mirror.push(held)
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    there = {name: client.get_object(Bucket=bucket.removeprefix("s3://"), Key=f"files/{name}") for name in held}
    assert {name: one["Body"].read() for name, one in there.items()} == held
    assert [name for name, one in there.items() if "-" in one["ETag"]] == ["large"]
    mirror.drop()
    mirror.pull(mirror.objects())
    assert {name: (mirror.local / name).read_bytes() for name in held} == held


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


@pytest.fixture
def local_store(tmp_path, monkeypatch):
    """A mirror whose store is a folder of this machine: any key that a path can spell, and no network."""
    monkeypatch.setenv("RANKSHIFT_MIRRORS", str(tmp_path / "mirrors"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    mirror = Mirror.of("s3://lab/run")
    assert mirror is not None
    (tmp_path / "store").mkdir()
    return replace(mirror, store=fs.LocalFileSystem(), base=str(tmp_path / "store"))


class Keys:
    """A store that lists keys as a bucket may hold them; a folder of this machine cannot hold `..`."""

    def __init__(self, *keys):
        self._infos = [fs.FileInfo(f"lab/run/{key}", type=fs.FileType.File, size=1, mtime=1.0) for key in keys]

    def get_file_info(self, selector):
        return self._infos


@pytest.mark.parametrize("key", ["../../PWNED", "a/../../PWNED", "..", "/etc/passwd", "shifts/../../../x", "a\0b"])
def test_a_key_that_leaves_the_mirror_is_refused(key, local_store):
    bad = replace(local_store, store=Keys("run.json", key), base="lab/run")
    with pytest.raises(InputError, match=r"s3://lab/run holds an object named .*: rename or remove it"):
        bad.objects()
    with pytest.raises(InputError, match="no folder can hold"):
        local_store.pull({key: fs.FileInfo("x", type=fs.FileType.File, size=1, mtime=1.0)})
    with pytest.raises(InputError, match="no folder can hold"):
        local_store.push([key])


def test_names_with_dots_in_them_are_kept(local_store):
    good = replace(local_store, store=Keys("..data/part..parquet", "a...b"), base="lab/run")
    assert set(good.objects()) == {"..data/part..parquet", "a...b"}


def test_a_mirror_is_closed_to_others_and_its_bytes_are_those_fetched(local_store, tmp_path):
    (tmp_path / "store/run.json").write_text("GOOD!")
    infos = local_store.objects()
    local_store.pull(infos)
    here = local_store.local / "run.json"
    assert here.read_text() == "GOOD!"
    root = tmp_path / "mirrors" / f"rankshift-mirrors-{os.getuid()}"
    assert root in here.parents
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    here.write_text("EVIL!")
    os.utime(here, ns=(infos["run.json"].mtime_ns, infos["run.json"].mtime_ns))
    local_store.pull(local_store.objects())
    assert here.read_text() == "GOOD!"


def test_what_is_here_unchanged_is_not_fetched_again(local_store, tmp_path):
    (tmp_path / "store/run.json").write_text("GOOD!")
    local_store.pull(local_store.objects())
    before = (local_store.local / "run.json").stat().st_ino
    local_store.pull(local_store.objects())
    assert (local_store.local / "run.json").stat().st_ino == before
    (tmp_path / "store/run.json").write_text("OTHER")
    local_store.pull(local_store.objects())
    assert (local_store.local / "run.json").read_text() == "OTHER"


def test_a_folder_of_mirrors_that_others_may_write_to_or_that_is_a_link_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKSHIFT_MIRRORS", str(tmp_path))
    folder = tmp_path / f"rankshift-mirrors-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(InputError, match=r"only you can write to.*mode 0777: remove it, or set RANKSHIFT_MIRRORS"):
        mirrors()
    folder.chmod(0o755)  # as earlier versions made it
    assert stat.S_IMODE(mirrors().stat().st_mode) == 0o700
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="only you can write to"):
        mirrors()


def test_stores_at_different_addresses_do_not_share_a_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKSHIFT_MIRRORS", str(tmp_path))
    folders = set()
    for address in ("http://127.0.0.1:9", "http://127.0.0.1:10"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for url in ("s3://lab/run", "s3://KEY:SECRET@lab/run", "s3://OTHER:KEYS@lab/run"):
            folders.add(Mirror.of(url).local)
    assert len(folders) == 2


def test_a_url_may_hold_options_behind_a_question_mark(bucket, tmp_path):
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.put_object(Bucket=bucket.removeprefix("s3://"), Key="data/cells.parquet", Body=CELLS.read_bytes())
    for url in (f"{bucket}/data/cells.parquet", f"s3://key:secret@{bucket.removeprefix('s3://')}/data/cells.parquet"):
        assert fetched(f"{url}?region=us-east-1").read_bytes() == CELLS.read_bytes()
    assert (fetched(f"{bucket}/data?region=us-east-1") / "cells.parquet").read_bytes() == CELLS.read_bytes()
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    own = f"s3://key:secret@{bucket.removeprefix('s3://')}/data/cells.parquet?scheme=http&endpoint_override={endpoint}"
    assert fetched(own).read_bytes() == CELLS.read_bytes()


def test_keys_of_a_url_stand_in_no_refusal(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKSHIFT_MIRRORS", str(tmp_path))
    for url in (
        "s3://KEYID:SE/CR+ET@lab/a b?region=x",
        "s3://KEYID:SECRET@lab/run?nonsense=1",
        "gs://KEYID:SECRET@lab",
    ):
        with pytest.raises(InputError) as refused:
            Mirror.of(url)
        assert "KEYID" not in str(refused.value)
        assert "SE" not in str(refused.value).replace("SET", "")
