"""Self-attention inside many lists of any lengths in one launch. It pads nothing, projects nothing and masks no rows.

Formula, for query row i of list p and one head, over the keys j of the same list alone:

    w[i, j]   = softmax over j of (q[i] . k[j] / sqrt(E))
    out[i]    = sum over j of w[i, j] v[j]

The softmax runs along the keys, a block at a time (Dao et al. 2022): with running maximum m, denominator l and numerator a

    m' = max(m, max_j s[j]);   l' = l exp(m - m') + sum_j exp(s[j] - m');   a' = a exp(m - m') + sum_j exp(s[j] - m') v[j]

Rows are 16-bit; logits, maximum, denominator and numerator are float32. Block sizes hang on the head size alone, so what a
list gets does not depend, bit for bit, on the lists beside it, and no length or number of lists compiles anything anew.

Legend: T packed rows, P lists, N rows of a list, H heads, E head dims, D = H E.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from rankshift.kernels.rank_shift import runs_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the reference below is what runs
    triton = None

LOG2_E = 1.4426950408889634
HEAD_DIMS = (32, 64, 128)
HALVES = (torch.float16, torch.bfloat16)
BLOCK_QUERIES = 128  # eight warps multiply 16 of them each


# ---------------------------------------------------------------- torch reference


def varlen_attention_reference(qkv: Tensor, start: Tensor, heads: int, out: Tensor) -> Tensor:
    """The formula in torch, list by list in float32."""
    bounds = start.tolist()
    for first, last in pairwise(bounds):
        q, k, v = qkv[first:last].float().unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)  # (H, N, E) each
        weight = torch.bmm(q, k.transpose(1, 2)).mul_(q.shape[2] ** -0.5).softmax(-1)
        out[first:last] = torch.bmm(weight, v).transpose(0, 1).flatten(1)
    return out


# ---------------------------------------------------------------- Triton kernel

if triton is not None:

    @triton.jit
    def _add_keys(  # type: ignore[no-untyped-def]
        peak, weight, value, query, keys, j, n, scale, D: tl.constexpr, E: tl.constexpr, WHOLE: tl.constexpr
    ):  # fmt: skip
        """The running (maximum [R], denominator [R], numerator [R, E]) with keys j [K]; WHOLE: all of them are in the list."""
        e = tl.arange(0, E)
        at = j * (3 * D)
        if WHOLE:
            key = tl.load(keys + at[None, :] + e[:, None])
            values = tl.load(keys + D + at[:, None] + e[None, :])
            logit = tl.dot(query, key) * scale
        else:
            present = j < n
            key = tl.load(keys + at[None, :] + e[:, None], mask=present[None, :], other=0.0)
            values = tl.load(keys + D + at[:, None] + e[None, :], mask=present[:, None], other=0.0)
            logit = tl.where(present[None, :], tl.dot(query, key) * scale, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(logit, 1))  # finite: every block has a key
        w = tl.exp2(logit - new_peak[:, None])
        fade = tl.exp2(peak - new_peak)
        value = tl.dot(w.to(values.dtype), values, value * fade[:, None])
        return new_peak, weight * fade + tl.sum(w, 1), value

    # `blocks` follows the longest list: specialised, its multiples of 16 would be compiled for themselves in mid-run.
    @triton.jit(do_not_specialize=["blocks"])
    def varlen_attention_kernel(  # type: ignore[no-untyped-def]
        qkv, start, out, blocks, scale,
        H: tl.constexpr, E: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    ):  # fmt: skip
        """A block of queries of one list and one head. `scale` is log2(e) / sqrt(E), so that weights are powers of two."""
        D: tl.constexpr = H * E
        p = (tl.program_id(0) // blocks).to(tl.int64)
        q0 = (tl.program_id(0) % blocks) * BLOCK_Q
        first = tl.load(start + p)
        n = (tl.load(start + p + 1) - first).to(tl.int32)
        if q0 < n:
            e = tl.arange(0, E)
            i = q0 + tl.arange(0, BLOCK_Q)
            rows = qkv + first * (3 * D) + tl.program_id(1) * E
            query = tl.load(rows + i[:, None] * (3 * D) + e[None, :], mask=(i < n)[:, None], other=0.0)
            peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
            weight = tl.zeros([BLOCK_Q], tl.float32)
            value = tl.zeros([BLOCK_Q, E], tl.float32)
            whole = n // BLOCK_K * BLOCK_K
            for k in range(0, whole, BLOCK_K):
                j = k + tl.arange(0, BLOCK_K)
                peak, weight, value = _add_keys(peak, weight, value, query, rows + D, j, n, scale, D, E, True)
            if whole < n:
                j = whole + tl.arange(0, BLOCK_K)
                peak, weight, value = _add_keys(peak, weight, value, query, rows + D, j, n, scale, D, E, False)
            to = out + first * D + tl.program_id(1) * E + i[:, None] * D + e[None, :]
            tl.store(to, (value / weight[:, None]).to(out.dtype.element_ty), mask=(i < n)[:, None])

    def launch_varlen_attention(qkv: Tensor, start: Tensor, longest: int, heads: int, out: Tensor) -> Tensor:
        """Runs the kernel into `out` [T, D]; see `kernel_takes`."""
        rows, width = qkv.shape
        dims = width // 3
        head_dims = dims // heads
        assert kernel_takes(qkv.dtype, head_dims), f"{qkv.dtype}, {head_dims} dims a head"
        assert width == 3 * heads * head_dims
        assert tuple(out.shape) == (rows, dims)
        assert out.dtype == qkv.dtype
        assert qkv.is_contiguous()
        assert out.is_contiguous()
        assert start.dtype == torch.int64
        assert start.is_contiguous()
        assert qkv.device == out.device == start.device
        assert longest * width < 2**31, "offsets into the rows of one list are 32 bit"
        wide = (
            head_dims > 64
        )  # which spills with more keys, and with a third stage is too large for 64 KB of shared memory
        blocks = triton.cdiv(longest, BLOCK_QUERIES)
        with torch.cuda.device_of(out):
            varlen_attention_kernel[((start.numel() - 1) * blocks, heads)](
                qkv, start, out, blocks, head_dims**-0.5 * LOG2_E,
                H=heads, E=head_dims, BLOCK_Q=BLOCK_QUERIES, BLOCK_K=32 if wide else 64,
                num_warps=8, num_stages=2 if wide else 3,
            )  # fmt: skip
        return out


# ---------------------------------------------------------------- dispatch


def kernel_takes(dtype: torch.dtype, head_dims: int) -> bool:
    """Whether the kernel handles these rows: 16 bits, heads of 32, 64 or 128 dims."""
    return dtype in HALVES and head_dims in HEAD_DIMS


def varlen_attention(qkv: Tensor, start: Tensor, longest: int, heads: int) -> Tensor:
    """Attention output [T, D] of packed lists, each over its own rows alone.

    `qkv` [T, 3D] contiguous holds q | k | v of every row; queries are not scaled, the factor E^-0.5 is applied here.
    `start` [P+1] int64 on the same device: where each list begins, and T at the end; a list has one row at least.
    `longest`: rows of the longest list, from the host, so that nothing waits for a device. For inference: no gradient
    flows. Raises ValueError when shapes, dtypes or devices are wrong.
    """
    if qkv.dim() != 2 or qkv.shape[1] % (3 * heads) or not qkv.is_contiguous():
        raise ValueError(f"qkv is {tuple(qkv.shape)}, must be contiguous [T, 3D] with D % {heads} == 0")
    if start.dtype != torch.int64 or start.dim() != 1 or start.device != qkv.device:
        raise ValueError(
            f"start is {start.dtype} {tuple(start.shape)} on {start.device}, must be int64 [P+1] beside qkv"
        )
    out = torch.empty(len(qkv), qkv.shape[1] // 3, dtype=qkv.dtype, device=qkv.device)
    if len(qkv) and runs_triton(qkv) and kernel_takes(qkv.dtype, out.shape[1] // heads):
        return launch_varlen_attention(qkv, start, longest, heads, out)
    return varlen_attention_reference(qkv, start, heads, out)
