"""Edits against plain list operations, and the worked examples of the published code (PS 8)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankshift.kernels.perturbed_lists import PerturbedLists, trace
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import Perturb, edits_of, eligible

CLS, EOS = 2, 3


def lists_of(cell: list[int], perturb: Perturb) -> list[list[int]]:
    """The perturbed lists that the edits of a cell make."""
    ids = np.array(cell, np.int32)
    edits = edits_of(ids, perturb)
    if not len(edits):
        return []
    many = len(edits)
    lists = PerturbedLists.pack(
        ids=torch.tensor(ids),
        base=torch.zeros(many, dtype=torch.int64),
        base_length=torch.full((many,), len(ids)),
        length=torch.tensor(edits.length),
        source=torch.tensor(edits.source),
        destination=torch.tensor(edits.destination),
        token=torch.tensor(edits.token),
    )
    index, token, _ = trace(lists)
    flat = torch.where(token >= 0, token, torch.tensor(ids)[index.clamp(min=0)])
    return [part.tolist() for part in flat.split(edits.length.tolist())]


def plainly(cell: list[int], perturb: Perturb) -> list[list[int]]:
    """The same lists by Python list operations alone, in the order of the edits."""
    head, tail = ([cell[0]], [cell[-1]]) if perturb.frame.head else ([], [])
    genes = cell[len(head) : len(cell) - len(tail)]
    room = perturb.limit - len(head) - len(tail)
    out = []
    if perturb.genes is None:
        groups = [(g,) for g in genes[perturb.kind.name == "overexpress" :]]
    elif perturb.how == "each":
        present = sorted((g for g in perturb.genes if g in genes), key=genes.index)
        groups = [(g,) for g in present] + [(g,) for g in perturb.genes if g not in genes]
    else:
        groups = [perturb.genes]
    for group in groups:
        rest = [g for g in genes if g not in group]
        if perturb.kind.name == "overexpress":
            out.append(head + (list(group) + rest)[:room] + tail)
        elif set(group) <= set(genes) and head + rest:
            out.append(head + rest + tail)
    return out


PLACES = {"activate": lambda r, q, n: (r * 4 // n) - q, "inhibit": lambda r, q, n: (r * 4 // n) + q}


@given(st.integers(1, 60), st.sampled_from(["activate", "inhibit"]), st.integers(1, 3), st.booleans())
def test_a_quartile_shift_moves_one_gene_and_loses_none(n, kind, quartiles, framed):
    genes = list(range(10, 10 + n))
    cell = [CLS, *genes, EOS] if framed else genes
    perturb = perturb_of(kind, framed=framed, limit=80, rank_shift=quartiles)
    labels = edits_of(np.array(cell), perturb).key.tolist()
    lists = lists_of(cell, perturb)
    for gene, moved in zip(labels, lists, strict=True):
        body = moved[1:-1] if framed else moved
        assert sorted(body) == genes
        assert [t for t in body if t != gene] == [t for t in genes if t != gene]
        rank, target = gene - 10, PLACES[kind](gene - 10, quartiles, n)
        at = body.index(gene)
        assert at < rank if kind == "activate" else at > rank
        if 0 <= target < 4:
            assert at == int((target + 0.5) * n / 4)
        else:
            assert at == (0 if kind == "activate" else n - 1)


def test_a_gene_goes_to_a_fraction_of_the_ranks():
    cell = list(range(10, 21))
    up = lists_of(cell, perturb_of("activate", genes=(20, 11, 10), to=0.2))
    assert up == [[10, 11, 20, *range(12, 20)]]  # 11 and 10 stand higher already
    assert [x.index(10) for x in lists_of(cell, perturb_of("inhibit", genes=(10,), to=1.0))] == [10]


def test_e11_anchor_pairs_keep_their_order_by_rank():
    cell = [2, 10, 11, 12, 13, 3]
    delete = perturb_of("delete", "pairs", None, True, anchor=12)
    assert lists_of(cell, delete) == [[2, 11, 13, 3], [2, 10, 13, 3], [2, 10, 11, 3]]
    assert edits_of(np.array(cell), delete).key.tolist() == [10, 11, 13]
    overexpress = perturb_of("overexpress", "pairs", None, True, anchor=12)
    assert lists_of(cell, overexpress) == [[2, 10, 12, 11, 13, 3], [2, 11, 12, 10, 13, 3], [2, 12, 13, 10, 11, 3]]


def perturb_of(
    kind: str, how: str = "each", genes: tuple[int, ...] | None = None, framed: bool = False, limit: int = 16, **more
):
    return asked(kind=kind, how=how, genes=genes, frame=Frame.of_record(framed), limit=limit, **more)


@st.composite
def cells_and_perturbs(draw):
    framed = draw(st.booleans())
    limit = draw(st.integers(4, 20))
    room = limit - 2 * framed
    genes = draw(st.lists(st.integers(10, 40), min_size=1, max_size=room, unique=True))
    wanted = draw(st.none() | st.lists(st.integers(10, 45), min_size=1, max_size=min(room, 5), unique=True).map(tuple))
    how = "each" if wanted is None else draw(st.sampled_from(["each", "together"]))
    kind = draw(st.sampled_from(["delete", "overexpress"]))
    cell = [CLS, *genes, EOS] if framed else genes
    return cell, perturb_of(kind, how, wanted, framed, limit)


@given(cells_and_perturbs())
def test_edits_equal_plain_list_operations(case):
    cell, perturb = case
    assert lists_of(cell, perturb) == plainly(cell, perturb)


@given(cells_and_perturbs())
def test_eligible_counts_the_lists_that_edits_make(case):
    cell, perturb = case
    counts = eligible(np.array(cell), np.array([0, len(cell)]), perturb)
    assert counts.tolist() == [len(edits_of(np.array(cell), perturb))]


@given(cells_and_perturbs())
def test_together_of_one_gene_equals_each(case):
    cell, perturb = case
    if perturb.genes is None:
        return
    one = perturb.genes[:1]
    each, together = (
        perturb_of(perturb.kind.name, how, one, perturb.frame.record, perturb.limit) for how in ("each", "together")
    )
    assert lists_of(cell, each) == lists_of(cell, together)


def test_e1_delete_every_gene_of_a_framed_cell():
    lists = lists_of([2, 10, 11, 12, 13, 3], perturb_of("delete", framed=True))
    assert lists == [[2, 11, 12, 13, 3], [2, 10, 12, 13, 3], [2, 10, 11, 13, 3], [2, 10, 11, 12, 3]]


def test_e2_the_leading_gene_is_not_overexpressed():
    lists = lists_of([2, 10, 11, 12, 13, 3], perturb_of("overexpress", framed=True))
    assert lists == [[2, 11, 10, 12, 13, 3], [2, 12, 10, 11, 13, 3], [2, 13, 10, 11, 12, 3]]


@pytest.mark.parametrize(
    ("genes", "expected"), [((13, 40), [2, 13, 40, 10, 11, 12, 3]), ((40, 13), [2, 40, 13, 10, 11, 12, 3])]
)
def test_e5_overexpression_keeps_the_order_of_the_user(genes, expected):
    assert lists_of([2, 10, 11, 12, 13, 3], perturb_of("overexpress", "together", genes, True)) == [expected]


# (cell, genes, perturbed list, rows of the original as the reference cuts it, rows as it should be)
OVERFLOW = [
    ([2, 10, 11, 12, 13, 14, 15, 3], (40,), [2, 40, 10, 11, 12, 13, 14, 3], 7, 7),  # E6
    ([2, 10, 11, 12, 13, 14, 3], (40,), [2, 40, 10, 11, 12, 13, 14, 3], 6, 7),
    ([2, 10, 11, 12, 13, 3], (40,), [2, 40, 10, 11, 12, 13, 3], 6, 6),
    ([2, 10, 11, 12, 13, 14, 15, 3], (40, 41), [2, 40, 41, 10, 11, 12, 13, 3], 6, 6),  # E7
    ([2, 10, 11, 12, 13, 14, 3], (40, 41), [2, 40, 41, 10, 11, 12, 13, 3], 5, 6),
    ([2, 10, 11, 12, 13, 3], (40, 41), [2, 40, 41, 10, 11, 12, 13, 3], 4, 6),
    ([2, 10, 11, 12, 3], (40, 41), [2, 40, 41, 10, 11, 12, 3], 4, 5),
    ([2, 10, 11, 3], (40, 41), [2, 40, 41, 10, 11, 3], 4, 4),
    ([2, 10, 11, 12, 13, 14, 15, 3], (15, 40), [2, 15, 40, 10, 11, 12, 13, 3], 7, 7),  # E8
    ([2, 10, 11, 12, 13, 14, 15, 3], (15,), [2, 15, 10, 11, 12, 13, 14, 3], 8, 8),
]


@pytest.mark.parametrize(("cell", "genes", "perturbed", "by_reference", "correct"), OVERFLOW)
def test_e6_to_e8_overflow_cuts_the_original_too(cell, genes, perturbed, by_reference, correct):
    for reference, kept in ((True, by_reference), (False, correct)):
        perturb = perturb_of("overexpress", "together", genes, True, 8, reference_overflow=reference)
        assert lists_of(cell, perturb) == [perturbed]
        assert edits_of(np.array(cell), perturb).base_length.tolist() == [kept]


def test_e9_plain_cells_lose_their_last_gene():
    perturb = perturb_of("overexpress", "together", (40,), limit=6)
    assert lists_of([10, 11, 12, 13, 14, 15], perturb) == [[40, 10, 11, 12, 13, 14]]
    assert edits_of(np.arange(10, 16), perturb).base_length.tolist() == [5]
    assert edits_of(np.arange(10, 15), perturb).base_length.tolist() == [5]


def test_the_only_gene_of_a_plain_cell_is_not_deleted():
    assert lists_of([10], perturb_of("delete")) == []
    assert lists_of([10], perturb_of("delete", "each", (10,))) == []
    assert lists_of([2, 10, 3], perturb_of("delete", framed=True)) == [[2, 3]]


def test_a_token_that_occurs_twice_is_deleted_at_both_places_by_all_and_at_the_first_by_a_list():
    assert lists_of([10, 11, 10], perturb_of("delete")) == [[11, 10], [10, 10], [10, 11]]
    assert lists_of([10, 11, 10], perturb_of("delete", "each", (10,))) == [[11, 10]]


def test_a_gene_list_longer_than_the_model_is_refused():
    with pytest.raises(InputError, match="3 genes do not fit the front of 2 positions"):
        perturb_of("overexpress", "together", (10, 11, 12), True, 4)


def test_unknown_kind_is_refused_by_name():
    with pytest.raises(InputError, match="'knockdown' is unknown: use one of delete, overexpress, activate, inhibit"):
        perturb_of("knockdown")
