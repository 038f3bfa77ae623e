"""Attention over packed lists on the CPU: the reference against a softmax in float64, and what is refused."""

import pytest
import torch

from rankshift.kernels.varlen_attention import kernel_takes, varlen_attention


def listed(qkv: torch.Tensor, lengths: list[int], heads: int) -> torch.Tensor:
    parts = []
    for rows in qkv.double().split(lengths):
        query, key, value = rows.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
        weight = (query @ key.transpose(1, 2) * query.shape[2] ** -0.5).softmax(-1)
        parts.append((weight @ value).transpose(0, 1).flatten(1))
    return torch.cat(parts)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 5e-4), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("lengths", [[1], [257], [33, 1, 2, 31]], ids=str)
def test_each_list_attends_to_itself_alone(lengths, dtype, tolerance):
    qkv = torch.randn(sum(lengths), 3 * 2 * 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = varlen_attention(qkv, torch.tensor([0, *lengths]).cumsum(0), max(lengths), 2)
    expected = listed(qkv, lengths, 2)
    assert found.dtype == dtype
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < tolerance


def test_no_rows():
    assert varlen_attention(torch.empty(0, 96), torch.tensor([0]), 0, 2).shape == (0, 32)


def test_what_the_kernel_takes():
    assert kernel_takes(torch.float16, 64)
    assert kernel_takes(torch.bfloat16, 128)
    assert not kernel_takes(torch.float32, 64)
    assert not kernel_takes(torch.float16, 48)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"must be contiguous \[T, 3D\] with D % 2 == 0"):
        varlen_attention(torch.zeros(4, 9), torch.tensor([0, 4]), 4, 2)
    with pytest.raises(ValueError, match=r"start is torch.int32 \(2,\) on cpu, must be int64"):
        varlen_attention(torch.zeros(4, 12), torch.tensor([0, 4], dtype=torch.int32), 4, 2)
