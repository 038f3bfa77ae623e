"""A Ray cluster over three hosts, with token and object store: a host loses its network, comes back, others lose processes."""

import re
import signal
import sys
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from rankshift.jobs.training.checkpoint import read_record
from rankshift.jobs.training.metrics import read as read_metrics
from rankshift.screen.engine.screener import run
from support import GOLDEN, PATIENCE, ROWS, until
from tests.faults.hosts import STORE, Hosts, hosts

pytestmark = pytest.mark.slow

CELLS = GOLDEN / "v1" / "cells.parquet"
SHORT, LONG = 240, 60  # tokens of a shard: the smaller, the longer a screen takes
SCREEN = ("--perturb", "delete", "--embedding", "cell")
TUNING = ("--task", "cell", "--label", "cell_type", "--test", 0.34, "--epochs", 100_000, "--dropout", 0.0)

FILL = """
import sys, boto3
from pathlib import Path
store = boto3.client("s3")
store.create_bucket(Bucket="lab")
cells, bundle = map(Path, sys.argv[1:])
store.upload_file(str(cells), "lab", "cells.parquet")
for file in bundle.rglob("*"):
    if file.is_file():
        store.upload_file(str(file), "lab", f"bundle/{file.relative_to(bundle)}")
"""
COMMITTED = """
import sys, time, boto3
store = boto3.client("s3")
while store.list_objects_v2(Bucket="lab", Prefix=f"{sys.argv[1]}/commits/").get("KeyCount", 0) < int(sys.argv[2]):
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def three(bundles) -> Iterator[Hosts]:
    """Three hosts with a Ray cluster, a pool of a worker on each, cells and bundle in a bucket."""
    with hosts(3, pytest.skip) as made:
        store = [sys.executable, "-m", "moto.server", "-H", made.address(1), "-p", STORE]
        made.start(1, "store.log", store)
        made.ray(1)
        made.ray(2, 3)
        until(lambda: "Running on" in made.said("store.log"))
        code, said = made.run(1, [sys.executable, "-c", FILL, CELLS, bundles["v1"]])
        assert code == 0, said
        code, said = made.run(1, "pool", "start", "--workers", 3)
        assert code == 0, said
        yield made


@pytest.fixture(scope="module")
def quiet(bundles, tmp_path_factory):
    """The rows of the screens by one process."""
    out = tmp_path_factory.mktemp("quiet")
    what = {"perturb": "delete", "embedding": "cell"}
    return {n: run(CELLS, bundles["v1"], out / str(n), **what, shard_tokens=n).sql(ROWS) for n in (SHORT, LONG)}


def begin(three: Hosts, name: str, tokens: int = SHORT):
    """A screen on the cluster, three of whose shards are committed."""
    where = ("s3://lab/cells.parquet", "--bundle", "s3://lab/bundle", "--out", f"s3://lab/{name}")
    driver = three.start(1, f"{name}.log", "screen", *where, *SCREEN, "--shard-tokens", tokens)
    code, said = three.run(1, [sys.executable, "-c", COMMITTED, name, 3])
    assert code == 0, said
    return driver


def hosts_of_the_gang(three: Hosts) -> list[int]:
    """Hosts whose workers train together now, none where no training holds its workers."""
    said = three.run(1, "pool", "status")[1]
    held = re.findall(r"^rankshift-pool-\d+ +10\.98\.0\.(\d+) .* held +finetune ", said, re.MULTILINE)
    return [int(host) for host in held] if len(held) == 2 else []


def rows(three: Hosts, name: str):
    """All rows of a run, asked on a host."""
    out = three.folder / f"{name}.parquet"
    code, said = three.run(1, "query", f"s3://lab/{name}", f"SELECT * {ROWS}", "--out", out)
    assert code == 0, said
    return pq.read_table(out)


def test_a_host_that_loses_its_network_takes_no_row_along_and_works_again_when_it_is_back(
    three, quiet, bundles, tmp_path
):
    """A screen and a training without end side by side; the host is one of those that train."""
    training = ("finetune", CELLS, "--bundle", bundles["v1"], "--out", tmp_path / "tuned", *TUNING, "--workers", 2)
    tuning = three.start(1, "tuning.log", *training)
    unfinished, gang = tmp_path / "tuned.training" / "final", list[int]()
    until(lambda: any(read_metrics(file) for file in unfinished.glob("metrics/*.csv")))  # steps are done
    until(lambda: bool(gang.extend(hosts_of_the_gang(three)) or gang))
    lost, screen = max(gang), begin(three, "one")
    three.cut(lost)
    assert tuning.wait(PATIENCE) == 3, three.said("tuning.log")
    assert re.search("rankshift: .* gone.* --resume", three.said("tuning.log"))
    assert screen.wait(PATIENCE) == 0, three.said("one.log")
    assert "Traceback" not in three.said("tuning.log") + three.said("one.log")
    assert rows(three, "one").equals(quiet[SHORT])

    three.mend(lost)
    until(lambda: not three.runs(lost, "raylet"))  # Ray's way: a node that was given up ends when it hears of it
    three.ray(lost)
    kept = read_record(unfinished)["step"]
    assert kept > 0
    curve = unfinished / "metrics" / "metrics.csv"
    before = curve.stat().st_size
    tuning = three.start(1, "again.log", *training, "--resume")
    until(lambda: curve.stat().st_size > before)
    tuning.send_signal(signal.SIGINT)
    assert tuning.wait(PATIENCE) == 3, three.said("again.log")
    assert read_record(unfinished)["step"] > kept
    until(lambda: three.run(1, "pool", "status")[1].count("free") == 3)


def test_a_raylet_that_is_killed_takes_no_row_along(three, quiet):
    screen = begin(three, "two")
    three.kill(2, "raylet")
    assert screen.wait(PATIENCE) == 0, three.said("two.log")
    assert "Traceback" not in three.said("two.log")
    assert rows(three, "two").equals(quiet[SHORT])


def test_a_head_that_is_killed_ends_the_command_in_a_line_and_a_new_cluster_goes_on(three, quiet):
    screen = begin(three, "three", LONG)
    three.kill(1, "gcs_server")
    assert screen.wait(PATIENCE) == 3, three.said("three.log")
    said = [line for line in three.said("three.log").splitlines() if line.startswith("rankshift: ")]
    assert len(said) == 1
    assert "--resume" in said[0]
    where = ("s3://lab/cells.parquet", "--bundle", "s3://lab/bundle", "--out", "s3://lab/three")
    code, output = three.run(1, "screen", *where, *SCREEN, "--shard-tokens", LONG, "--resume", "--workers", 0)
    assert code == 0, output
    assert rows(three, "three").equals(quiet[LONG])
