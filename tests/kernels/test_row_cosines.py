"""Cosines of one row per perturbation, and single tokens' rows, on the CPU."""

import pytest
import torch

from rankshift.kernels.cosine_shift import cosine_rows
from rankshift.kernels.rank_shift import EmbeddingTables
from rankshift.kernels.row_cosines import cosine
from rankshift.kernels.token_rows import token_rows


def test_a_row_is_compared_with_the_row_of_its_own_cell():
    before = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    after = torch.tensor([[0.6, 0.8], [0.6, 0.8], [3.0, 0.0]])
    shift = cosine_rows(after, before, torch.tensor([[0.0, 1.0]]), torch.tensor([1, 0, 0]))
    assert shift.similarity.tolist() == pytest.approx([0.8, 0.6, 1.0])
    assert shift.state_before is not None
    assert shift.state_after is not None
    assert shift.state_before[:, 0].tolist() == [1.0, 0.0, 0.0]
    assert shift.state_after[:, 0].tolist() == pytest.approx([0.8, 0.8, 0.0])


def test_a_row_of_zeros_has_cosine_zero():
    assert cosine(torch.zeros(1, 3), torch.ones(1, 3)).tolist() == [0.0]


def test_token_rows_by_hand():
    """Word (1, 3) at position (0, 2) with type (1, 1) is (2, 6): mean 4, deviation 2, so -1 and 1; times 10, plus 0.5."""
    tables = EmbeddingTables(
        word=torch.tensor([[9.0, 9.0], [1.0, 3.0]]), position=torch.tensor([[7.0, 7.0], [0.0, 2.0]]),
        type_row=torch.ones(2), gamma=torch.full((2,), 10.0), beta=torch.full((2,), 0.5), eps=0.0,
    )  # fmt: skip
    assert token_rows(torch.tensor([1]), torch.tensor([1]), tables).tolist() == [[-9.5, 10.5]]
    with pytest.raises(ValueError, match=r"\(1,\) tokens at \(2,\) positions"):
        token_rows(torch.tensor([1]), torch.tensor([1, 0]), tables)
