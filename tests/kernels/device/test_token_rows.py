"""Rows of single tokens against float64."""

import pytest
import torch

from rankshift.kernels.rank_shift import EmbeddingTables
from rankshift.kernels.token_rows import launch_token_rows


@pytest.mark.parametrize("dims", [24, 256, 768, 1152])
@pytest.mark.parametrize("rows", [1, 33])
def test_every_width(dims, rows, device):
    draw = torch.Generator().manual_seed(dims)
    shapes = {"word": (50, dims), "position": (20, dims), "type_row": (dims,), "gamma": (dims,), "beta": (dims,)}
    drawn = {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    token, position = torch.randint(50, (rows,), generator=draw), torch.randint(20, (rows,), generator=draw)
    tables = EmbeddingTables(**{name: value.to(device) for name, value in drawn.items()}, eps=1e-12)
    found = launch_token_rows(token.to(device), position.to(device), tables).cpu()
    wide = {name: value.double() for name, value in drawn.items()}
    total = wide["word"][token] + wide["position"][position] + wide["type_row"]
    wanted = torch.nn.functional.layer_norm(total, (dims,), wide["gamma"], wide["beta"], 1e-12)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
