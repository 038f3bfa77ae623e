"""Embedding of perturbed rank lists straight from the base lists and the edits; it never builds a perturbed id list.

Formula, for row j of perturbed list p, with (s, t) the base index or the inserted token that the edits put at row j
(`perturbed_lists.trace`):

    hidden[p, j] = LayerNorm(word[t if inserted else ids[base[p] + s]] + position[j] + type_row; gamma, beta, eps)

Arithmetic is float32 whatever the tables and the output hold.

Legend: B base rows, P perturbations, K edits each, T perturbed rows, V tokens, M positions, D dims.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rankshift.kernels.perturbed_lists import PerturbedLists, row_positions, trace

try:
    import triton
    import triton.language as tl

    from rankshift.kernels.perturbed_lists import source_of_rows
except ImportError:  # no Triton on this platform: the references below are what runs
    triton = None

FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # what the kernels read and write; they compute in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTables:
    """The embedding block of a BERT encoder: `word` [V, D], `position` [M, D], `type_row` [D], and its LayerNorm."""

    word: Tensor
    position: Tensor
    type_row: Tensor
    gamma: Tensor
    beta: Tensor
    eps: float = 1e-12  # every published Geneformer configuration has it

    def __post_init__(self) -> None:
        dims = self.word.shape[-1]
        if self.word.dim() != 2 or self.position.dim() != 2 or self.position.shape[1] != dims:
            raise ValueError(
                f"word {tuple(self.word.shape)}, position {tuple(self.position.shape)}: must be [V, D], [M, D] of one D"
            )
        for name in ("type_row", "gamma", "beta"):
            if tuple(getattr(self, name).shape) != (dims,):
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, must be ({dims},) as word's dims"
                )


# ---------------------------------------------------------------- torch reference


def _layer_norm_rows(token: Tensor, position: Tensor, tables: EmbeddingTables, out: Tensor) -> None:
    """LayerNorm of (token, position) pairs [R] into `out` [R, D], a cache-sized block at a time."""
    dims = tables.word.shape[1]
    type_row, gamma, beta = (row.float() for row in (tables.type_row, tables.gamma, tables.beta))
    block = max(1, (1 << 16) // dims) if token.device.type == "cpu" else max(1, token.numel())
    for first in range(0, token.numel(), block):
        rows = slice(first, first + block)
        total = tables.word.index_select(0, token[rows]).float()
        total += tables.position.index_select(0, position[rows]).float()
        total += type_row
        out[rows] = functional.layer_norm(total, (dims,), gamma, beta, tables.eps)


def rank_shift_reference(lists: PerturbedLists, tables: EmbeddingTables, out: Tensor) -> Tensor:
    """The formula in torch. A token that only makes room moves by a rank or two, so most rows are copies of others.

    Variants (base row, shift of its position) are normalised once and gathered; where they are nearly as many as the
    rows themselves (few perturbations of many cells, hundreds of edits) every row is normalised for itself.
    """
    index, inserted, moved = trace(lists)
    owner, position = row_positions(lists)
    bases = lists.ids.numel()
    at_home = ~moved
    shift = position - (index - lists.base[owner])
    lowest, highest = (int(x) for x in torch.aminmax(shift[at_home])) if bool(at_home.any()) else (0, -1)
    variants = (highest - lowest + 1) * bases
    newcomers = torch.nonzero(moved).flatten()
    if 4 * (variants + newcomers.numel()) > 3 * lists.rows:
        token = torch.where(inserted < 0, lists.ids[index.clamp(min=0)], inserted)
        _layer_norm_rows(token, position, tables, out)
        return out
    variant = (shift - lowest) * bases + index
    variant[newcomers] = torch.arange(newcomers.numel(), device=index.device) + variants
    token_of = lists.ids.repeat(highest - lowest + 1)
    position_of = torch.zeros(variants, dtype=torch.int64, device=index.device)
    position_of[variant[at_home]] = position[at_home]  # equal variants have equal positions, so any writer may be last
    strange = inserted[newcomers]
    token_of = torch.cat([token_of, torch.where(strange < 0, lists.ids[index[newcomers].clamp(min=0)], strange)])
    position_of = torch.cat([position_of, position[newcomers]])
    table = torch.empty(token_of.numel(), out.shape[1], dtype=out.dtype, device=out.device)
    _layer_norm_rows(token_of, position_of, tables, table)
    return torch.index_select(table, 0, variant, out=out)


# ---------------------------------------------------------------- Triton kernel

if triton is not None:
    # `blocks` follows the longest list: specialised, every kind of number would be compiled for itself in mid-run.
    @triton.jit(do_not_specialize=["blocks"])
    def rank_shift_kernel(  # type: ignore[no-untyped-def]
        ids, base, length, start, source, destination, token, word, position, type_row, gamma, beta, out,
        K, blocks, eps,
        D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    ):  # fmt: skip
        """One block of rows of one list: token ids live in registers only."""
        p = (tl.program_id(0) // blocks).to(tl.int64)
        j = (tl.program_id(0) % blocks) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        present = j < tl.load(length + p)
        s, t, _ = source_of_rows(j, source + p * K, destination + p * K, token + p * K, K)
        from_base = present & (t < 0)
        t = tl.where(t < 0, tl.load(ids + tl.load(base + p) + s, mask=from_base, other=0), t)

        d = tl.arange(0, BLOCK_D)
        column = d < D
        tile = present[:, None] & column[None, :]
        x = tl.load(word + t[:, None].to(tl.int64) * D + d[None, :], mask=tile, other=0.0).to(tl.float32)
        x += tl.load(position + j[:, None] * D + d[None, :], mask=tile, other=0.0).to(tl.float32)
        x += tl.load(type_row + d, mask=column, other=0.0).to(tl.float32)[None, :]
        centred = tl.where(column[None, :], x - (tl.sum(x, 1) / D)[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
        g = tl.load(gamma + d, mask=column, other=0.0).to(tl.float32)
        b = tl.load(beta + d, mask=column, other=0.0).to(tl.float32)
        y = centred * scale[:, None] * g[None, :] + b[None, :]
        row = tl.load(start + p) + j
        tl.store(out + row[:, None] * D + d[None, :], y.to(out.dtype.element_ty), mask=tile)

    def launch_rank_shift(
        lists: PerturbedLists, tables: EmbeddingTables, out: Tensor, block_rows: int | None = None
    ) -> Tensor:
        """Runs the kernel into `out` [T, D]; `block_rows` (a power of two) defaults to about 4096 values a program."""
        dims = tables.word.shape[1]
        for name in ("word", "position", "type_row", "gamma", "beta"):
            table = getattr(tables, name)
            assert table.is_contiguous(), f"{name} must be contiguous"
            assert table.device == out.device == lists.ids.device, f"{name} is on {table.device}, out on {out.device}"
            assert table.dtype in FLOATS, f"{name} is {table.dtype}"
        assert tuple(out.shape) == (lists.rows, dims)
        assert out.is_contiguous()
        assert out.dtype in FLOATS
        assert lists.width <= tables.position.shape[0]
        block_dims = triton.next_power_of_2(dims)
        block_rows = block_rows or max(1, 4096 // block_dims)
        blocks = triton.cdiv(lists.width, block_rows)
        with torch.cuda.device_of(out):  # Triton launches on the current device
            rank_shift_kernel[(lists.length.numel() * blocks,)](
                lists.ids, lists.base, lists.length, lists.start, lists.source, lists.destination, lists.token,
                tables.word, tables.position, tables.type_row, tables.gamma, tables.beta, out,
                lists.source.shape[1], blocks, tables.eps,
                D=dims, BLOCK_D=block_dims, BLOCK_ROWS=block_rows, num_warps=4 if block_dims <= 1024 else 8,
            )  # fmt: skip
        return out


# ---------------------------------------------------------------- dispatch


def runs_triton(tensor: Tensor) -> bool:
    """Whether a kernel handles this tensor: on a CUDA or ROCm device, where Triton is installed."""
    return triton is not None and tensor.is_cuda


def rank_shift(
    lists: PerturbedLists, tables: EmbeddingTables, out_dtype: torch.dtype | None = None, *, out: Tensor | None = None
) -> Tensor:
    """Hidden states [T, D] of all perturbed lists after the embedding block, in `out_dtype` (default: that of `word`).

    `out` [T, D] contiguous takes the result when given. Raises ValueError when a list is longer than the position
    table, or when devices or shapes disagree.
    """
    dims = tables.word.shape[1]
    if lists.width > tables.position.shape[0]:
        raise ValueError(
            f"a perturbed list has {lists.width} rows, the model {tables.position.shape[0]} positions: truncate it"
        )
    if lists.ids.device != tables.word.device:
        raise ValueError(f"lists are on {lists.ids.device}, tables on {tables.word.device}: put both on one device")
    if out is None:
        out = torch.empty(lists.rows, dims, dtype=out_dtype or tables.word.dtype, device=tables.word.device)
    elif tuple(out.shape) != (lists.rows, dims) or not out.is_contiguous() or out_dtype not in (None, out.dtype):
        raise ValueError(f"out is {out.dtype} {tuple(out.shape)}, must be contiguous ({lists.rows}, {dims})")
    if lists.rows == 0:
        return out
    if runs_triton(out):
        return launch_rank_shift(lists, tables, out)
    return rank_shift_reference(lists, tables, out)
