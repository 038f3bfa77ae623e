"""What hangs on a device is decided for the workers' device, once: whatever the driver has, now and when it resumes."""

import pickle
from functools import partial

import numpy as np
import pytest

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.cost import Extent, list_flops
from rankshift.screen.encoder.device import Device
from rankshift.screen.engine.decide import Decision, Request, decide, shard_tokens
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.errors import InputError
from support import GOLDEN

CELLS = GOLDEN / "v1/cells.parquet"
CPU, GPU = Device(kind="cpu"), Device(kind="cuda", name="a GPU", native_16_bit=True)


def decided(request: Request, device: Device) -> Decision:
    """By workers with a device: request and answer travel."""
    return pickle.loads(pickle.dumps(decide(pickle.loads(pickle.dumps(request)), device)))


def refused(request: Request) -> Decision:
    raise AssertionError("a resumed run decides nothing again")


@pytest.fixture
def bundle(bundles) -> Bundle:
    return Bundle.open(bundles["v1"])


def test_workers_with_a_gpu_decide_for_a_driver_without(bundle, tmp_path):
    run = prepare(CELLS, bundle, tmp_path / "run", Options(perturb="delete"), decide=partial(decided, device=GPU))
    assert run.screened.token_budget == 131_072
    assert run.screened.dtype == "float16"
    assert run.screened.dtype_choice == {}
    there = prepare(CELLS, bundle, tmp_path / "cpu", Options(perturb="delete"), decide=partial(decided, device=CPU))
    assert there.screened.token_budget == 65_536
    assert there.screened.dtype == "float32"
    assert there.screened.dtype_choice == {"reason": "this processor has no 16-bit products"}
    # 5e14 FLOP a shard beside 2e12, in whole rows
    assert run.screened.shard_tokens / there.screened.shard_tokens == pytest.approx(250, rel=1e-6)


def test_a_small_screen_is_cut_so_that_workers_share_it_and_a_large_one_as_usual(bundle):
    """By hand: where a row costs F, 2e12 / F rows are a usual shard, of which a sixteenth is the least."""
    per_row = list_flops(bundle.sizes, 2, np.array([100]))[0] / 100
    usual = 2e12 / per_row
    for rows, expected in ((usual / 4, usual / 16), (usual, usual / 16), (8 * usual, usual / 2), (64 * usual, usual)):
        extent = Extent(rows=int(rows), mean_length=100.0, longest=100)
        assert shard_tokens(bundle, 2, extent, False, CPU) == pytest.approx(expected, rel=1e-6)
    long = Extent(rows=10**9, mean_length=100.0, longest=2_000_000)
    assert shard_tokens(bundle, 2, long, False, CPU) == 64 * 2_000_000, "a part of a cell has 64 lists at least"


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_run_is_resumed_by_a_driver_with_any_device_and_reads_what_was_decided(device, bundle, tmp_path):
    options = Options(perturb="delete")
    begun = prepare(CELLS, bundle, tmp_path / "run", options, decide=partial(decided, device=device))
    again = prepare(CELLS, bundle, tmp_path / "run", options, decide=refused, resume=True)
    assert dict(again.manifest) == dict(begun.manifest)
    asked = Options(perturb="delete", token_budget=begun.screened.token_budget, dtype=begun.screened.dtype)
    prepare(CELLS, bundle, tmp_path / "run", asked, decide=refused, resume=True)
    with pytest.raises(InputError, match=r"was prepared with token_budget \d+, asked is 99: give another --out"):
        prepare(CELLS, bundle, tmp_path / "run", Options(perturb="delete", token_budget=99), resume=True)
    with pytest.raises(InputError, match="was prepared with dtype"):
        prepare(CELLS, bundle, tmp_path / "run", Options(perturb="delete", dtype="bfloat16"), resume=True)


def test_state_vectors_are_made_by_the_workers_and_read_when_the_run_is_resumed(bundle, tmp_path):
    options = Options(perturb="delete", state_key="disease", start="dcm", goal="nf")
    begun = prepare(CELLS, bundle, tmp_path / "run", options, decide=partial(decided, device=CPU))
    assert list(begun.manifest.states) == ["dcm", "nf"]
    again = prepare(CELLS, bundle, tmp_path / "run", options, decide=refused, resume=True)
    assert again.manifest.states == begun.manifest.states
    with pytest.raises(InputError, match="was prepared with route"):
        prepare(CELLS, bundle, tmp_path / "run", Options(perturb="delete"), resume=True)


def test_what_the_user_gives_is_not_decided(bundle, tmp_path):
    options = Options(perturb="delete", dtype="bfloat16", token_budget=500, shard_tokens=700)
    run = prepare(CELLS, bundle, tmp_path / "run", options, decide=partial(decided, device=GPU))
    assert (run.screened.dtype, run.screened.token_budget, run.screened.shard_tokens) == ("bfloat16", 500, 700)


def test_a_trial_takes_only_the_cells_it_draws(bundle, tmp_path):
    requests = []

    def keep(request: Request) -> Decision:
        requests.append(request)
        return decide(request, CPU)

    prepare(CELLS, bundle, tmp_path / "run", Options(perturb="delete"), decide=keep)
    sample = requests[0].sample
    assert len(sample.cells) == len(sample.lists) <= 8
    assert sample.total == 551
