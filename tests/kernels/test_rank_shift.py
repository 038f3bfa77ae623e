"""Edits are list operations, the embedding is a LayerNorm of three rows: both against the plainest code there is."""

import doctest
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rankshift.kernels import first_layer as first_layer_file
from rankshift.kernels import perturbed_lists as perturbed_lists_file
from rankshift.kernels.perturbed_lists import NOWHERE, PerturbedLists, trace
from rankshift.kernels.rank_shift import EmbeddingTables, rank_shift
from support import PATIENCE


def edited(genes: list[tuple[int, int, bool]], edit: tuple[int, int, int]) -> list[tuple[int, int, bool]]:
    """One edit on a Python list of (token, index in the base list or -1, moved)."""
    source, destination, token = edit
    genes = list(genes)
    if source != NOWHERE:
        carried = genes.pop(source)
        if destination != NOWHERE:
            genes.insert(destination, (carried[0], carried[1], True))
    elif destination != NOWHERE:
        genes.insert(destination, (token, -1, True))
    return genes


@st.composite
def batches(draw):
    """Perturbed lists over several base lists, and what plain list operations make of them."""
    edits_each = draw(st.integers(0, 5))
    framed = draw(st.booleans())
    ids, base, base_length, edits, expected = [], [], [], [], []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(3 if framed else 1, 12))
        cell = draw(st.permutations(range(10, 10 + length)))
        for _ in range(draw(st.integers(1, 4))):
            genes = [(token, index, False) for index, token in enumerate(cell)]
            steps = []
            for k in range(edits_each):
                first, last = (1, len(genes) - 2) if framed else (0, len(genes) - 1)
                step = (NOWHERE, NOWHERE, -1)
                kind = draw(st.sampled_from(["nothing", "delete", "move", "insert"]))
                if kind == "insert":
                    step = (NOWHERE, draw(st.integers(first, last + 1)), 1000 + k)
                elif kind != "nothing" and first <= last:
                    destination = draw(st.integers(first, last)) if kind == "move" else NOWHERE
                    step = (draw(st.integers(first, last)), destination, -1)
                genes = edited(genes, step)
                steps.append(step)
            kept = draw(st.integers(0, len(genes)))  # truncation is rows that are not produced
            edits.append(steps)
            base.append(len(ids))
            base_length.append(length)
            expected.append([(token, base[-1] + i if i >= 0 else -1, moved) for token, i, moved in genes[:kept]])
        ids += cell
    edit = torch.tensor(edits).reshape(len(edits), edits_each, 3)
    lists = PerturbedLists.pack(
        ids=torch.tensor(ids),
        base=torch.tensor(base),
        base_length=torch.tensor(base_length),
        length=torch.tensor([len(e) for e in expected]),
        source=edit[:, :, 0],
        destination=edit[:, :, 1],
        token=edit[:, :, 2],
    )
    return lists, expected


def tables(dims: int, tokens: int = 1100, positions: int = 64) -> EmbeddingTables:
    generator = torch.Generator().manual_seed(dims)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return EmbeddingTables(
        word=draw(tokens, dims),
        position=draw(positions, dims),
        type_row=draw(dims),
        gamma=draw(dims),
        beta=draw(dims),
    )


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(batches())
def test_edits_compose_as_list_operations_do(batch):
    lists, expected = batch
    index, token, moved = trace(lists)
    rows = [row for rows in expected for row in rows]
    assert index.tolist() == [i for _, i, _ in rows]
    assert token.tolist() == [t if i < 0 else -1 for t, i, _ in rows]
    assert moved.tolist() == [m for _, _, m in rows]


@settings(max_examples=100, deadline=None)
@given(batches())
def test_embedding_is_layer_norm_of_the_edited_list(batch):
    lists, expected = batch
    bert = tables(16)
    hidden = rank_shift(lists, bert)
    naive = [
        functional.layer_norm(
            bert.word[token] + bert.position[position] + bert.type_row, (16,), bert.gamma, bert.beta, bert.eps
        )
        for rows in expected
        for position, (token, _, _) in enumerate(rows)
    ]
    torch.testing.assert_close(hidden, torch.stack(naive) if naive else torch.empty(0, 16), rtol=0, atol=1e-6)


def genome_wide(length: int, kind: str) -> PerturbedLists:
    """Every gene of one cell of `length` genes, perturbed alone."""
    gene = torch.arange(length)[:, None]
    nowhere, no_token = torch.full_like(gene, NOWHERE), torch.full_like(gene, -1)
    edits = {
        "delete": (length - 1, gene, nowhere, no_token),
        "overexpress": (length, gene, torch.zeros_like(gene), no_token),
        "insert": (length + 1, nowhere, torch.zeros_like(gene), gene + 500),
        "to the end": (length, gene, torch.full_like(gene, length - 1), no_token),
    }
    rows, source, destination, token = edits[kind]
    return PerturbedLists.pack(
        ids=torch.arange(length) + 10,
        base=torch.zeros(length),
        base_length=torch.full((length,), length),
        length=torch.full((length,), rows),
        source=source,
        destination=destination,
        token=token,
    )


@pytest.mark.parametrize("kind", ["delete", "overexpress", "insert", "to the end"])
@pytest.mark.parametrize("length", [1, 2, 31, 63])
def test_a_genome_wide_screen_shares_its_rows_and_stays_the_same(kind, length):
    lists = genome_wide(length, kind)
    bert = tables(24)
    index, inserted, _ = trace(lists)
    token = torch.where(inserted < 0, lists.ids[index.clamp(min=0)], inserted)
    position = torch.arange(lists.rows) % max(1, lists.width)
    expected = functional.layer_norm(
        bert.word[token] + bert.position[position] + bert.type_row, (24,), bert.gamma, bert.beta, bert.eps
    )
    torch.testing.assert_close(rank_shift(lists, bert), expected, rtol=0, atol=1e-6)


def test_half_precision_output_is_the_rounded_float32_one():
    lists, bert = genome_wide(17, "delete"), tables(8)
    out = torch.empty(lists.rows, 8, dtype=torch.float16)
    assert rank_shift(lists, bert, torch.float16, out=out) is out
    assert torch.equal(out, rank_shift(lists, bert).half())


def test_a_list_beyond_the_positions_of_the_model_is_refused():
    with pytest.raises(ValueError, match="has 65 rows, the model 64 positions"):
        rank_shift(genome_wide(64, "insert"), tables(8))


def test_lists_that_are_not_packed_are_refused():
    lists = genome_wide(4, "delete")
    with pytest.raises(ValueError, match="start is not the exclusive cumulative sum"):
        replace(lists, start=lists.start + 1)
    with pytest.raises(ValueError, match=r"base is torch.int32 \(4,\), must be contiguous torch.int64"):
        replace(lists, base=lists.base.int())
    with pytest.raises(ValueError, match="uniform is 5, but the lengths differ"):
        replace(lists, uniform=5)


@pytest.mark.parametrize("file", [perturbed_lists_file, first_layer_file])
def test_examples_of_the_docstrings(file):
    result = doctest.testmod(file)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.slow
def test_kernels_do_without_triton():
    """As on macOS, where there is none: the files import, and the references run."""
    code = """
import sys
sys.modules["triton"] = None
import torch
from rankshift.kernels import cosine_shift, first_layer
from rankshift.kernels.perturbed_lists import PerturbedLists
from rankshift.kernels.rank_shift import EmbeddingTables, rank_shift, triton
nothing = torch.full((1, 1), 1 << 30)
lists = PerturbedLists.pack(
    ids=torch.tensor([1, 0]), base=torch.tensor([0]), base_length=torch.tensor([2]), length=torch.tensor([2]),
    source=nothing, destination=nothing, token=torch.tensor([[-1]]))
row, table = torch.ones(2), torch.tensor([[1.0, 3.0], [5.0, 1.0]])
tables = EmbeddingTables(word=table, position=table * 0, type_row=row * 0, gamma=row, beta=row * 0)
print(triton, cosine_shift.triton, first_layer.triton, rank_shift(lists, tables).tolist())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert run.stdout == "None None None [[1.0, -1.0], [-1.0, 1.0]]\n", run.stderr
