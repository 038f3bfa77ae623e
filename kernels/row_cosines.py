"""Cosines of one embedding per perturbation, to the one before and to states, from sums of its rows. It pools no rows.

Formulas, all in float32 and summed in a fixed order, for list p whose original has row index[p] of `before`:

    after[p]           = (sum over chunks of sums[p, chunk]) / count[p]
    cosine[p]          = cos(after[p], before[index[p]])
    state_before[p, s] = cos(before[index[p]], state s);   state_after[p, s] = cos(after[p], state s)
    cos(u, v)          = u.v / (max(|u|, 1e-8) * max(|v|, 1e-8))

Both sides of a shift, state_after - state_before, are worked out by the same instructions, so an embedding that did not
change has a shift of exactly zero. count = 0 gives not-a-numbers. Torch takes fifteen passes over [P, D] for it.

Legend: P perturbations, C chunks, B rows before, S states, D dims.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the references below are what runs
    triton = None

TINY = 1e-8  # floor of every norm, so that a zero row has cosine 0 rather than NaN


# ---------------------------------------------------------------- torch reference


def cosine(u: Tensor, v: Tensor) -> Tensor:
    """cos over the last dimension, broadcasting; by products and sums, so no TF32 setting touches it."""
    norms = torch.linalg.vector_norm(u, dim=-1).clamp(min=TINY) * torch.linalg.vector_norm(v, dim=-1).clamp(min=TINY)
    return (u * v).sum(-1) / norms


def cosine_to_states(rows: Tensor, states: Tensor) -> Tensor:
    """cos of every row [P, D] to every state [S, D]: [P, S]."""
    return cosine(rows[:, None], states[None])


def means_reference(sums: Tensor, count: Tensor) -> Tensor:
    """`after` [P, D] of the formulas, of sums [P, C, D]."""
    return sums.sum(1) / count[:, None]


# ---------------------------------------------------------------- Triton kernel

if triton is not None:

    @triton.jit
    def _norm(x, TINY: tl.constexpr):  # type: ignore[no-untyped-def]
        return tl.maximum(tl.sqrt(tl.sum(x * x, 0)), TINY)

    @triton.jit(do_not_specialize=["chunks", "S"])
    def row_cosines_kernel(  # type: ignore[no-untyped-def]
        sums, length, index, before, states, cosine, state_before, state_after, mean,
        chunks, S, left_out,
        TINY: tl.constexpr, MEANS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """One list. MEANS: only `after`, into `mean`."""
        p = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK_D)
        column = d < D
        after = tl.zeros([BLOCK_D], tl.float32)
        for chunk in range(chunks):
            after += tl.load(sums + (p * chunks + chunk) * D + d, mask=column, other=0.0).to(tl.float32)
        count = tl.maximum(tl.load(length + p) - left_out, 0).to(tl.float32)
        after = tl.where(column, after / count, 0.0)
        if MEANS:
            tl.store(mean + p * D + d, after, mask=column)
        else:
            row = tl.load(before + tl.load(index + p) * D + d, mask=column, other=0.0).to(tl.float32)
            norm = _norm(after, TINY)
            norm_before = _norm(row, TINY)
            tl.store(cosine + p, tl.sum(after * row, 0) / (norm * norm_before))
            for s in range(S):
                state = tl.load(states + s * D + d, mask=column, other=0.0)
                norm_state = _norm(state, TINY)
                tl.store(state_before + p * S + s, tl.sum(row * state, 0) / (norm_before * norm_state))
                tl.store(state_after + p * S + s, tl.sum(after * state, 0) / (norm * norm_state))

    def _launch(
        sums: Tensor, length: Tensor, left_out: int, index: Tensor, before: Tensor, states: Tensor, means: bool
    ) -> tuple[Tensor, ...]:
        lists, chunks, dims = sums.shape
        assert length.dtype == torch.int32
        assert all(x.is_contiguous() and x.device == sums.device for x in (sums, length, index, before, states))

        def made(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=sums.device)

        kept = 0 if means else lists
        cosine, mean = made(kept), made(lists - kept, dims)
        at_states = [made(kept, len(states)) for _ in range(2)]
        block_dims = triton.next_power_of_2(dims)
        warps = max(4, block_dims // 128)  # with fewer, the widest spill on sm_100
        with torch.cuda.device_of(sums):
            row_cosines_kernel[(lists,)](
                sums, length, index, before, states, cosine, *at_states, mean, chunks, len(states), left_out,
                TINY=TINY, MEANS=means, D=dims, BLOCK_D=block_dims, num_warps=warps,
            )  # fmt: skip
        return cosine, *at_states, mean

    def launch_row_cosines(
        sums: Tensor, length: Tensor, left_out: int, index: Tensor, before: Tensor, states: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """cosine [P], state_before and state_after [P, S]; count is `length` [P] int32 less what is left out of a list.

        sums [P, C, D] of any float; index [P] int64; before [B, D] of any float; states [S, D] float32 or None.
        """
        assert index.dtype == torch.int64
        assert before.shape[1] == sums.shape[2]
        some = before.new_empty(0, sums.shape[2], dtype=torch.float32) if states is None else states
        assert some.dtype == torch.float32
        return _launch(sums, length, left_out, index, before, some, False)[:3]  # type: ignore[return-value]

    def launch_means(sums: Tensor, length: Tensor, left_out: int) -> Tensor:
        """`after` [P, D] float32, by the kernel that divides perturbed lists: equal sums, equal means."""
        none = sums.new_empty(0, sums.shape[2], dtype=torch.float32)
        return _launch(sums, length, left_out, length, none, none, True)[3]
