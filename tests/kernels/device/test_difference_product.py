"""The kernel against its formula in float64, on rows, columns and inner sizes that fill no block."""

import pytest
import torch

from rankshift.kernels.difference_product import difference_product_reference, launch_difference_product
from rankshift.kernels.eight_bit import EightBit

TOLERANCE = {torch.float16: 2**-10, torch.bfloat16: 2**-7}  # roundings of the difference and of the weight


@pytest.fixture(params=[torch.float16, torch.bfloat16, torch.int8], ids=["float16", "bfloat16", "int8"])
def bits(request) -> torch.dtype:
    return request.param


def drawn(rows, originals, inner, outer):
    draw = torch.Generator().manual_seed(rows)
    inputs, weight = torch.randn(originals, inner, generator=draw), torch.randn(outer, inner, generator=draw)
    inputs[-1] = 0  # of rows without an original
    products = (inputs.double() @ weight.double().T).float() + torch.randn(outer, generator=draw)
    row = torch.randint(0, originals, (rows,), generator=draw, dtype=torch.int32)
    return inputs[row] + 0.1 * torch.randn(rows, inner, generator=draw), inputs, products, row, weight.T


@pytest.mark.parametrize(
    ("rows", "inner", "outer", "relu"), [(1, 16, 16, False), (63, 48, 80, True), (130, 256, 136, False)]
)
def test_difference_product(rows, inner, outer, relu, bits, device):
    x, inputs, products, row, weight = drawn(rows, 9, inner, outer)
    few = EightBit.of(weight) if bits == torch.int8 else weight.to(bits)
    found = torch.empty(rows, outer, device=device)
    on_device = [t.to(device) for t in (x, inputs, products, row)]
    matrix = (
        EightBit(few.weight.T.contiguous().to(device).T, few.scale.to(device))
        if isinstance(few, EightBit)
        else few.to(device)
    )
    launch_difference_product(*on_device, matrix, relu, found)
    if isinstance(few, EightBit):  # whole numbers are exact on both sides
        wanted = torch.empty(rows, outer)
        difference_product_reference(x, inputs, products, row, few, relu, wanted)
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-5, atol=1e-4)
        return
    moved = (x.double() - inputs[row].double()) @ weight.double()
    wanted = products[row].double() + moved
    wanted = wanted.relu() if relu else wanted
    assert float((found.cpu().double() - wanted).abs().max()) < TOLERANCE[bits] * float(moved.abs().max()) + 1e-5


def test_rounded_inputs_and_outputs_of_16_bits(device):
    """Attention in 16 bits gives what is multiplied, and reads the product."""
    x, inputs, products, row, weight = drawn(70, 5, 32, 48)
    half = x.half()
    found = torch.empty(70, 48, dtype=torch.float16, device=device)
    launch_difference_product(*(t.to(device) for t in (half, inputs, products, row, weight.half())), False, found)
    wanted = products[row].double() + (half.double() - inputs[row].double()) @ weight.double()
    assert float((found.cpu().double() - wanted).abs().max()) < 2**-10 * float(wanted.abs().max())
