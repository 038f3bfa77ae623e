"""The attention kernel over lists of any lengths against a softmax over each list's own rows, in float64."""

import pytest
import torch

from rankshift.kernels.varlen_attention import launch_varlen_attention

# Inputs are rounded before either side sees them; what is left is the rounding of weights and output.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def dtype(request) -> torch.dtype:
    return request.param


def draw(lengths, width, dtype):
    return torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(0)).to(dtype)


def attended(qkv, lengths, heads, device):
    start = torch.tensor([0, *lengths]).cumsum(0)
    out = torch.full((len(qkv), qkv.shape[1] // 3), torch.nan, dtype=qkv.dtype, device=device)
    return launch_varlen_attention(qkv.to(device), start.to(device), max(lengths), heads, out).cpu()


def listed(qkv, lengths, heads):
    parts = []
    for rows in qkv.double().split(lengths):
        q, k, v = rows.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
        weight = (q @ k.transpose(1, 2) * q.shape[2] ** -0.5).softmax(-1)
        parts.append((weight @ v).transpose(0, 1).flatten(1))
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("lengths", "heads", "head_dims"),
    [
        *[([n], 1, 64) for n in (1, 2, 31, 33, 257)],
        ([257, 1, 33, 2, 31, 64, 128], 2, 64),
        ([33, 2, 257], 1, 32),
        ([31, 130], 1, 128),
    ],
    ids=str,
)
def test_lists_of_any_lengths(lengths, heads, head_dims, dtype, device):
    qkv = draw(lengths, 3 * heads * head_dims, dtype)
    expected = listed(qkv, lengths, heads)
    error = (attended(qkv, lengths, heads, device).double() - expected).abs().max() / expected.abs().max()
    assert float(error) < TOLERANCE[dtype]


def test_a_list_gets_the_same_bits_whatever_lies_beside_it(dtype, device):
    lengths = [65, 3, 140]
    qkv = draw(lengths, 3 * 64, dtype)
    alone = [attended(rows.contiguous(), [len(rows)], 1, device) for rows in qkv.split(lengths)]
    assert torch.equal(attended(qkv, lengths, 1, device), torch.cat(alone))


def test_a_key_that_leads_the_softmax_by_far_and_logits_beyond_16_bits(dtype, device):
    """Logits of the first and the last key of a list are 80,000 apart: float16 ends at 65,504."""
    qkv = draw([70, 40], 3 * 32, dtype) * 0.1
    qkv[:, :32] = 150.0
    qkv[69, 32:64], qkv[0, 32:64] = 75.0, -20.0
    expected = listed(qkv, [70, 40], 1)
    found = attended(qkv, [70, 40], 1, device)
    assert torch.isfinite(found).all()
    assert torch.equal(found[:70], qkv[69, 64:].expand(70, -1))
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert float(error) < TOLERANCE[dtype]
