"""The embedding kernel against the torch reference: odd lengths, several edits, every width in use."""

import pytest
import torch

from rankshift.kernels.perturbed_lists import NOWHERE, PerturbedLists
from rankshift.kernels.rank_shift import EmbeddingTables, launch_rank_shift, rank_shift_reference

DELETE, MOVE, INSERT, NONE = (2, NOWHERE, -1), (4, 1, -1), (NOWHERE, 1, 7), (NOWHERE, NOWHERE, -1)


def tables(dims: int, positions: int, dtype: torch.dtype) -> EmbeddingTables:
    generator = torch.Generator().manual_seed(dims)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    return EmbeddingTables(
        word=draw(60, dims), position=draw(positions, dims), type_row=draw(dims), gamma=draw(dims), beta=draw(dims)
    )


def lists_of(lengths, edits, lost) -> PerturbedLists:
    """List i: `lengths[i]` base tokens and `edits[i]`, which together change its length by -`lost[i]`."""
    edit = torch.tensor(edits)
    length = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(int(length.sum()))
    return PerturbedLists.pack(
        ids=torch.randint(0, 60, (int(length.sum()),), generator=generator),
        base=length.cumsum(0) - length,
        base_length=length,
        length=length - torch.tensor(lost),
        source=edit[:, :, 0],
        destination=edit[:, :, 1],
        token=edit[:, :, 2],
    )


def compare(lists, bert, dtype, device, tolerance, block_rows):
    expected = rank_shift_reference(lists, bert, torch.empty(lists.rows, bert.word.shape[1]))
    on_device = EmbeddingTables(
        **{name: getattr(bert, name).to(device) for name in ("word", "position", "type_row", "gamma", "beta")}
    )
    out = torch.full((lists.rows, bert.word.shape[1]), torch.nan, dtype=dtype, device=device)
    launch_rank_shift(lists.to(device), on_device, out, block_rows=block_rows)
    torch.testing.assert_close(out.cpu().float(), expected, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("dims", [256, 512, 768, 896, 1152])
def test_every_width_and_dtype(dims, dtype, tolerance, device):
    lists = lists_of([13, 31, 7], [[DELETE], [MOVE], [INSERT]], [1, 0, -1])
    compare(lists, tables(dims, 32, dtype), dtype, device, tolerance, block_rows=8)


def test_three_edits_of_every_kind(dtype, tolerance, device):
    edits = [[DELETE, MOVE, INSERT], [INSERT, DELETE, NONE], [MOVE, MOVE, MOVE], [NONE, NONE, NONE]]
    compare(
        lists_of([17, 9, 11, 5], edits, [0, 0, 0, 0]), tables(48, 20, dtype), dtype, device, tolerance, block_rows=8
    )


@pytest.mark.parametrize(
    ("lengths", "edits", "lost"),
    [
        ([1], [[NONE]], [0]),
        ([1, 2], [[(0, NOWHERE, -1)], [(0, NOWHERE, -1)]], [1, 1]),  # the first list is left empty
        ([2], [[(1, 0, -1)]], [0]),
        ([1], [[(NOWHERE, 0, 5)]], [-1]),
        ([40], [[(NOWHERE, 1, 5), (39, NOWHERE, -1), *[NONE] * 20]], [0]),
    ],
)
def test_short_lists(lengths, edits, lost, device):
    lists = lists_of(lengths, edits, lost)
    compare(lists, tables(33, 41, torch.float32), torch.float32, device, 2e-6, block_rows=16)


def test_a_list_at_the_limit_of_the_model(device):
    lists = lists_of([2048], [[(NOWHERE, 0, 5)]], [0])  # a token is inserted, and the last one falls off
    compare(lists, tables(64, 2048, torch.float32), torch.float32, device, 2e-6, block_rows=64)


def test_float32_tables_and_half_output(device):
    lists = lists_of([13, 31], [[DELETE], [MOVE]], [1, 0])
    compare(lists, tables(64, 32, torch.float32), torch.float16, device, 2**-11, block_rows=8)
