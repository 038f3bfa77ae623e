"""The cosine kernels against their torch references."""

from dataclasses import replace

import pytest
import torch

from rankshift.kernels.cosine_shift import (
    BaseCells,
    cosine_shift_reference,
    launch_cosine_shift,
    launch_pooled_sums,
    prepare_base,
    prepare_base_reference,
)
from rankshift.kernels.perturbed_lists import NOWHERE, PerturbedLists

# Both sides read the same rows and compute in float32, so the tolerance is that of sums in another order, in every dtype.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def batch() -> PerturbedLists:
    edit = torch.tensor(
        [
            [(2, NOWHERE, -1), (NOWHERE, NOWHERE, -1), (NOWHERE, NOWHERE, -1)],
            [(4, 1, -1), (6, 2, -1), (NOWHERE, 1, 50)],
            [(NOWHERE, 1, 51), (5, NOWHERE, -1), (3, 9, -1)],
            [(1, NOWHERE, -1), (1, NOWHERE, -1), (1, NOWHERE, -1)],
            [(0, NOWHERE, -1), (NOWHERE, NOWHERE, -1), (NOWHERE, NOWHERE, -1)],
        ]
    )
    return PerturbedLists.pack(
        ids=torch.arange(17 + 11 + 5 + 1),
        base=torch.tensor([0, 0, 17, 28, 33]),
        base_length=torch.tensor([17, 17, 11, 5, 1]),
        length=torch.tensor([16, 18, 11, 2, 0]),
        source=edit[:, :, 0],
        destination=edit[:, :, 1],
        token=edit[:, :, 2],
    )


def prepared(hidden: torch.Tensor, skip: int) -> BaseCells:
    return prepare_base(
        hidden, torch.tensor([0, 17, 28, 33]), torch.tensor([17, 11, 5, 1]), skip_first=skip, skip_last=skip
    )


def to_device(base: BaseCells, device: str) -> BaseCells:
    return replace(base, hidden=base.hidden.to(device), inverse_norm=base.inverse_norm.to(device))


def whole(found: tuple) -> tuple:
    """What the kernel found by chunk, summed over the chunks of a list, as the reference has it."""
    cosines, pairs, sums, gene = found
    return cosines.sum(1), pairs.sum(1, dtype=torch.int32), sums.sum(1), gene


@pytest.mark.parametrize("dims", [256, 512, 768, 896, 1152])
@pytest.mark.parametrize("skip", [0, 1])
def test_every_width_and_dtype(dims, skip, dtype, device):
    lists = batch()
    generator = torch.Generator().manual_seed(dims)
    before, after = (torch.randn(n, dims, generator=generator).to(dtype) for n in (lists.ids.numel(), lists.rows))
    base = prepared(before, skip)
    expected = cosine_shift_reference(base, after, lists)
    found = launch_cosine_shift(
        to_device(base, device), after.to(device), lists.to(device), True, block_rows=8, chunk_rows=8
    )
    for ours, theirs in zip(whole(found), expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, equal_nan=True, **CLOSE)


def test_without_gene_cosines_the_rest_is_the_same(device):
    lists = batch()
    before, after = torch.randn(lists.ids.numel(), 24), torch.randn(lists.rows, 24)
    base = to_device(prepared(before, 1), device)
    arguments = base, after.to(device), lists.to(device)
    with_genes, without = (launch_cosine_shift(*arguments, genes, block_rows=16) for genes in (True, False))
    assert without[3] is None
    assert all(torch.equal(a, b) for a, b in zip(with_genes[:3], without[:3], strict=True))


def test_an_unperturbed_list_pools_to_the_very_bits_of_its_base(dtype, device):
    lists = batch()
    rows = torch.randn(17, 100).to(dtype).to(device)
    start, length = torch.tensor([0], device=device), torch.tensor([17], dtype=torch.int32, device=device)
    before = launch_pooled_sums(rows, start, length, int(length.max()), 1, 1, block_rows=4)
    same = PerturbedLists.pack(
        ids=lists.ids[:17], base=torch.tensor([0]), base_length=torch.tensor([17]), length=torch.tensor([17]),
        source=torch.tensor([[NOWHERE]]), destination=torch.tensor([[NOWHERE]]), token=torch.tensor([[-1]]),
    )  # fmt: skip
    base = to_device(prepare_base(rows.cpu(), start.cpu(), length.cpu(), skip_first=1, skip_last=1), device)
    total, pairs, after, _ = launch_cosine_shift(base, rows, same.to(device), False, block_rows=4)
    assert torch.equal(before, after)
    assert pairs.tolist() == [[15]]
    assert float(total) == pytest.approx(15, abs=1e-5)


def test_pooled_sums_of_base_lists(dtype, device):
    rows = torch.randn(30, 70).to(dtype)
    start, length = torch.tensor([0, 9, 19]), torch.tensor([9, 10, 11], dtype=torch.int32)
    _, expected = prepare_base_reference(rows, start + 1, start + length - 1)
    found = launch_pooled_sums(
        rows.to(device), start.to(device), length.to(device), int(length.max()), 1, 1, block_rows=4
    )
    torch.testing.assert_close(found.sum(1).cpu(), expected, **CLOSE)


def test_a_list_at_the_limit_of_the_model(device):
    edit = torch.full((1, 1), NOWHERE)
    lists = PerturbedLists.pack(
        ids=torch.arange(2048), base=torch.tensor([0]), base_length=torch.tensor([2048]), length=torch.tensor([2047]),
        source=torch.tensor([[1000]]), destination=edit, token=torch.tensor([[-1]]),
    )  # fmt: skip
    before, after = torch.randn(2048, 64), torch.randn(2047, 64)
    base = prepare_base(before, torch.tensor([0]), torch.tensor([2048]))
    expected = cosine_shift_reference(base, after, lists)
    found = launch_cosine_shift(to_device(base, device), after.to(device), lists.to(device), True, block_rows=64)
    for ours, theirs in zip(whole(found), expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, equal_nan=True, rtol=1e-5, atol=2e-5)
