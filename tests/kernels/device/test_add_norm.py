"""The kernel of residual add and LayerNorm against the formula in float64."""

import pytest
import torch

from rankshift.kernels.add_norm import launch_add_norm


@pytest.mark.parametrize(("rows", "dims"), [(1, 32), (257, 96), (33, 256), (5, 768), (3, 1152)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_sum_and_norm(rows, dims, dtype, device):
    draw = torch.Generator().manual_seed(rows)
    x, a, gamma, beta = (
        torch.randn(*shape, generator=draw) for shape in ((rows, dims), (rows, dims), (dims,), (dims,))
    )
    a = a.to(dtype)
    total = x.double() + a.double()
    centred = total - total.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt() * gamma.double() + beta.double()
    x, a, gamma, beta = (y.to(device) for y in (x, a, gamma, beta))
    half = torch.full_like(a, torch.nan)
    launch_add_norm(x, a, gamma, beta, 1e-12, half)
    torch.testing.assert_close(x.cpu().double(), expected, atol=2e-6, rtol=2e-6)
    assert torch.equal(half, x.to(dtype))
