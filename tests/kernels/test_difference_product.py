"""Products by way of a difference: against the formula in float64, and how much less they lose than products of the rows."""

import numpy as np
import pytest
import torch

from rankshift.kernels.difference_product import difference_product
from rankshift.kernels.eight_bit import EightBit


def few_bits(weight: torch.Tensor, bits: str) -> torch.Tensor | EightBit:
    return EightBit.of(weight) if bits == "int8" else weight.to(getattr(torch, bits)).T.contiguous().T


def drawn(rows: int, originals: int, inner: int, outer: int, apart: float) -> tuple[torch.Tensor, ...]:
    """x, inputs, products, row, weight: rows that differ from their originals by `apart`, every fifth without an original."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(originals + 1, inner, generator=draw)
    inputs[-1] = 0
    weight, bias = torch.randn(inner, outer, generator=draw), torch.randn(outer, generator=draw)
    row = torch.randint(0, originals, (rows,), generator=draw, dtype=torch.int32)
    row[::5] = originals
    x = inputs[row] + apart * torch.randn(rows, inner, generator=draw)
    return x, inputs, (inputs.double() @ weight.double() + bias.double()).float(), row, weight


def in_float64(x, inputs, products, row, weight, relu):
    """The formula at the top of the kernel, of 8 bits."""
    x, inputs, products, weight = (t.double().numpy() for t in (x, inputs, products, weight))
    d = x - inputs[row.numpy()]
    s = np.abs(d).max(1, keepdims=True) / 127
    t = np.abs(weight).max(0) / 127
    y = products[row.numpy()] + (np.round(d / s) @ np.round(weight / t)) * s * t
    return np.maximum(y, 0) if relu else y


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 8, 8), (37, 48, 96), (1100, 32, 24)])
def test_eight_bits_are_the_formula(rows, inner, outer, relu):
    case = drawn(rows, 7, inner, outer, 0.05)
    found = difference_product(*case[:4], EightBit.of(case[4]), relu=relu)
    expected = in_float64(*case, relu)
    close = np.isclose(found.numpy(), expected, atol=1e-4)
    assert close.mean() > 0.98  # a tie of rounding may fall to the other side in float32
    assert np.abs(found.numpy() - expected).max() < 0.05 * np.abs(expected).max() + 0.2


@pytest.mark.parametrize(("bits", "error"), [("float16", 2**-10), ("bfloat16", 2**-7), ("int8", 2**-5)])
def test_the_error_is_in_proportion_to_the_difference(bits, error):
    """A thousandth of the difference, a thousandth of the error; the row itself is as large as before."""
    for apart in (1.0, 1e-3):
        x, inputs, products, row, weight = drawn(200, 50, 64, 48, apart)
        x, row = x[row < 50], row[row < 50]
        exact = products[row].double() + (x.double() - inputs[row].double()) @ weight.double()
        off = (difference_product(x, inputs, products, row, few_bits(weight, bits)).double() - exact).std()
        moved = ((x.double() - inputs[row].double()) @ weight.double()).std()
        assert off < error * moved + 3e-6
        assert off > 0


def test_a_row_equal_to_its_original_has_its_product_and_one_without_is_multiplied_plainly():
    x, inputs, products, row, weight = drawn(20, 4, 16, 8, 0.3)
    for bits in ("bfloat16", "int8"):
        few = few_bits(weight, bits)
        assert torch.equal(difference_product(inputs[row], inputs, products, row, few), products[row])
        alone = difference_product(x, inputs, products, torch.full_like(row, 4), few)
        bias = products[4]
        if isinstance(few, EightBit):
            torch.testing.assert_close(alone, few.product(x, bias), atol=1e-5, rtol=1e-5)
            continue
        plain = x.to(few.dtype).double() @ few.double() + bias.double()
        most = 2**-8 * float(plain.abs().max()) + 1e-5  # where 16 bits are multiplied natively, the sum has them too
        assert float((alone.double() - plain).abs().max()) < most


def test_a_row_does_not_depend_on_its_batch():
    x, inputs, products, row, weight = drawn(1200, 40, 32, 16, 0.1)
    few = EightBit.of(weight)
    whole = difference_product(x, inputs, products, row, few)
    assert torch.equal(whole[500:530], difference_product(x[500:530], inputs, products, row[500:530], few))


def test_wrong_input_is_refused():
    x, inputs, products, row, weight = drawn(3, 2, 8, 4, 0.1)
    few = EightBit.of(weight)
    with pytest.raises(
        ValueError, match=r"x \(3, 7\), inputs \(3, 8\), products \(3, 4\) and weight \(8, 4\) disagree"
    ):
        difference_product(x[:, :7], inputs, products, row, few)
    with pytest.raises(ValueError, match=r"row torch\.int64: must be float32 and int32"):
        difference_product(x, inputs, products, row.long(), few)
    with pytest.raises(ValueError, match=r"row is \(2,\) for 3 rows: give one of each"):
        difference_product(x, inputs, products, row[:2], few)
