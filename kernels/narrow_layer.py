"""Two parts of a narrow encoder layer in a launch each: a product, residual add and LayerNorm; and a perceptron with them.

Formulas, for a row of the residual stream x (float32, written over), with 16-bit weights and float32 sums:

    product_norm     x = LayerNorm(x + a W + b; gamma, beta, eps)
    perceptron_norm  x = LayerNorm(x + relu(h U + u) V + v; gamma, beta, eps),  h = x in 16 bits;   half = x in 16 bits, after

A row of 256 dims fits into one multiprocessor with its sums, so what lies between the products is never written to memory: 20
bytes a dimension in place of 40 at F = 2D. Wider models take `add_norm` between torch's products.

Legend: T rows, D dims, K dims of a product, F inner dims.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rankshift.kernels.rank_shift import runs_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the references below are what runs
    triton = None

HALVES = (torch.float16, torch.bfloat16)
DIMS = (64, 128, 256)  # of a residual stream
BLOCK = 64  # rows of a program, and dims that are multiplied at a time


# ---------------------------------------------------------------- torch references


def product_norm_reference(
    x: Tensor, a: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> None:
    """The formula in torch, over x; sums in float32."""
    total = x + torch.addmm(bias.float(), a.float(), weight.float())
    x.copy_(functional.layer_norm(total, x.shape[1:], gamma, beta, eps))


def perceptron_norm_reference(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """The formula in torch, over x; returns half. The inner rows are rounded to 16 bits, as a product reads them."""
    inner = torch.addmm(up_bias.float(), x.to(up.dtype).float(), up.float()).relu_().to(up.dtype)
    product_norm_reference(x, inner, down, down_bias, gamma, beta, eps)
    return x.to(up.dtype)


# ---------------------------------------------------------------- Triton kernels

if triton is not None:

    @triton.jit
    def _normed(total, gamma, beta, eps, d, D: tl.constexpr):  # type: ignore[no-untyped-def]
        centred = total - (tl.sum(total, 1) / D)[:, None]
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
        return centred * scale[:, None] * tl.load(gamma + d)[None, :] + tl.load(beta + d)[None, :]

    @triton.jit(do_not_specialize=["T"])
    def product_norm_kernel(  # type: ignore[no-untyped-def]
        x, a, weight, bias, gamma, beta, T, eps,
        K: tl.constexpr, D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
    ):  # fmt: skip
        """A block of rows. weight lies as [D, K]."""
        row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        there = (row < T)[:, None]
        d = tl.arange(0, D)
        total = tl.zeros([BLOCK_ROWS, D], tl.float32)
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            rows = tl.load(a + row[:, None] * K + k[None, :], mask=there, other=0.0)
            total = tl.dot(rows, tl.load(weight + d[None, :] * K + k[:, None]), total)
        at = row[:, None] * D + d[None, :]
        total += tl.load(x + at, mask=there, other=0.0) + tl.load(bias + d)[None, :].to(tl.float32)
        tl.store(x + at, _normed(total, gamma, beta, eps, d, D), mask=there)

    @triton.jit(do_not_specialize=["T"])
    def perceptron_norm_kernel(  # type: ignore[no-untyped-def]
        x, up, up_bias, down, down_bias, gamma, beta, half, T, eps,
        F: tl.constexpr, D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_F: tl.constexpr,
    ):  # fmt: skip
        """A block of rows. up lies as [F, D], down as [D, F]."""
        row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        there = (row < T)[:, None]
        d = tl.arange(0, D)
        at = row[:, None] * D + d[None, :]
        h = tl.load(x + at, mask=there, other=0.0).to(half.dtype.element_ty)
        total = tl.zeros([BLOCK_ROWS, D], tl.float32)
        for f0 in range(0, F, BLOCK_F):
            f = f0 + tl.arange(0, BLOCK_F)
            inner = tl.dot(h, tl.load(up + f[None, :] * D + d[:, None])) + tl.load(up_bias + f)[None, :].to(tl.float32)
            inner = tl.maximum(inner, 0.0).to(half.dtype.element_ty)
            total = tl.dot(inner, tl.load(down + d[None, :] * F + f[:, None]), total)
        total += tl.load(x + at, mask=there, other=0.0) + tl.load(down_bias + d)[None, :].to(tl.float32)
        y = _normed(total, gamma, beta, eps, d, D)
        tl.store(x + at, y, mask=there)
        tl.store(half + at, y.to(half.dtype.element_ty), mask=there)

    def launch_product_norm(
        x: Tensor, a: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
    ) -> None:
        """Runs the kernel over x [T, D]; see `product_norm`."""
        rows, dims = x.shape
        inner = a.shape[1]
        assert dims in DIMS
        assert inner % BLOCK == 0
        assert a.dtype == weight.dtype == bias.dtype
        assert a.dtype in HALVES
        assert x.dtype == gamma.dtype == beta.dtype == torch.float32
        assert weight.shape == (inner, dims)
        assert weight.stride() == (1, inner)
        assert all(t.is_contiguous() and t.device == x.device for t in (x, a, bias, gamma, beta))
        with torch.cuda.device_of(x):
            product_norm_kernel[(triton.cdiv(rows, BLOCK),)](
                x, a, weight, bias, gamma, beta, rows, eps,
                K=inner, D=dims, BLOCK_ROWS=BLOCK, BLOCK_K=BLOCK, num_warps=8, num_stages=2,
            )  # fmt: skip

    def launch_perceptron_norm(
        x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
    ) -> Tensor:
        """Runs the kernel over x [T, D]; see `perceptron_norm`."""
        rows, dims = x.shape
        inner = up.shape[1]
        assert dims in DIMS
        assert inner % BLOCK == 0
        assert up.dtype == down.dtype == up_bias.dtype == down_bias.dtype
        assert up.dtype in HALVES
        assert x.dtype == gamma.dtype == beta.dtype == torch.float32
        assert (up.shape, up.stride()) == ((dims, inner), (1, dims))
        assert (down.shape, down.stride()) == ((inner, dims), (1, inner))
        assert all(t.is_contiguous() and t.device == x.device for t in (x, up_bias, down_bias, gamma, beta))
        half = torch.empty(x.shape, dtype=up.dtype, device=x.device)
        with torch.cuda.device_of(x):
            perceptron_norm_kernel[(triton.cdiv(rows, BLOCK),)](
                x, up, up_bias, down, down_bias, gamma, beta, half, rows, eps,
                F=inner, D=dims, BLOCK_ROWS=BLOCK, BLOCK_F=16, num_warps=8, num_stages=2,  # more inner dims spill on sm_90
            )  # fmt: skip
        return half


# ---------------------------------------------------------------- dispatch


def kernels_take(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels handle this residual stream and a weight [K, D] or [D, F] beside it: narrow, 16 bits, on a GPU."""
    wide = max(weight.shape)
    return runs_triton(x) and weight.dtype in HALVES and x.shape[1] in DIMS and wide % BLOCK == 0 and len(x) > 0


def product_norm(x: Tensor, a: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> None:
    """LayerNorm of x + a weight + bias, over x itself.

    x [T, D] contiguous float32; a [T, K] contiguous, bias [D] and weight [K, D] in 16 bits, the weight laid out as its
    transpose; gamma, beta [D] float32. Raises ValueError when shapes disagree.
    """
    if x.shape != (len(a), weight.shape[1]) or a.shape[1] != weight.shape[0]:
        raise ValueError(f"x {tuple(x.shape)}, a {tuple(a.shape)} and weight {tuple(weight.shape)} disagree")
    if kernels_take(x, weight):
        launch_product_norm(x, a, weight, bias, gamma, beta, eps)
    else:
        product_norm_reference(x, a, weight, bias, gamma, beta, eps)


def perceptron_norm(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """LayerNorm of x + relu(x up + up_bias) down + down_bias, over x itself; returns it in the 16 bits of `up`.

    x [T, D] contiguous float32; up [D, F] and down [F, D] laid out as their transposes, biases [F] and [D], in 16 bits;
    gamma, beta [D] float32. Raises ValueError when shapes disagree.
    """
    if up.shape != (x.shape[1], down.shape[0]) or down.shape[1] != x.shape[1]:
        raise ValueError(f"x {tuple(x.shape)}, up {tuple(up.shape)} and down {tuple(down.shape)} disagree")
    if kernels_take(x, up):
        return launch_perceptron_norm(x, up, up_bias, down, down_bias, gamma, beta, eps)
    return perceptron_norm_reference(x, up, up_bias, down, down_bias, gamma, beta, eps)
