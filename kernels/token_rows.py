"""Embedding of single tokens at given positions, in one pass. Whole rank lists are the business of `rank_shift`.

Formula, for token t[r] that stands at position j[r]:

    row[r] = LayerNorm(word[t[r]] + position[j[r]] + type_row; gamma, beta, eps)

Arithmetic and result are float32. Torch takes five passes for it, of rows that the first layer's shared attention
(`first_layer`) asks for in every batch.

Legend: R rows, D dims.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rankshift.kernels.rank_shift import EmbeddingTables, runs_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the reference below is what runs
    triton = None


# ---------------------------------------------------------------- torch reference


def token_rows_reference(token: Tensor, position: Tensor, tables: EmbeddingTables) -> Tensor:
    """The formula in torch."""
    total = tables.word[token] + tables.position[position] + tables.type_row
    return functional.layer_norm(total, total.shape[1:], tables.gamma, tables.beta, tables.eps)


# ---------------------------------------------------------------- Triton kernel

if triton is not None:

    @triton.jit(do_not_specialize=["R"])
    def token_rows_kernel(  # type: ignore[no-untyped-def]
        token, at, word, position, type_row, gamma, beta, out,
        R, eps, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    ):  # fmt: skip
        """A block of rows."""
        row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        d = tl.arange(0, BLOCK_D)
        column = d < D
        tile = (row < R)[:, None] & column[None, :]
        t = tl.load(token + row, mask=row < R, other=0)
        j = tl.load(at + row, mask=row < R, other=0)
        x = tl.load(word + t[:, None] * D + d[None, :], mask=tile, other=0.0)
        x += tl.load(position + j[:, None] * D + d[None, :], mask=tile, other=0.0)
        x += tl.load(type_row + d, mask=column, other=0.0)[None, :]
        centred = tl.where(column[None, :], x - (tl.sum(x, 1) / D)[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
        g = tl.load(gamma + d, mask=column, other=0.0)
        b = tl.load(beta + d, mask=column, other=0.0)
        y = centred * scale[:, None] * g[None, :] + b[None, :]
        tl.store(out + row[:, None].to(tl.int64) * D + d[None, :], y, mask=tile)

    def launch_token_rows(token: Tensor, position: Tensor, tables: EmbeddingTables) -> Tensor:
        """Runs the kernel; see `token_rows`."""
        rows, dims = token.numel(), tables.word.shape[1]
        assert token.dtype == position.dtype == torch.int64
        assert token.is_contiguous()
        assert position.is_contiguous()
        for name in ("word", "position", "type_row", "gamma", "beta"):
            table = getattr(tables, name)
            assert table.dtype == torch.float32, f"{name} is {table.dtype}"
            assert table.is_contiguous(), f"{name} must be contiguous"
            assert table.device == token.device == position.device, f"{name} is on {table.device}"
        out = torch.empty(rows, dims, dtype=torch.float32, device=token.device)
        block_dims = triton.next_power_of_2(dims)
        block_rows = max(1, 2048 // block_dims)
        with torch.cuda.device_of(out):
            token_rows_kernel[(triton.cdiv(rows, block_rows),)](
                token, position, tables.word, tables.position, tables.type_row, tables.gamma, tables.beta, out,
                rows, tables.eps, D=dims, BLOCK_D=block_dims, BLOCK_ROWS=block_rows,
                num_warps=4 if block_dims <= 1024 else 8,
            )  # fmt: skip
        return out


# ---------------------------------------------------------------- dispatch


def token_rows(token: Tensor, position: Tensor, tables: EmbeddingTables) -> Tensor:
    """Rows [R, D] float32 of the tokens [R] int64 at the positions [R] int64. Tables are float32.

    Raises ValueError when there are not as many positions as tokens.
    """
    if token.shape != position.shape or token.dim() != 1:
        raise ValueError(f"{tuple(token.shape)} tokens at {tuple(position.shape)} positions: one position a token")
    if len(token) and runs_triton(token):
        return launch_token_rows(token, position, tables)
    return token_rows_reference(token, position, tables)
