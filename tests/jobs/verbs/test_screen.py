"""`rankshift.jobs.screen` and the command into an object store: workers write there, and every input may be a URL."""

import json
import os
import shutil

import pytest

from rankshift.jobs.cli import run_command
from rankshift.jobs.executor.ray import OnRay
from rankshift.jobs.executor.shard_work import fan_out
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener
from rankshift.screen.files.object_store import Mirror
from rankshift.screen.runs.run import Run
from support import GOLDEN, ROWS, SCREEN

CELLS = GOLDEN / "v1/cells.parquet"


def test_workers_write_into_the_bucket(bundles, bucket, alone, ray_cluster):
    """Workers do not share the test's environment: the address and the credentials are in the URL."""
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    name = bucket.removeprefix("s3://")
    place = f"s3://key:secret@{name}/runs/ray?scheme=http&endpoint_override={endpoint}&region=us-east-1"
    bundle = Bundle.open(bundles["v1"])
    screener = Screener.open(prepare(CELLS, bundle, place, Options(**SCREEN)).place, bundle)
    with OnRay(2) as executor:
        fan_out(screener, bundles["v1"], executor)
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
    said = capfd.readouterr()
    assert "551" in said.out
    assert f"next: rankshift query {bucket}/run " in said.err
    assert run_command(["screen", f"{bucket}/data/cells.parquet", *where]) == 2
    assert "exists: continue it with --resume" in capfd.readouterr().err


def test_keys_in_urls_are_written_nowhere(bundles, bucket, capfd, tmp_path, monkeypatch):
    """The keys stand in the URLs of bundle, cells and run: manifest, terminal, report and refusals leave them out."""
    import boto3

    name = bucket.removeprefix("s3://")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for path in (path for path in bundles["v1"].rglob("*") if path.is_file()):
        client.put_object(Bucket=name, Key=f"bundle/{path.relative_to(bundles['v1'])}", Body=path.read_bytes())
    client.put_object(Bucket=name, Key="cells.parquet", Body=CELLS.read_bytes())
    own = f"s3://AKIAKEY:SEC%2FRET@{name}"
    command = ["screen", f"{own}/cells.parquet", "--bundle", f"{own}/bundle", "--out", f"{own}/run"]
    command += ["--perturb", "delete", "--max-cells", "1", "--workers", "0"]
    monkeypatch.setattr("sys.argv", ["rankshift", *command])
    assert run_command(command) == 0
    assert run_command(command) == 2  # the run exists
    assert run_command(["report", f"{own}/run", "--out", str(tmp_path / "report.html"), "--no-embed"]) == 0
    assert run_command(["query", f"{own}/nothing", "SELECT 1"]) == 2
    out, err = capfd.readouterr()
    assert f"next: rankshift query 's3://***@{name}/run'" in err.replace("s3:/*", "s3://*")
    written = [client.get_object(Bucket=name, Key="run/run.json")["Body"].read().decode(), out, err]
    written.append((tmp_path / "report.html").read_text())
    for text in written:
        assert "AKIAKEY" not in text
        assert "SEC%2FRET" not in text
        assert "SEC/RET" not in text
    assert json.loads(written[0])["cells"]["path"].endswith(f"***@{name}/cells.parquet")
    assert f"***@{name}/bundle" in json.loads(written[0])["command"]


@pytest.mark.slow
def test_a_run_is_resumed_from_its_folder_alone(bundles, tmp_path, capfd):
    """The token table is gone, the bundle has moved: the folder says the rest. What was committed stays as it was."""
    cells, bundle, run = tmp_path / "cells.parquet", tmp_path / "bundle", tmp_path / "run"
    shutil.copyfile(CELLS, cells)
    shutil.copytree(bundles["v1"], bundle)
    options = ["--perturb", "delete", "--shard-tokens", "400", "--workers", "0"]
    assert run_command(["screen", str(cells), "--bundle", str(bundle), "--out", str(run), *options]) == 0
    whole = Run.open(run).sql(ROWS)
    markers = sorted((run / "commits").iterdir())
    assert len(markers) > 3
    for marker in markers[2:]:
        marker.unlink()
    kept = {marker: marker.stat().st_mtime_ns for marker in markers[:2]}
    cells.unlink()
    bundle.rename(tmp_path / "moved")
    capfd.readouterr()
    assert run_command(["resume", str(run), "--workers", "0"]) == 2
    assert f"no longer at {bundle}: say where it is with --bundle" in capfd.readouterr().err
    assert run_command(["resume", str(run), "--bundle", str(bundles["v2"]), "--workers", "0"]) == 2
    assert "has weights" in capfd.readouterr().err
    assert run_command(["resume", str(run), "--bundle", str(tmp_path / "moved"), "--workers", "0"]) == 0
    assert " were there" in capfd.readouterr().err
    assert Run.open(run).sql(ROWS).equals(whole)
    assert {marker: marker.stat().st_mtime_ns for marker in markers[:2]} == kept
    assert run_command(["resume", str(run), "--bundle", str(tmp_path / "moved"), "--workers", "0"]) == 0
    assert "0 perturbations of 12 cells" in capfd.readouterr().err
