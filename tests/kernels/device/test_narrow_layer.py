"""The ends of a narrow layer against float64, on rows that fill no block."""

import pytest
import torch

from rankshift.kernels.narrow_layer import launch_perceptron_norm, launch_product_norm

# Sums are float32 on both sides; of the perceptron the inner rows are rounded once to 16 bits.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def dtype(request) -> torch.dtype:
    return request.param


def drawn(dtype, *shapes):
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(*shape, generator=draw) * shape[-1] ** -0.5).to(dtype) for shape in shapes]


def normed(total, gamma, beta):
    return torch.nn.functional.layer_norm(total, total.shape[1:], gamma.double(), beta.double(), 1e-12)


@pytest.mark.parametrize("rows", [1, 63, 130])
@pytest.mark.parametrize(("dims", "inner"), [(64, 128), (256, 512)])
def test_product_norm(rows, dims, inner, dtype, device):
    a, weight, bias = drawn(dtype, (rows, inner), (dims, inner), (dims,))
    x, gamma, beta = drawn(torch.float32, (rows, dims), (dims,), (dims,))
    wanted = normed(x.double() + a.double() @ weight.double().T + bias.double(), gamma, beta)
    found = x.to(device, copy=True)
    launch_product_norm(found, a.to(device), weight.to(device).T, *(t.to(device) for t in (bias, gamma, beta)), 1e-12)
    torch.testing.assert_close(found.cpu().double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 63, 130])
@pytest.mark.parametrize(("dims", "inner"), [(64, 128), (256, 512)])
def test_perceptron_norm(rows, dims, inner, dtype, device):
    up, up_bias, down, down_bias = drawn(dtype, (inner, dims), (inner,), (dims, inner), (dims,))
    x, gamma, beta = drawn(torch.float32, (rows, dims), (dims,), (dims,))
    inside = (x.to(dtype).double() @ up.double().T + up_bias.double()).relu()
    wanted = normed(x.double() + inside @ down.double().T + down_bias.double(), gamma, beta)
    found = x.to(device, copy=True)
    half = launch_perceptron_norm(
        found, up.to(device).T, up_bias.to(device), down.to(device).T, *(t.to(device) for t in (down_bias, gamma, beta)),
        1e-12,
    )  # fmt: skip
    assert float((found.cpu().double() - wanted).abs().max()) < TOLERANCE[dtype] * float(wanted.abs().max())
    assert torch.equal(half, found.to(dtype))
