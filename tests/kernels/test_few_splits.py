"""First-layer attention of a few edits and of their cell, against a softmax over each list's own rows in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rankshift.kernels.few_splits as few
from rankshift.kernels.few_splits import few_splits
from tests.kernels.test_first_layer import attention, listed, relative_error


@st.composite
def few_edits(draw):
    heads, head_dims = draw(st.sampled_from([(1, 8), (4, 16), (2, 5)]))
    tokens, moves = draw(st.integers(2, 70)), draw(st.booleans())
    front = draw(st.integers(0, tokens - 1)) if moves else 0
    splits = draw(st.sets(st.integers(front, tokens - 1), min_size=1, max_size=20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    below, above = torch.randn(2, tokens, 3 * heads * head_dims, generator=generator)
    extra = torch.randn(len(splits), below.shape[1], generator=generator) if moves else None
    return below, above, extra, torch.tensor(sorted(splits)), front, heads


def check(below, above, extra, split, front, heads) -> None:
    found = few_splits(below, above, extra, split.tolist(), front, heads)
    assert found is not None
    lists, cell = found
    expected = listed(below, above, extra, split, front, heads)
    if expected.numel():
        assert relative_error(lists, expected) < 1e-6
    assert relative_error(cell, attention(below if extra is None else above, heads)) < 1e-6


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(few_edits(), st.sampled_from([1, 300, 1 << 20]))
def test_few_splits_are_exact_whatever_the_block(case, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few, "BLOCK_ELEMENTS", block)
        check(*case)


@pytest.mark.parametrize("moves", [False, True])
def test_splits_far_apart_and_next_to_each_other(moves):
    generator = torch.Generator().manual_seed(1)
    below, above = torch.randn(2, 90, 3 * 32, generator=generator)
    split = torch.tensor([3, 4, 40, 70, 71, 89])
    check(below, above, torch.randn(6, 96, generator=generator) if moves else None, split, 2 if moves else 0, 2)


def test_a_leader_that_leaves_a_list_is_left_to_another_way_and_a_lesser_one_is_exact():
    """Of logits 200 above all others float32 keeps nothing else; 20 above them it does."""
    below, above = torch.randn(2, 40, 3 * 32, generator=torch.Generator().manual_seed(0)) * 0.1
    below[:, :32], above[:, :32] = 1.0, 1.0
    split = torch.tensor([5, 20, 30])
    for lead, kept in ((200, False), (20, True)):
        below[20, 32:64] = above[20, 32:64] = lead / 32**0.5
        if kept:
            check(below, above, None, split, 0, 1)
        else:
            assert few_splits(below, above, None, split.tolist(), 0, 1) is None


def test_sixteen_bits_are_rounded_once():
    below, above = torch.randn(2, 50, 3 * 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    lists, cell = few_splits(below, above, None, [3, 9, 30], 0, 2)
    assert lists.dtype == cell.dtype == torch.bfloat16
    assert relative_error(lists, listed(below, above, None, torch.tensor([3, 9, 30]), 0, 2)) < 5e-3
