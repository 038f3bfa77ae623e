"""Residual add, LayerNorm and the 16-bit copy that the next product reads, in one pass over the rows. It multiplies nothing.

Formula, for a row of the residual stream x (float32) and what a product adds to it (16-bit):

    y    = LayerNorm(x + a; gamma, beta, eps)      written over x, float32
    half = y in 16 bits

Torch takes five passes for it: add, mean and variance, normalise, cast, and reads 18 bytes a value more.

Legend: T rows, D dims.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rankshift.kernels.rank_shift import runs_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the reference below is what runs
    triton = None

HALVES = (torch.float16, torch.bfloat16)


# ---------------------------------------------------------------- torch reference


def add_norm_reference(x: Tensor, a: Tensor, gamma: Tensor, beta: Tensor, eps: float, half: Tensor) -> None:
    """The formula in torch, over x and into half."""
    x.add_(a)
    x.copy_(functional.layer_norm(x, x.shape[1:], gamma, beta, eps))
    half.copy_(x)


# ---------------------------------------------------------------- Triton kernel

if triton is not None:

    @triton.jit(do_not_specialize=["T"])
    def add_norm_kernel(  # type: ignore[no-untyped-def]
        x, a, gamma, beta, half, T, eps, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_ROWS: tl.constexpr
    ):  # fmt: skip
        """A block of rows."""
        row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        d = tl.arange(0, BLOCK_D)
        column = d < D
        tile = (row < T)[:, None] & column[None, :]
        at = row[:, None] * D + d[None, :]
        y = tl.load(x + at, mask=tile, other=0.0) + tl.load(a + at, mask=tile, other=0.0).to(tl.float32)
        centred = tl.where(column[None, :], y - (tl.sum(y, 1) / D)[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
        g = tl.load(gamma + d, mask=column, other=0.0)
        b = tl.load(beta + d, mask=column, other=0.0)
        y = centred * scale[:, None] * g[None, :] + b[None, :]
        tl.store(x + at, y, mask=tile)
        tl.store(half + at, y.to(half.dtype.element_ty), mask=tile)

    def launch_add_norm(x: Tensor, a: Tensor, gamma: Tensor, beta: Tensor, eps: float, half: Tensor) -> None:
        """Runs the kernel over x [T, D] and into `half` [T, D]."""
        rows, dims = x.shape
        assert x.dtype == gamma.dtype == beta.dtype == torch.float32
        assert a.dtype == half.dtype
        assert a.dtype in HALVES
        assert x.shape == a.shape == half.shape
        assert tuple(gamma.shape) == tuple(beta.shape) == (dims,)
        assert all(y.is_contiguous() and y.device == x.device for y in (x, a, gamma, beta, half))
        block_dims = triton.next_power_of_2(dims)
        block_rows = max(1, 2048 // block_dims)
        with torch.cuda.device_of(x):
            add_norm_kernel[(triton.cdiv(rows, block_rows),)](
                x, a, gamma, beta, half, rows, eps,
                D=dims, BLOCK_D=block_dims, BLOCK_ROWS=block_rows, num_warps=4 if block_dims <= 1024 else 8,
            )  # fmt: skip


# ---------------------------------------------------------------- dispatch


def add_norm(x: Tensor, a: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """LayerNorm of x + a over x itself; returns it in the 16 bits of `a`.

    x [T, D] contiguous float32, overwritten. a [T, D] contiguous float16 or bfloat16. gamma, beta [D] float32.
    Raises ValueError when shapes or dtypes are wrong.
    """
    if x.shape != a.shape or x.dtype != torch.float32 or a.dtype not in HALVES or not x.is_contiguous():
        raise ValueError(
            f"x is {x.dtype} {tuple(x.shape)}, a {a.dtype} {tuple(a.shape)}: must be contiguous float32 and 16 bits, [T, D]"
        )
    half = torch.empty_like(a)
    if len(x) and runs_triton(x):
        launch_add_norm(x, a, gamma, beta, eps, half)
    else:
        add_norm_reference(x, a, gamma, beta, eps, half)
    return half
