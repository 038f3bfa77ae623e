"""Shared first-layer attention against a softmax over each list's own rows, in float64, and against whole embeddings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rankshift.kernels.first_layer import first_layer, first_layer_reference, plain_first_layer, sharing_pays


def attention(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(E)) v of one list's rows [n, 3D], the plainest way, in float64."""
    query, key, value = rows.double().unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
    weight = (query @ key.transpose(1, 2) * query.shape[2] ** -0.5).softmax(-1)
    return (weight @ value).transpose(0, 1).flatten(1)


def listed(below, above, extra, split, front, heads) -> torch.Tensor:
    tokens = below.shape[0]
    lists = []
    for p, d in enumerate(split.tolist()):
        rows = [*below[:d], *above[d + 1 : tokens]]
        if extra is not None:
            rows.insert(front, extra[p])
        lists.append(attention(torch.stack(rows), heads))
    return torch.stack(lists)


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.double() - expected).abs().max() / expected.abs().max())


def shared(below, above, extra, split, front, heads) -> torch.Tensor:
    """The sharing path whatever the rule says."""
    removes = int(split[0]) < below.shape[0]
    out = below.new_empty(split.numel(), below.shape[0] - removes + (extra is not None), below.shape[1] // 3)
    return first_layer_reference(below, above, extra, split, front, heads, out)


@st.composite
def edits_of_one_cell(draw):
    heads, head_dims = draw(st.sampled_from([(1, 8), (4, 16), (2, 5)]))
    tokens = draw(st.integers(2, 70))
    kind = draw(st.sampled_from(["delete", "move", "insert"]))
    splits = draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=40))
    split = torch.full((len(splits),), tokens) if kind == "insert" else torch.tensor(sorted(splits))
    front = draw(st.integers(0, tokens - (kind != "insert")))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    below, above = torch.randn(2, tokens, 3 * heads * head_dims, generator=generator)
    extra = None if kind == "delete" else torch.randn(len(splits), below.shape[1], generator=generator)
    return below, above, extra, split, front, heads


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(edits_of_one_cell())
def test_sharing_is_exact(case):
    expected = listed(*case)
    result = shared(*case)
    assert relative_error(result, expected) < 1e-6
    assert relative_error(plain_first_layer(*case, torch.empty_like(result)), expected) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "step"), [(2048, 200), (601, 29)])
def test_splits_far_apart_in_long_lists_are_exact(tokens, step):
    below, above = torch.randn(2, tokens, 3 * 32, generator=torch.Generator().manual_seed(1))
    split = torch.arange(0, tokens, step)
    assert sharing_pays(tokens, split)
    assert relative_error(first_layer(below, above, None, split, 0, 2), listed(below, above, None, split, 0, 2)) < 1e-6


@pytest.mark.parametrize("leader", [0, 3, 20])
@pytest.mark.parametrize("moved", [False, True])
def test_a_removed_token_that_leads_the_softmax_by_far_leaves_the_rest_exact(leader, moved):
    """Its logit is 200 above all others: exp(-200) is 0 in float32, so a maximum shared with it would erase the rest."""
    heads, dims, tokens = 2, 32, 40
    generator = torch.Generator().manual_seed(leader)
    below, above = torch.randn(2, tokens, 3 * dims, generator=generator) * 0.1
    below[:, :dims], above[:, :dims] = 1.0, 1.0
    below[leader, dims : 2 * dims] = above[leader, dims : 2 * dims] = 200 / (dims // heads) ** 0.5
    extra = torch.randn(tokens, 3 * dims, generator=generator) * 0.1 if moved else None
    split = torch.arange(tokens)
    expected = listed(below, above, extra, split, 0, heads)
    result = shared(below, above, extra, split, 0, heads)
    assert torch.isfinite(result).all()
    assert relative_error(result[leader], expected[leader]) < 1e-6
    assert relative_error(result, expected) < 1e-6


def test_a_logit_of_one_token_may_differ_by_hundreds_between_its_two_positions():
    below, above = torch.randn(2, 30, 24, generator=torch.Generator().manual_seed(5))
    below[:, :8], above[:, :8] = 1.0, 1.0
    below[7, 8:16], above[7, 8:16] = 30.0, -30.0
    split = torch.arange(30)
    assert relative_error(shared(below, above, None, split, 0, 1), listed(below, above, None, split, 0, 1)) < 1e-6


@pytest.mark.parametrize("kind", ["delete", "overexpress", "insert"])
def test_whole_lists_through_embedding_projection_and_attention(kind):
    """The two positions per token that the docstring names give the attention of the edited lists themselves."""
    generator = torch.Generator().manual_seed(11)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    word, position, project = draw(99, 16), draw(64, 16), draw(16, 48) / 4
    qkv = lambda token, at: functional.layer_norm(word[token] + position[at], (16,)) @ project  # noqa: E731
    cell, place, front = torch.arange(50) + 10, torch.arange(50), 1
    if kind == "delete":
        below, above, extra, split = qkv(cell, place), qkv(cell, (place - 1).clamp(min=0)), None, place
        lists = [torch.cat([cell[:d], cell[d + 1 :]]) for d in range(50)]
    else:
        split = place[front + 1 :] if kind == "overexpress" else torch.full((20,), 50)
        moved = cell[split] if kind == "overexpress" else torch.arange(70, 90)
        below, above = qkv(cell, place + (place >= front)), qkv(cell, place)
        extra = qkv(moved, torch.full_like(moved, front))
        rest = [cell[cell != token] for token in moved]
        lists = [torch.cat([r[:front], token[None], r[front:]]) for r, token in zip(rest, moved, strict=True)]
    expected = torch.stack([attention(qkv(tokens, torch.arange(len(tokens))), 2) for tokens in lists])
    assert relative_error(first_layer(below, above, extra, split, front, 2), expected) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)]
)
def test_other_dtypes_are_rounded_once(dtype, tolerance):
    below, above = torch.randn(2, 60, 48, generator=torch.Generator().manual_seed(3)).to(dtype)
    split = torch.arange(60)
    result = first_layer(below, above, None, split, 0, 2)
    assert result.dtype == dtype
    assert relative_error(result, listed(below, above, None, split, 0, 2)) < tolerance


def test_the_rule_of_sharing():
    assert sharing_pays(2048, torch.arange(64))
    assert sharing_pays(2048, [0, 400, 800, 1200, 1600, 2000])
    assert not sharing_pays(2048, [0, 400, 800])
    assert not sharing_pays(20, torch.arange(20))


def test_a_result_is_written_where_asked():
    below, above = torch.randn(2, 60, 48)
    out = torch.empty(60, 59, 16)
    assert first_layer(below, above, None, torch.arange(60), 0, 2, out) is out
    assert torch.equal(out, first_layer(below, above, None, torch.arange(60), 0, 2))


def test_a_list_that_loses_its_only_token_has_no_rows():
    assert first_layer(torch.randn(1, 12), torch.randn(1, 12), None, torch.tensor([0]), 0, 2).shape == (1, 0, 4)


def test_wrong_input_is_refused():
    below, above = torch.randn(2, 10, 12)
    with pytest.raises(ValueError, match=r"split must ascend within 0\.\.10"):
        first_layer(below, above, None, torch.tensor([3, 2]), 0, 2)
    with pytest.raises(ValueError, match=r"some splits remove a token and some \(= 10\) do not"):
        first_layer(below, above, None, torch.tensor([3, 10]), 0, 2)
    with pytest.raises(ValueError, match="front is 10, must be a row of the 10-row lists"):
        first_layer(below, above, torch.randn(2, 12), torch.tensor([3, 4]), 10, 2)
    with pytest.raises(ValueError, match=r"must be \[N, 3D\] of one dtype, D % 3 == 0"):
        first_layer(below, above, None, torch.tensor([3]), 0, 3)
