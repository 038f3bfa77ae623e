"""Residual add and LayerNorm on the CPU, and what is refused."""

import pytest
import torch

from rankshift.kernels.add_norm import add_norm


def test_a_row_worked_out_by_hand():
    """(1, 3) + (1, 3) = (2, 6): mean 4, deviation 2, so -1 and 1; times 10, plus 0.5."""
    x, a = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 3.0]], dtype=torch.float16)
    half = add_norm(x, a, torch.full((2,), 10.0), torch.full((2,), 0.5), 0.0)
    assert x.tolist() == [[-9.5, 10.5]]
    assert half.tolist() == [[-9.5, 10.5]]
    assert half.dtype == torch.float16


def test_wrong_input_is_refused():
    row = torch.zeros(2)
    with pytest.raises(
        ValueError, match=r"x is torch.float32 \(1, 2\), a torch.float32 \(1, 2\): must be contiguous float32"
    ):
        add_norm(torch.zeros(1, 2), torch.zeros(1, 2), row, row, 0.0)
