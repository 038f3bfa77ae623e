"""What the first row of every list attends to, over rows of any lists in two launches. It projects no keys and no values.

Formula, for list p and head h, over the rows j of the same list, with u[p, h] what the head's key weights make of its query:

    w[p, h, j]   = softmax over j of (u[p, h] . x[j])
    out[p, h]    = sum over j of w[p, h, j] x[j]

since q . (Wk x) = (Wk^T q) . x and sum w (Wv x) = Wv (sum w x). One launch writes the logits, the other adds the rows up;
lists of many lengths need no padding and no launch of their own. Rows, logits and sums are float32.

Legend: T packed rows, P lists, N rows of a list, H heads, D dims.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankshift.kernels.rank_shift import runs_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the reference below is what runs
    triton = None

LOG2_E = 1.4426950408889634
BLOCK_ROWS = 32
BLOCK_DIMS = 64


# ---------------------------------------------------------------- torch reference


def first_row_attention_reference(x: Tensor, u: Tensor, runs: list[tuple[int, int]]) -> Tensor:
    """The formula in torch; runs: (count, length) of neighbouring lists of one length, which are multiplied together."""
    parts, row, p = [], 0, 0
    for count, n in runs:
        rows_PND = x[row : row + count * n].view(count, n, x.shape[1])
        weight_PHN = torch.bmm(u[p : p + count], rows_PND.transpose(1, 2)).softmax(-1)
        parts.append(torch.bmm(weight_PHN, rows_PND))
        row, p = row + count * n, p + count
    return torch.cat(parts)


# ---------------------------------------------------------------- Triton kernels

if triton is not None:
    # `blocks` follows the longest list: specialised, its multiples of 16 would be compiled for themselves in mid-run.
    @triton.jit(do_not_specialize=["blocks", "list_stride", "head_stride"])
    def first_row_logits_kernel(  # type: ignore[no-untyped-def]
        x, u, start, logits, blocks, list_stride, head_stride,
        H: tl.constexpr, D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """A block of rows of one list, all heads: logits in base 2, [T, H]."""
        p = (tl.program_id(0) // blocks).to(tl.int64)
        first = tl.load(start + p)
        n = (tl.load(start + p + 1) - first).to(tl.int32)
        j = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
        h = tl.arange(0, BLOCK_H)
        total = tl.zeros([BLOCK_N, BLOCK_H], tl.float32)
        for d0 in range(0, D, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            rows = tl.load(
                x + (first + j)[:, None] * D + d[None, :], mask=(j < n)[:, None] & (d < D)[None, :], other=0.0
            )
            turned = tl.load(
                u + p * list_stride + h[None, :] * head_stride + d[:, None],
                mask=(h < H)[None, :] & (d < D)[:, None],
                other=0.0,
            )
            total = tl.dot(rows, turned, total, input_precision="ieee")
        at = (first + j)[:, None] * H + h[None, :]
        tl.store(logits + at, total * 1.4426950408889634, mask=(j < n)[:, None] & (h < H)[None, :])

    @triton.jit
    def first_row_sums_kernel(  # type: ignore[no-untyped-def]
        x, logits, start, out,
        H: tl.constexpr, D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """A block of dims of one list, all heads: the softmax of its logits, then the weighted sum of its rows."""
        p = tl.program_id(0).to(tl.int64)
        first = tl.load(start + p)
        n = (tl.load(start + p + 1) - first).to(tl.int32)
        h = tl.arange(0, BLOCK_H)
        peak = tl.full([BLOCK_H], float("-inf"), tl.float32)
        whole = tl.zeros([BLOCK_H], tl.float32)
        for k in range(0, n, BLOCK_N):
            j = k + tl.arange(0, BLOCK_N)
            logit = tl.load(
                logits + (first + j)[None, :] * H + h[:, None], mask=(h < H)[:, None] & (j < n)[None, :],
                other=float("-inf"),
            )  # fmt: skip
            new_peak = tl.maximum(peak, tl.max(logit, 1))
            floor = tl.where(h < H, new_peak, 0.0)
            whole = whole * tl.exp2(peak - floor) + tl.sum(tl.exp2(logit - floor[:, None]), 1)
            peak = new_peak
        floor = tl.where(h < H, peak, 0.0)
        whole = tl.where(h < H, whole, 1.0)
        d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        total = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
        for k in range(0, n, BLOCK_N):
            j = k + tl.arange(0, BLOCK_N)
            logit = tl.load(
                logits + (first + j)[None, :] * H + h[:, None], mask=(h < H)[:, None] & (j < n)[None, :],
                other=float("-inf"),
            )  # fmt: skip
            weight = tl.exp2(logit - floor[:, None]) / whole[:, None]
            rows = tl.load(
                x + (first + j)[:, None] * D + d[None, :], mask=(j < n)[:, None] & (d < D)[None, :], other=0.0
            )
            total = tl.dot(weight, rows, total, input_precision="ieee")
        at = (p * H + h)[:, None] * D + d[None, :]
        tl.store(out + at, total, mask=(h < H)[:, None] & (d < D)[None, :])

    def launch_first_row_attention(x: Tensor, u: Tensor, start: Tensor, longest: int) -> Tensor:
        """Runs both kernels; see `first_row_attention`."""
        lists, heads, dims = u.shape
        assert x.dtype == u.dtype == torch.float32
        assert start.dtype == torch.int64
        assert start.numel() == lists + 1
        assert x.shape[1] == dims
        assert all(t.device == x.device for t in (x, u, start))
        assert x.is_contiguous()
        assert start.is_contiguous()
        assert u.stride(2) == 1
        logits = torch.empty(len(x), heads, dtype=torch.float32, device=x.device)
        out = torch.empty(u.shape, dtype=torch.float32, device=x.device)
        blocks = triton.cdiv(longest, BLOCK_ROWS)
        sizes = {
            "H": heads, "D": dims, "BLOCK_H": max(16, triton.next_power_of_2(heads)),
            "BLOCK_N": BLOCK_ROWS, "BLOCK_D": BLOCK_DIMS, "num_warps": 4, "num_stages": 2,
        }  # fmt: skip
        with torch.cuda.device_of(x):
            first_row_logits_kernel[(lists * blocks,)](x, u, start, logits, blocks, *u.stride()[:2], **sizes)
            first_row_sums_kernel[(lists, triton.cdiv(dims, BLOCK_DIMS))](x, logits, start, out, **sizes)
        return out


# ---------------------------------------------------------------- dispatch


def first_row_attention(x: Tensor, u: Tensor, runs: list[tuple[int, int]], start: Tensor) -> Tensor:
    """Weighted sums of rows (P, H, D) float32, one a list and head.

    x [T, D] contiguous and u [P, H, D], whose last dimension is, float32; u is scaled. runs: (count, length) of neighbouring
    lists of one length, on the host; start [P+1] int64 beside x: where each list begins, and T. Raises ValueError when they
    disagree.
    """
    if sum(count for count, _ in runs) != len(u) or sum(count * n for count, n in runs) != len(x):
        raise ValueError(f"runs {runs} are not of {len(u)} lists with {len(x)} rows")
    if len(x) and runs_triton(x):
        return launch_first_row_attention(x, u, start, max(n for _, n in runs))
    return first_row_attention_reference(x, u, runs)
