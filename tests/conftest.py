"""What all tests share: golden files, bundles made from them, and one Ray cluster for the session."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# Before anything imports ray: no token in HOME, no usage report.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")

# Before anything imports torch: threads that wait do not spin, which takes the processors from workers beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support import DEMO, GOLDEN, HALTS, ROWS, SCREEN

if TYPE_CHECKING:
    import pyarrow as pa

# Processes of tests, also Ray's, stop where a test wants to find them: see tests/halting.
os.environ[HALTS] = tempfile.mkdtemp(prefix="rankshift-halts")
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent / "halting"), os.environ.get("PYTHONPATH")])
)


# A shell starts what it runs in the background deaf to Ctrl-C, and every process inherits it: tests that send one decide.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ[HALTS], ignore_errors=True)


SLOW = {"ray_cluster", "head", "members", "browser", "server"}  # fixtures that start a cluster, a browser, a server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


settings.register_profile("untimed", deadline=None)  # no test asserts how long something takes
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs and outputs of the published code on toy models, generations v1 and v2 (README.md there)."""
    return GOLDEN


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For models so small that threads would do nothing but wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=["v1", "v2"])
def generation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundle of each golden model, with medians, names and aliases."""
    from rankshift.screen.bundle.bundle import make_bundle

    out = {}
    for name in ("v1", "v2"):
        root = GOLDEN / name
        out[name] = tmp_path_factory.mktemp(name) / "bundle"
        make_bundle(
            root / "model",
            root / "vocabulary.json",
            out[name],
            medians=root / "medians.json",
            names=root / "gene_names.json",
            aliases=root / "ensembl_mapping.json",
        )
    return out


@pytest.fixture(scope="session")
def alone(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> "pa.Table":
    """The rows of SCREEN of the first golden cells, screened in this process."""
    from rankshift.screen.engine.screener import run

    out = tmp_path_factory.mktemp("alone") / "run"
    return run(GOLDEN / "v1/cells.parquet", bundles["v1"], out, **SCREEN).sql(ROWS)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of an S3 service on the loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty bucket, and mirrors in a folder of the test."""
    import boto3

    own = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**own, "AWS_ENDPOINT_URL": server, "RANKSHIFT_MIRRORS": str(tmp_path / "mirrors")}.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(str(tmp_path))) % 10**9}"
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one Ray start of a test session: four CPU slots, no dashboard, everything in a folder that goes away."""
    import ray

    folder = tempfile.mkdtemp(prefix="rs", dir="/tmp")  # short: Ray's socket paths have a limit of 107 bytes
    ray.init(
        "local",
        include_dashboard=False,
        num_cpus=4,
        object_store_memory=78_643_200,
        _temp_dir=folder,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """A small demo that Ray workers screened. Not to be changed."""
    from rankshift.jobs.cli import run_command

    out = tmp_path_factory.mktemp("demo") / "demo"
    assert run_command(["demo", "--out", str(out), *(str(word) for option in DEMO.items() for word in option)]) == 0
    return out
