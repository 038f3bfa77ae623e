"""8-bit products against the formula in float64, and what they cost a screen."""

import numpy as np
import pytest
import torch

from rankshift.kernels import eight_bit
from rankshift.kernels.eight_bit import EightBit
from rankshift.screen import Bundle, InputError, run
from rankshift.screen.encoder.encoder import Encoder
from support import GOLDEN


def plainly(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The formula at the top of the kernel."""
    s = np.abs(x).max(1, keepdims=True) / 127
    t = np.abs(w).max(0) / 127
    q, v = np.round(x / s), np.round(w / t)
    return (q @ v) * s * t + bias


@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 8, 8), (37, 48, 96), (600, 32, 24)])
def test_a_product_is_the_formula(rows, inner, outer):
    draw = np.random.default_rng(0)
    x, w, bias = draw.normal(size=(rows, inner)), draw.normal(size=(inner, outer)), draw.normal(size=outer)
    x, w, bias = (torch.tensor(a, dtype=torch.float32) for a in (x, w, bias))
    found = EightBit.of(w).product(x, bias)
    expected = plainly(*(a.double().numpy() for a in (x, w, bias)))
    close = np.isclose(found.numpy(), expected, atol=1e-4)
    assert close.mean() > 0.98  # a tie of rounding may fall to the other side in float32
    exact = (x @ w + bias).numpy()
    assert 0 < np.abs(found.numpy() - exact).max() < 0.05 * np.abs(exact).max() + 0.2


def test_a_row_does_not_depend_on_its_batch_and_zeros_stay_zeros():
    torch.manual_seed(0)
    weight, bias = EightBit.of(torch.randn(32, 16)), torch.randn(16)
    x = torch.randn(50, 32)
    x[7] = 0
    whole = weight.product(x, bias)
    assert torch.equal(whole[20:23], weight.product(x[20:23], bias))
    assert torch.equal(whole[7], bias)
    assert torch.equal(EightBit.of(torch.zeros(8, 8)).float(), torch.zeros(8, 8))


@pytest.mark.slow
def test_a_screen_in_8_bits_is_near_and_its_noise_floor_says_how_near(bundles, tmp_path):
    options = {"perturb": "delete", "max_cells": 3}
    exact, rough = (
        run(GOLDEN / "v2/cells.parquet", bundles["v2"], tmp_path / dtype, dtype=dtype, **options)
        for dtype in ("float32", "int8")
    )
    query = "SELECT similarity FROM shifts ORDER BY cell, perturbation"
    a, b = (done.frame(query).similarity.to_numpy() for done in (exact, rough))
    assert np.corrcoef(a, b)[0, 1] > 0.9
    off = np.abs(a - b)
    floors = [done.manifest["noise_floor"]["similarity"] for done in (exact, rough)]
    assert rough.manifest["dtype"] == "int8"
    assert floors[1]["median"] > 10 * floors[0]["median"]
    assert floors[1]["max"] == pytest.approx(off.max(), rel=0.9)


def test_a_device_without_8_bit_products_is_refused_in_one_line(bundles, monkeypatch):
    def lacking(*_):
        raise NotImplementedError("no _int_mm here")

    monkeypatch.setattr(torch, "_int_mm", lacking)
    with pytest.raises(InputError, match=r"dtype int8 needs products of 8-bit integers, torch \S+ does not"):
        Encoder(Bundle.open(bundles["v1"]), dtype="int8")
    assert "which 8 divides" not in eight_bit.multiplies(torch.device("cpu"), {12})
