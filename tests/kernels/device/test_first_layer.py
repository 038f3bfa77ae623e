"""The shared-attention kernels against a softmax over each list's own rows, in float64."""

import pytest
import torch

from rankshift.kernels.first_layer import launch_first_layer

# Inputs are rounded before either side sees them; what is left is the rounding of weights and output.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def attention(rows: torch.Tensor, heads: int) -> torch.Tensor:
    query, key, value = rows.double().unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
    weight = (query @ key.transpose(1, 2) * query.shape[2] ** -0.5).softmax(-1)
    return (weight @ value).transpose(0, 1).flatten(1)


def compare(below, above, extra, split, front, heads, device, block=None, block_splits=32):
    lists = []
    for p, d in enumerate(split.tolist()):
        rows = [*below[:d], *above[d + 1 :]]
        if extra is not None:
            rows.insert(front, extra[p])
        lists.append(attention(torch.stack(rows), heads))
    expected = torch.stack(lists)
    out = torch.full(expected.shape, torch.nan, dtype=below.dtype, device=device)
    on_device = [x if x is None else x.to(device) for x in (below, above, extra)]
    launch_first_layer(*on_device, split, front, heads, out, block, block_splits)
    error = (out.cpu().double() - expected).abs().max() / expected.abs().max()
    assert float(error) < TOLERANCE[below.dtype]


def draw(tokens, width, dtype, seed=0):
    return torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize(("heads", "head_dims", "tokens"), [(2, 64, 2), (2, 64, 31), (1, 32, 17), (3, 16, 67)])
def test_deletions(heads, head_dims, tokens, dtype, device):
    below, above = draw(tokens, 3 * heads * head_dims, dtype)
    split = torch.arange(0, tokens, max(1, tokens // 12))
    compare(below, above, None, split, 0, heads, device)


@pytest.mark.parametrize("front", [0, 1, 33])
def test_moves(front, dtype, device):
    below, above = draw(34, 3 * 64, dtype, front)
    split = torch.arange(front - 18, front) if front > 20 else torch.arange(front, 18)
    extra = torch.randn(len(split), 3 * 64, generator=torch.Generator().manual_seed(9)).to(dtype)
    compare(below, above, extra, split, front, 1, device, block=32, block_splits=16)


@pytest.mark.parametrize("front", [0, 1, 20])
def test_insertions(front, dtype, device):
    below, above = draw(20, 3 * 64, dtype, front)
    extra = torch.randn(17, 3 * 64, generator=torch.Generator().manual_seed(9)).to(dtype)
    compare(below, above, extra, torch.full((17,), 20), front, 1, device)


def test_splits_with_wide_windows(dtype, device):
    below, above = draw(97, 3 * 32, dtype)
    compare(below, above, None, torch.tensor([0, 3, 3, 40, 41, 90, 96]), 0, 1, device, block=32)


@pytest.mark.parametrize("leader", [0, 5, 29])
def test_a_removed_token_that_leads_the_softmax_by_far_leaves_the_rest_exact(leader, device):
    below, above = draw(30, 3 * 16, torch.float32, leader) * 0.1
    below[:, :16], above[:, :16] = 1.0, 1.0
    below[leader, 16:32] = above[leader, 16:32] = 50.0  # a logit of 200
    compare(below, above, None, torch.arange(30), 0, 1, device, block_splits=16)
