"""Cosines of one embedding per perturbation against float64, on lists in several chunks."""

import pytest
import torch

from rankshift.kernels.row_cosines import launch_means, launch_row_cosines


def cos(u, v):
    return (u * v).sum(-1) / (u.norm(dim=-1) * v.norm(dim=-1))


@pytest.mark.parametrize("dims", [24, 256, 768, 1152])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("states", [0, 2])
def test_every_width(dims, chunks, states, device):
    draw = torch.Generator().manual_seed(dims)
    sums, before, at = (torch.randn(*shape, generator=draw) for shape in ((5, chunks, dims), (3, dims), (states, dims)))
    length, index = torch.tensor([9, 4, 300, 3, 2], dtype=torch.int32), torch.tensor([2, 0, 1, 1, 2])
    found = launch_row_cosines(
        *(x.to(device) for x in (sums, length)), 2, *(x.to(device) for x in (index, before)),
        at.to(device) if states else None,
    )  # fmt: skip
    after = sums.double().sum(1) / (length.double() - 2)[:, None]
    row = before[index].double()
    wanted = cos(after, row), cos(row[:, None], at.double()), cos(after[:, None], at.double())
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.cpu()[:4].double(), theirs[:4], rtol=1e-5, atol=2e-6)
        assert ours.cpu()[4].isnan().all() or ours is found[1]  # no gene row is left: nothing after, the cell before
    mean = launch_means(sums.to(device), length.to(device), 2).cpu()
    torch.testing.assert_close(mean[:4].double(), after[:4], rtol=1e-5, atol=2e-6)


def test_an_embedding_that_did_not_change_shifts_by_exactly_zero(dtype, device):
    rows = torch.randn(4, 1, 100).to(dtype).to(device)
    one = torch.ones(4, dtype=torch.int32, device=device)
    states = torch.randn(3, 100).to(device)
    _, before, after = launch_row_cosines(rows, one, 0, torch.arange(4).to(device), rows[:, 0].contiguous(), states)
    assert torch.equal(before, after)
