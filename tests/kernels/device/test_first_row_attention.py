"""What first rows attend to, over lists of any lengths, against a softmax over each list's own rows in float64."""

import pytest
import torch

from rankshift.kernels.first_row_attention import launch_first_row_attention


def attended(x, u, lengths, device):
    start = torch.tensor([0, *lengths]).cumsum(0)
    return launch_first_row_attention(x.to(device), u.to(device), start.to(device), max(lengths)).cpu()


def listed(x, u, lengths):
    parts = [(u[p].double() @ rows.T).softmax(-1) @ rows for p, rows in enumerate(x.double().split(lengths))]
    return torch.stack(parts)


@pytest.mark.parametrize(
    ("lengths", "heads", "dims"),
    [([1, 2, 31, 33, 257], 4, 256), ([257, 3, 64], 12, 768), ([5, 40], 18, 1152), ([7], 2, 24)],
    ids=str,
)
def test_lists_of_any_lengths(lengths, heads, dims, device):
    draw = torch.Generator().manual_seed(dims)
    x = torch.randn(sum(lengths), dims, generator=draw)
    u = (
        torch.randn(heads, len(lengths), dims, generator=draw).transpose(0, 1) * dims**-0.5
    )  # by heads, as the product leaves it
    wanted = listed(x, u, lengths)
    torch.testing.assert_close(attended(x, u, lengths, device).double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_row_that_leads_the_softmax_by_far(device):
    x = torch.randn(70, 32, generator=torch.Generator().manual_seed(0))
    x[69, 0] = 4000.0
    u = torch.zeros(1, 2, 32)
    u[0, :, 0] = torch.tensor([30.0, -30.0])
    found = attended(x, u, [70], device)
    assert torch.equal(found[0, 0], x[69])
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.double(), listed(x, u, [70]), rtol=1e-5, atol=1e-5)
