"""The noise floor: what it samples, and that it sees noise where there is some."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.noise import CELLS, FEWEST, MOST, Sample, _compare, choose_dtype
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


def test_rank_correlation_is_spearmans_with_ties():
    draw = np.random.default_rng(3)
    a, b = draw.integers(0, 9, 50) / 10, draw.integers(0, 9, 50) / 10
    assert _compare(a, b, True).rank_correlation == pytest.approx(spearmanr(a, b).statistic)
