"""Cosine shifts against loops over rows in float64, and the worked examples of the alignment rules."""

import math

import pytest
import torch

from rankshift.kernels.cosine_shift import cosine_rows, cosine_shift, prepare_base
from rankshift.kernels.perturbed_lists import NOWHERE, PerturbedLists, trace


def cosine(u: torch.Tensor, v: torch.Tensor) -> float:
    u, v = u.double(), v.double()
    return float(u @ v / (max(float(u.norm()), 1e-8) * max(float(v.norm()), 1e-8)))


def pack(ids, base, base_length, length, edits) -> PerturbedLists:
    edit = torch.tensor(edits).reshape(len(edits), -1, 3)
    return PerturbedLists.pack(
        ids=torch.tensor(ids),
        base=torch.tensor(base),
        base_length=torch.tensor(base_length),
        length=torch.tensor(length),
        source=edit[:, :, 0],
        destination=edit[:, :, 1],
        token=edit[:, :, 2],
    )


NONE = (NOWHERE, NOWHERE, -1)


def framed_batch() -> PerturbedLists:
    """Two framed cells [2, 10..15, 3] and [2, 20..23, 3]: deletion, overexpression, two joint edits, an insertion."""
    return pack(
        ids=[2, 10, 11, 12, 13, 14, 15, 3, 2, 20, 21, 22, 23, 3],
        base=[0, 0, 0, 8, 8],
        base_length=[8, 8, 8, 6, 6],
        length=[7, 8, 6, 7, 6],
        edits=[
            [(2, NOWHERE, -1), NONE],
            [(4, 1, -1), NONE],
            [(1, NOWHERE, -1), (3, NOWHERE, -1)],
            [(NOWHERE, 1, 40), NONE],
            [(3, 1, -1), (4, 2, -1)],
        ],
    )


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("dims", [1, 7, 300])
def test_matches_loops_over_rows(skip, dims):
    lists = framed_batch()
    generator = torch.Generator().manual_seed(dims)
    before, after = (torch.randn(n, dims, generator=generator) for n in (lists.ids.numel(), lists.rows))
    states = torch.randn(3, dims, generator=generator)
    base = prepare_base(
        before, torch.tensor([0, 8]), torch.tensor([8, 6]), skip_first=skip, skip_last=skip, states=states
    )
    shift = cosine_shift(base, after, lists, gene_cosines=True)

    index, _, moved = trace(lists)
    for p in range(5):
        start, length = int(lists.start[p]), int(lists.length[p])
        origin, base_length = int(lists.base[p]), int(lists.base_length[p])
        cosines = []
        for row in range(start, start + length):
            within = int(index[row]) - origin
            is_gene = skip <= row - start < length - skip
            if is_gene and not moved[row] and skip <= within < base_length - skip:
                cosines.append(cosine(after[row], before[index[row]]))
                assert float(shift.gene[row]) == pytest.approx(cosines[-1], abs=1e-6)
            else:
                assert math.isnan(shift.gene[row])
        pooled_after = after[start + skip : start + length - skip].double().mean(0)
        pooled_before = before[origin + skip : origin + base_length - skip].double().mean(0)
        assert int(shift.pairs[p]) == len(cosines)
        expected = sum(cosines) / len(cosines) if cosines else math.nan
        assert float(shift.similarity[p]) == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert float(shift.cell_cosine[p]) == pytest.approx(cosine(pooled_after, pooled_before), abs=1e-6)
        for s in range(3):
            assert float(shift.state_before[p, s]) == pytest.approx(cosine(pooled_before, states[s]), abs=1e-6)
            assert float(shift.state_after[p, s]) == pytest.approx(cosine(pooled_after, states[s]), abs=1e-6)


def aligned_pairs(lists: PerturbedLists, skip: int) -> list[list[tuple[int, int]]]:
    """(row of the perturbed list, row of the base list) pairs, read off one-hot hidden states."""
    bases = lists.ids.numel()
    base = prepare_base(torch.eye(bases), torch.tensor([0]), torch.tensor([bases]), skip_first=skip, skip_last=skip)
    pairs: list[list[tuple[int, int]]] = [[] for _ in range(lists.length.numel())]
    for candidate in range(bases):
        shift = cosine_shift(
            base, torch.eye(bases)[candidate].expand(lists.rows, -1).contiguous(), lists, gene_cosines=True
        )
        for p in range(lists.length.numel()):
            gene = shift.gene[lists.start[p] : lists.start[p + 1]]
            pairs[p] += [(row, candidate) for row in torch.nonzero(gene == 1).flatten().tolist()]
    return [sorted(p) for p in pairs]


def test_framed_deletions_pair_as_documented():
    ids = [2, 10, 11, 12, 13, 3]
    lists = pack(ids, [0] * 4, [6] * 4, [5] * 4, [[(i, NOWHERE, -1)] for i in (1, 2, 3, 4)])
    assert aligned_pairs(lists, skip=1) == [
        [(1, 2), (2, 3), (3, 4)],
        [(1, 1), (2, 3), (3, 4)],
        [(1, 1), (2, 2), (3, 4)],
        [(1, 1), (2, 2), (3, 3)],
    ]


def test_framed_overexpressions_pair_as_documented():
    ids = [2, 10, 11, 12, 13, 3]
    lists = pack(ids, [0] * 3, [6] * 3, [6] * 3, [[(i, 1, -1)] for i in (2, 3, 4)])
    assert aligned_pairs(lists, skip=1) == [
        [(2, 1), (3, 3), (4, 4)],
        [(2, 1), (3, 2), (4, 4)],
        [(2, 1), (3, 2), (4, 3)],
    ]


def test_plain_lists_pair_as_documented():
    lists = pack([10, 11, 12, 13], [0, 0], [4, 4], [3, 4], [[(1, NOWHERE, -1)], [(2, 0, -1)]])
    assert aligned_pairs(lists, skip=0) == [[(0, 0), (1, 2), (2, 3)], [(1, 0), (2, 1), (3, 3)]]


def test_a_joint_overexpression_with_an_absent_gene_pairs_the_rest():
    # [2, 10, 11, 12, 13, 3] -> [2, 13, 40, 10, 11, 12, 3]
    lists = pack([2, 10, 11, 12, 13, 3], [0], [6], [7], [[(4, 1, -1), (NOWHERE, 2, 40)]])
    assert aligned_pairs(lists, skip=1) == [[(3, 1), (4, 2), (5, 3)]]


def test_an_overflowing_list_loses_its_tail_and_keeps_its_eos():
    # input size 8: [2, 10..15, 3] with 40 inserted -> [2, 40, 10..14, 3], and 15 has no partner
    lists = pack([2, 10, 11, 12, 13, 14, 15, 3], [0], [8], [8], [[(NOWHERE, 1, 40), (7, NOWHERE, -1)]])
    assert aligned_pairs(lists, skip=1) == [[(2, 1), (3, 2), (4, 3), (5, 4), (6, 5)]]


def test_mean_of_cosines_is_not_the_cosine_of_means():
    base = prepare_base(torch.eye(2), torch.tensor([0]), torch.tensor([2]))
    swapped = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    shift = cosine_shift(base, swapped, pack([10, 11], [0], [2], [2], [[NONE]]))
    assert shift.similarity.tolist() == [0.0]
    assert shift.cell_cosine.item() == pytest.approx(1.0)


def test_goal_shift_of_one_row():
    states = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    shift = cosine_rows(torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]]), states)
    assert (shift.state_after - shift.state_before).flatten().tolist() == pytest.approx([0.8, -0.4])
    assert shift.similarity.tolist() == pytest.approx([0.6])
    assert torch.equal(shift.similarity, shift.cell_cosine)


def test_a_list_without_genes_has_no_similarity():
    lists = pack([2, 10, 3], [0], [3], [2], [[(1, NOWHERE, -1)]])
    base = prepare_base(torch.randn(3, 4), torch.tensor([0]), torch.tensor([3]), skip_first=1, skip_last=1)
    shift = cosine_shift(base, torch.randn(2, 4), lists)
    assert shift.pairs.tolist() == [0]
    assert math.isnan(shift.similarity)
    assert math.isnan(shift.cell_cosine)


def test_a_batch_may_be_empty():
    nothing = torch.empty(0, 1)
    lists = PerturbedLists.pack(
        ids=torch.arange(3), base=nothing[:, 0], base_length=nothing[:, 0], length=nothing[:, 0],
        source=nothing, destination=nothing, token=nothing,
    )  # fmt: skip
    base = prepare_base(torch.randn(3, 4), torch.tensor([0]), torch.tensor([3]), states=torch.randn(2, 4))
    shift = cosine_shift(base, torch.randn(0, 4), lists, gene_cosines=True)
    assert (shift.similarity.shape, shift.state_after.shape, shift.gene.shape) == ((0,), (0, 2), (0,))


def test_zero_rows_have_cosine_zero():
    base = prepare_base(torch.zeros(2, 4), torch.tensor([0]), torch.tensor([2]))
    shift = cosine_shift(base, torch.randn(2, 4), pack([10, 11], [0], [2], [2], [[NONE]]))
    assert shift.similarity.tolist() == [0.0]


def test_base_and_lists_of_different_packings_are_refused():
    base = prepare_base(torch.randn(14, 4), torch.tensor([0, 7]), torch.tensor([7, 7]))
    lists = framed_batch()
    with pytest.raises(ValueError, match="begins where no base cell does"):
        cosine_shift(base, torch.randn(lists.rows, 4), lists)
