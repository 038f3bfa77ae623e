"""Screens whose products are on differences to originals: near float32, and the same rows however they are run."""

import numpy as np
import pytest
import torch

from rankshift.screen import Bundle, run
from rankshift.screen.cells.cells import Cells
from rankshift.screen.encoder.batches import groups
from rankshift.screen.encoder.cost import kept_bytes
from rankshift.screen.encoder.device import KEPT_BYTES
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.families.originals import Originals
from rankshift.screen.families.sizes import Sizes
from rankshift.screen.genes.framing import PLAIN
from rankshift.screen.perturb.asked import asked
from rankshift.screen.runs.layout import COMMITS
from support import GOLDEN, LEVEL, ROWS

NOISE = {
    "bfloat16-delta": 0.02,
    "int8-delta": 0.06,
}  # of the spread, at most, where a list's rows stand beside its original's
V2_316M = Sizes(
    layers=18, hidden_size=1152, intermediate_size=4608, heads=18, vocabulary=20275, positions=4096,
    layer_weights=4 * 1152**2 + 2 * 1152 * 4608,
)  # fmt: skip


@pytest.fixture(params=list(NOISE))
def dtype(request) -> str:
    return request.param


def noise(rough: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square of what differs over the spread, of the noisier column."""
    return float((np.sqrt(((rough - exact) ** 2).mean(0)) / exact.std(0)).max())


def measured(bundles, dtype, generation="v1", shares=True, some=None, tokens=3000, gene_rows=False, apart=False, **how):
    bundle = Bundle.open(bundles[generation])
    cells = Cells.read(GOLDEN / generation / "cells.parquet", bundle)
    given = {"kind": "delete", "how": "each", "genes": None} | how
    perturb = asked(frame=cells.frame, limit=bundle.input_size, **given)
    layers = bundle.sizes.layers - 1
    measure = Measure(level=LEVEL[generation], layers=max(layers, 2), states=None, tokens=tokens, genes=gene_rows)
    encoder = Encoder(bundle, dtype=dtype, share_first_layer=shares)
    return shifts_of(cells, np.arange(4), encoder, perturb, measure, some, apart=apart)


@pytest.mark.parametrize("shares", [True, False], ids=["shared", "unshared"])
def test_a_deletion_has_few_bits_and_little_noise(generation, shares, dtype, bundles):
    exact = measured(bundles, "float32", generation)
    found = measured(bundles, dtype, generation, shares)
    assert 0 < noise(found.measured.astype(float), exact.measured.astype(float)) < NOISE[dtype]
    plain = measured(bundles, dtype.removesuffix("-delta"), generation, shares)
    few = noise(plain.measured.astype(float), exact.measured.astype(float))
    assert noise(found.measured.astype(float), exact.measured.astype(float)) < 0.75 * few


def test_a_few_lists_of_each_cell_share_the_first_layer(dtype, bundles):
    some = {number: np.arange(1, 25, 2) for number in range(4)}
    exact = measured(bundles, "float32", some=some)
    found = measured(bundles, dtype, some=some, apart=True)
    assert 0 < noise(found.measured.astype(float), exact.measured.astype(float)) < NOISE[dtype]


@pytest.mark.parametrize(
    "how", [{"how": "pairs", "genes": tuple(range(5, 25))}, {"refill": True}], ids=["pairs", "refill"]
)
def test_pairs_and_refills(how, dtype, bundles):
    exact, found = (measured(bundles, d, **how).measured.astype(float) for d in ("float32", dtype))
    assert 0 < noise(found, exact) < NOISE[dtype]


def test_shifts_of_every_gene(dtype, bundles):
    exact, found = (measured(bundles, d, gene_rows=True) for d in ("float32", dtype))
    np.testing.assert_array_equal(found.gene_row, exact.gene_row)
    np.testing.assert_array_equal(found.gene_token, exact.gene_token)
    assert 0 < noise(found.gene_cosine.astype(float)[:, None], exact.gene_cosine.astype(float)[:, None]) < NOISE[dtype]


def test_rows_do_not_depend_on_threads(dtype, bundles):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = measured(bundles, dtype)
        torch.set_num_threads(3)
        three = measured(bundles, dtype)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(one.measured, three.measured)


OPTIONS = {"perturb": "delete", "embedding": "cell", "shard_tokens": 600, "dtype": "int8-delta", "max_cells": 4}


def test_a_shard_that_is_lost_comes_back_with_the_same_rows(bundles, tmp_path):
    """Its marker is the truth: without it the shard is computed again, beside originals of its own."""
    cells = GOLDEN / "v1/cells.parquet"
    whole = run(cells, bundles["v1"], tmp_path / "run", **OPTIONS)
    assert whole.screened.dtype == "int8-delta"
    rows, markers = whole.sql(ROWS), sorted((whole.path / COMMITS).iterdir())
    assert len(markers) > 2
    markers[1].unlink()
    resumed = run(cells, bundles["v1"], tmp_path / "run", resume=True, **OPTIONS)
    assert resumed.sql(ROWS).equals(rows)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("rows", [2048, 4096])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_what_the_longest_cells_of_the_largest_model_keep_is_bounded(rows, kind):
    """On torch's device without memory: every layer of one original of V2-316M, as the encoder keeps them."""
    d, inner = V2_316M.hidden_size, V2_316M.intermediate_size
    kept = Originals(KEPT_BYTES[kind])
    known = []
    for layer in range(V2_316M.layers):
        for name, (read, given) in {"qkv": (d, 3 * d), "out": (d, d), "up": (d, inner), "down": (inner, d)}.items():
            x, y = torch.empty(rows, read, device="meta"), torch.empty(rows, given, device="meta")
            kept.keep((layer, name), rows, torch.empty(rows, dtype=torch.int32, device="meta"), x, y, y[0])
            known.append(kept.of((layer, name)) is not None)
    whole = (rows + 1) * kept_bytes(V2_316M, V2_316M.layers)
    assert whole > 2.7e9 * rows / 2048  # 18 layers of 8 x 1152 + 2 x 4608 numbers a row
    assert kept.bytes <= KEPT_BYTES[kind]
    assert kept.bytes == whole if kind == "cuda" else kept.bytes > 0.9 * KEPT_BYTES[kind]
    assert known == sorted(known, reverse=True)  # from the first layer on


def test_what_is_not_kept_is_multiplied_in_float32(bundles, monkeypatch):
    """Without room for a single layer the whole of it is float32's answer."""
    monkeypatch.setitem(KEPT_BYTES, "cpu", 1)
    exact, found = (measured(bundles, d).measured for d in ("float32", "bfloat16-delta"))
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_cells_whose_originals_fit_the_room_go_together(bundles):
    bundle = Bundle.open(bundles["v1"])
    cells = Cells.read(GOLDEN / "v1/cells.parquet", bundle)
    delete = asked(kind="delete", how="each", genes=None, frame=PLAIN, limit=64)
    numbers, some = np.arange(6), {n: np.arange(2) for n in range(6)}
    whole = list(groups(cells, numbers, delete, 65_536, some))
    assert [len(group) for group, _ in whole] == [6]
    room = int(cells.lengths[:2].sum())
    cut = [group.tolist() for group, _ in groups(cells, numbers, delete, 65_536, some, room)]
    assert [number for group in cut for number in group] == numbers.tolist()
    assert cut[0] == [0, 1]
    assert all(len(group) == 1 or int(cells.lengths[group].sum()) <= room for group in cut)
