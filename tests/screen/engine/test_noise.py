"""The noise floor: what it samples, and that it sees noise where there is some."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.device import Device
from rankshift.screen.engine.noise import CELLS, FEWEST, MOST, Sample, Trial, _compare, choose_dtype, told
from rankshift.screen.engine.screener import Screener, run
from support import GOLDEN

CELLS_V2 = GOLDEN / "v2/cells.parquet"


@pytest.mark.slow
def test_float32_runs_are_quiet_and_bfloat16_runs_are_not(bundles, tmp_path):
    floors = {}
    for dtype in ("float32", "bfloat16"):
        done = run(CELLS_V2, bundles["v2"], tmp_path / dtype, perturb="delete", dtype=dtype)
        floors[dtype] = done.manifest["noise_floor"]["similarity"]
    assert floors["float32"]["max"] < 1e-5
    assert floors["bfloat16"]["max"] > 10 * floors["float32"]["max"]
    assert floors["float32"]["top_overlap"] == 1
    assert floors["bfloat16"]["spread"] > 0


def test_states_have_floors_of_their_own(bundles, tmp_path):
    states = CELLS_V2.parent / "state_embeddings.json"
    done = run(CELLS_V2, bundles["v2"], tmp_path / "run", perturb="delete", states=states)
    assert set(done.manifest["noise_floor"]) == {"similarity", *(f"shift_{s}" for s in done.states)}


def _sample(screener: Screener) -> Sample:
    return Sample.draw(screener.cells, screener.counts, screener.perturb, screener.measure)


@pytest.mark.slow
def test_the_sample_is_bounded_and_the_same_every_time(bundles, tmp_path):
    done = run(CELLS_V2, bundles["v2"], tmp_path / "run", perturb="delete")
    screener = Screener.open(done.path, Bundle.open(bundles["v2"]))
    first, second = (_sample(screener).lists for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[c], second[c]) for c in first)
    assert len(first) <= CELLS
    assert FEWEST <= sum(len(x) for x in first.values()) <= MOST


def test_small_screens_are_not_tried_in_sixteen_bits(bundles, tmp_path):
    done = run(CELLS_V2, bundles["v2"], tmp_path / "run", perturb="delete", max_cells=2)
    screener = Screener.open(done.path, Bundle.open(bundles["v2"]))
    dtype, why = choose_dtype(_sample(screener), Bundle.open(bundles["v2"]))
    assert dtype == "float32"
    assert "reason" in why


@pytest.mark.parametrize(
    ("noise", "time", "pays"), [(0.09, 0.9, True), (0.11, 0.5, False), (0.01, 1.0, False), (0.01, 3.0, False)]
)
def test_a_type_is_taken_where_it_is_quiet_and_faster_than_float32(noise, time, pays):
    assert Trial(dtype="bfloat16", noise=noise * 2e-3, spread=2e-3, time=time).pays == pays


def test_types_are_tried_cheapest_first_until_one_pays(bundles, tmp_path):
    """Which one does depends on the processor; what is recorded must lead to it on any."""
    done = run(CELLS_V2, bundles["v2"], tmp_path / "run", perturb="delete", max_cells=2)
    bundle = Bundle.open(bundles["v2"])
    sample = replace(_sample(Screener.open(done.path, bundle)), total=1000)
    dtype, why = choose_dtype(sample, bundle, Device(kind="cpu", native_16_bit=True, native_8_bit=True))
    tried = [name.removesuffix("_noise") for name in why if name.endswith("_noise")]
    assert tried == ["bfloat16", "int8-delta", "bfloat16-delta"][: len(tried)]
    found = {d: Trial(dtype=d, **{f: why[f"{d}_{f}"] for f in ("noise", "spread", "time")}) for d in tried}
    assert [d for d in tried if found[d].pays] == ([] if dtype == "float32" else [dtype])
    assert dtype == tried[-1] if dtype != "float32" else len(tried) == 3
    only_eight = choose_dtype(sample, bundle, Device(kind="cpu", native_8_bit=True))[1]
    assert "bfloat16_noise" not in only_eight
    assert "int8-delta_noise" in only_eight


def test_what_was_chosen_is_said_with_every_trial():
    why = {
        "lists": 16, "bfloat16_noise": 2e-4, "bfloat16_spread": 1e-3, "bfloat16_time": 0.6,
        "int8-delta_noise": 3e-5, "int8-delta_spread": 1e-3, "int8-delta_time": 1.24,
    }  # fmt: skip
    assert told("float32", why) == (
        "dtype float32: bfloat16 has noise 2.0e-04 beside a spread of 1.0e-03; "
        "int8-delta has noise 3.0e-05 beside a spread of 1.0e-03 and takes 1.2 times as long as float32"
    )
    assert told("float32", {"reason": "fewer than 1000 lists"}) is None


def test_rank_correlation_is_spearmans_with_ties():
    draw = np.random.default_rng(3)
    a, b = draw.integers(0, 9, 50) / 10, draw.integers(0, 9, 50) / 10
    assert _compare(a, b, True).rank_correlation == pytest.approx(spearmanr(a, b).statistic)
