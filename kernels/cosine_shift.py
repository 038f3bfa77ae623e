"""How far hidden states moved under perturbation: cosines of aligned rows, of the pooled cell, and to states.

It makes no aligned copy of the hidden states. Formulas, all in float32 and summed in a fixed order:

    cos(u, v)         = u.v / (max(|u|, 1e-8) * max(|v|, 1e-8))
    similarity[p]     = mean over aligned pairs of cos(hidden row, base row);  NaN without a pair
    cell_cosine[p]    = cos(mean of all gene rows after, mean of all gene rows before);  NaN without a gene row
    state_after[p, s] = cos(mean of all gene rows after, state s);  shift towards s = state_after - state_before

An aligned pair is a row of the perturbed list that no edit moved or inserted, with the row of the base list it came
from. Both must be gene rows: `skip_first` rows at the front and `skip_last` at the end (the specials) are left out.
The pooled means include the perturbed gene where it is present; the pairs never do.

Legend: B base rows, C cells (base lists), P perturbations, T perturbed rows, S states, D dims.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankshift.kernels.perturbed_lists import PerturbedLists, row_positions, sent, trace
from rankshift.kernels.rank_shift import FLOATS, runs_triton
from rankshift.kernels.row_cosines import TINY, cosine, cosine_to_states

try:
    import triton
    import triton.language as tl

    from rankshift.kernels.perturbed_lists import source_of_rows
    from rankshift.kernels.row_cosines import launch_means, launch_row_cosines
except ImportError:  # no Triton on this platform: the references below are what runs
    triton = None

CHUNK_ROWS = 256  # rows whose sums a program adds up: 8 programs for the longest list of a V1 model


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseCells:
    """What all perturbations of the same cells share; made once by `prepare_base`.

    `hidden` [B, D]; `inverse_norm` [B] f32; `start` [C] int64, where each cell begins; `pooled` [C, D] f32;
    `state_before` [C, S] f32 or None.
    """

    hidden: Tensor
    inverse_norm: Tensor
    start: Tensor
    pooled: Tensor
    states: Tensor | None
    state_before: Tensor | None
    skip_first: int
    skip_last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineShift:
    """What every perturbation did; the formulas are at the top of this file.

    `similarity` [P] f32; `pairs` [P] int32, how many rows it is a mean of; `cell_cosine` [P] f32; `state_before` and
    `state_after` [P, S] f32, or None without states; `gene` [T] f32, the cosine of each row with its partner and NaN
    where it has none, or None if not asked for.
    """

    similarity: Tensor
    pairs: Tensor
    cell_cosine: Tensor
    state_before: Tensor | None
    state_after: Tensor | None
    gene: Tensor | None


# ---------------------------------------------------------------- torch reference


def _blocks(first: int, stop: int, dims: int) -> list[slice]:
    """Rows in steps of 256 KB of float32, so that the operands of a step stay in a core's second-level cache."""
    step = max(1, (1 << 16) // dims)
    return [slice(row, min(row + step, stop)) for row in range(first, stop, step)]


def prepare_base_reference(hidden: Tensor, first: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Norms [B] of all rows and sums [C, D] of rows first[c]..stop[c]-1, added up as those of perturbed lists are."""
    norm = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    for rows in _blocks(0, hidden.shape[0], hidden.shape[1]):
        norm[rows] = torch.linalg.vector_norm(hidden[rows].float(), dim=1)
    pooled = torch.zeros(first.numel(), hidden.shape[1], dtype=torch.float32, device=hidden.device)
    for c, (a, b) in enumerate(zip(first.tolist(), stop.tolist(), strict=True)):
        for rows in _blocks(a, b, hidden.shape[1]):
            pooled[c] += hidden[rows].float().sum(0)
    return norm, pooled


def prepare_base(
    hidden: Tensor,
    start: Tensor,
    length: Tensor,
    *,
    skip_first: int = 0,
    skip_last: int = 0,
    states: Tensor | None = None,
) -> BaseCells:
    """Norms and pooled means of the base lists, computed once however many perturbations follow.

    `hidden` [B, D] is packed as the ids of `PerturbedLists` are; cell c has the rows start[c] .. start[c] + length[c]
    - 1 (`start` strictly ascending). On the host, `start` and `length` save a wait for the device. `skip_first` and
    `skip_last` are 0 for plain lists, 1 for lists framed by specials. `states` [S, D]. Raises ValueError when shapes
    disagree.
    """
    if hidden.dim() != 2 or not hidden.is_contiguous() or start.shape != length.shape:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, start {tuple(start.shape)}, length {tuple(length.shape)} disagree"
        )
    if states is not None and (states.dim() != 2 or states.shape[1] != hidden.shape[1]):
        raise ValueError(
            f"states have shape {tuple(states.shape)}, the hidden states {hidden.shape[1]} dims: same layer?"
        )
    longest = int(length.max()) if length.numel() else 0  # of lengths on the host, so nothing waits
    start = sent(start.to(torch.int64), hidden.device)
    length = sent(length.to(torch.int64), hidden.device)
    if runs_triton(hidden):
        norm = torch.linalg.vector_norm(hidden, dim=1, dtype=torch.float32)
        rows = length.to(torch.int32)
        pooled = launch_means(
            launch_pooled_sums(hidden, start, rows, longest, skip_first, skip_last), rows, skip_first + skip_last
        )
    else:
        norm, pooled = prepare_base_reference(hidden, start + skip_first, start + length - skip_last)
        pooled /= (length - skip_first - skip_last).clamp(min=0)[:, None]
    states = None if states is None else sent(states.to(torch.float32).contiguous(), hidden.device)
    return BaseCells(
        hidden=hidden,
        inverse_norm=norm.clamp_(min=TINY).reciprocal_(),
        start=start,
        pooled=pooled,
        states=states,
        state_before=None if states is None else cosine_to_states(pooled, states),
        skip_first=skip_first,
        skip_last=skip_last,
    )


def cosine_shift_reference(
    base: BaseCells, hidden: Tensor, lists: PerturbedLists
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of the aligned cosines [P], pairs [P], sum of the gene rows [P, D] and gene cosines [T], in torch."""
    index, _, moved = trace(lists)
    owner, position = row_positions(lists)
    within = index - lists.base[owner]
    aligned = ~moved & (position >= base.skip_first) & (position < lists.length[owner] - base.skip_last)
    aligned &= (within >= base.skip_first) & (within < lists.base_length[owner] - base.skip_last)
    index = torch.where(aligned, index, 0)

    dims = hidden.shape[1]
    partner = torch.empty(max(1, (1 << 16) // dims), dims, dtype=base.hidden.dtype, device=hidden.device)
    gene = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    norm = torch.ones_like(gene)
    pooled = torch.zeros(lists.length.numel(), dims, dtype=torch.float32, device=hidden.device)
    bounds = lists.start.tolist()
    for p in range(lists.length.numel()):
        for rows in _blocks(bounds[p] + base.skip_first, bounds[p + 1] - base.skip_last, dims):
            after = hidden[rows].float()
            before = torch.index_select(base.hidden, 0, index[rows], out=partner[: after.shape[0]])
            pooled[p] += after.sum(0)
            torch.linalg.vector_norm(after, dim=1, out=norm[rows])
            torch.sum(before.float().mul_(after), 1, out=gene[rows])
    gene /= norm.clamp_(min=TINY)
    gene *= base.inverse_norm[index]
    gene.masked_fill_(~aligned, 0.0)
    total = torch.zeros(lists.length.numel(), dtype=torch.float64, device=hidden.device)
    pairs = torch.zeros(lists.length.numel(), dtype=torch.int32, device=hidden.device)
    total.index_add_(0, owner, gene.double())
    pairs.index_add_(0, owner, aligned.to(torch.int32))
    gene.masked_fill_(~aligned, float("nan"))
    return total.float(), pairs, pooled, gene


# ---------------------------------------------------------------- Triton kernels

if triton is not None:
    # `chunks` follows the longest list: specialised, every kind of number would be compiled for itself in mid-run.
    @triton.jit(do_not_specialize=["chunks"])
    def cosine_shift_kernel(  # type: ignore[no-untyped-def]
        hidden, base_hidden, inverse_norm, gene, sums, cosines, pairs,
        base, base_length, length, start, source, destination, token,
        K, chunks, skip_first, skip_last,
        TINY: tl.constexpr, GENES: tl.constexpr,
        D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_ROWS: tl.constexpr, CHUNK_ROWS: tl.constexpr,
    ):  # fmt: skip
        """One chunk of rows of one list: the sum of its gene rows, of its aligned cosines, and their number."""
        p = (tl.program_id(0) // chunks).to(tl.int64)
        chunk = tl.program_id(0) % chunks
        n = tl.load(length + p)
        first_row = tl.load(start + p)
        first_base = tl.load(base + p)
        base_stop = tl.load(base_length + p) - skip_last
        d = tl.arange(0, BLOCK_D)
        column = d < D
        total = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
        cosine_total = tl.zeros([BLOCK_ROWS], tl.float32)
        count = tl.zeros([BLOCK_ROWS], tl.int32)
        for row in range(chunk * CHUNK_ROWS, tl.minimum(n, (chunk + 1) * CHUNK_ROWS), BLOCK_ROWS):
            j = row + tl.arange(0, BLOCK_ROWS)
            is_gene = (j >= skip_first) & (j < n - skip_last)
            s, t, moved = source_of_rows(j, source + p * K, destination + p * K, token + p * K, K)
            aligned = is_gene & (t < 0) & (moved == 0) & (s >= skip_first) & (s < base_stop)
            tile = is_gene[:, None] & column[None, :]
            x = tl.load(hidden + (first_row + j)[:, None] * D + d[None, :], mask=tile, other=0.0).to(tl.float32)
            partner = first_base + s
            tile = aligned[:, None] & column[None, :]
            y = tl.load(base_hidden + partner[:, None] * D + d[None, :], mask=tile, other=0.0).to(tl.float32)
            scale = tl.load(inverse_norm + partner, mask=aligned, other=0.0).to(tl.float32)
            cosine = tl.sum(x * y, 1) * scale / tl.maximum(tl.sqrt(tl.sum(x * x, 1)), TINY)
            if GENES:
                tl.store(gene + first_row + j, tl.where(aligned, cosine, float("nan")), mask=j < n)
            total += x
            cosine_total += tl.where(aligned, cosine, 0.0)
            count += aligned.to(tl.int32)
        part = p * chunks + chunk
        tl.store(sums + part * D + d, tl.sum(total, 0), mask=column)
        tl.store(cosines + part, tl.sum(cosine_total, 0))
        tl.store(pairs + part, tl.sum(count, 0))

    def _launch_rows(
        base_hidden: Tensor,
        inverse_norm: Tensor,
        hidden: Tensor,
        where: tuple[Tensor, ...],
        edits: tuple[Tensor, Tensor, Tensor],
        skip: tuple[int, int],
        width: int,
        gene: Tensor | None,
        block_rows: int | None,
        chunk_rows: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """By chunk of a list: sums of gene rows [P, C, D], of aligned cosines [P, C], and pairs [P, C] int32.

        where: base, base_length, length, start. No atomics: the order of sums is fixed.
        """
        dims, perturbations, device = hidden.shape[1], where[0].numel(), hidden.device
        assert {hidden.dtype, base_hidden.dtype} <= set(FLOATS), f"{hidden.dtype}, {base_hidden.dtype}"
        assert hidden.is_contiguous()
        assert base_hidden.is_contiguous()
        assert all(x.device == device and x.is_contiguous() for x in (base_hidden, inverse_norm, *where, *edits))
        assert [x.dtype for x in where] == [torch.int64, torch.int32, torch.int32, torch.int64]
        assert all(x.dtype == torch.int32 and x.shape[0] == perturbations for x in edits)
        block_dims = triton.next_power_of_2(dims)
        block_rows = block_rows or (1 if block_dims > 1024 else max(1, 4096 // block_dims))
        chunk_rows = max(chunk_rows, block_rows)
        assert chunk_rows % block_rows == 0
        chunks = max(1, triton.cdiv(width, chunk_rows))
        sums = torch.empty(perturbations, chunks, dims, dtype=torch.float32, device=device)
        cosines = torch.empty(perturbations, chunks, dtype=torch.float32, device=device)
        pairs = torch.empty(perturbations, chunks, dtype=torch.int32, device=device)
        with torch.cuda.device_of(hidden):
            cosine_shift_kernel[(perturbations * chunks,)](
                hidden, base_hidden, inverse_norm, cosines if gene is None else gene, sums, cosines, pairs,
                *where, *edits,
                edits[0].shape[1], chunks, *skip,
                TINY=TINY, GENES=gene is not None,
                D=dims, BLOCK_D=block_dims, BLOCK_ROWS=block_rows, CHUNK_ROWS=chunk_rows,
                num_warps=8,  # with four, float32 rows of two edits spill on every GPU
            )  # fmt: skip
        return sums, cosines, pairs

    def launch_pooled_sums(
        hidden: Tensor,
        start: Tensor,
        length: Tensor,
        longest: int,
        skip_first: int,
        skip_last: int,
        block_rows: int | None = None,
    ) -> Tensor:
        """Sums [C, chunks, D] of base lists' gene rows, by the kernel that pools perturbed lists: equal rows, equal sums."""
        none = torch.empty(start.numel(), 0, dtype=torch.int32, device=hidden.device)
        unit = torch.ones(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        return _launch_rows(
            hidden, unit, hidden, (start, length, length, start), (none, none, none), (skip_first, skip_last),
            longest, None, block_rows, CHUNK_ROWS,
        )[0]  # fmt: skip

    def launch_cosine_shift(
        base: BaseCells,
        hidden: Tensor,
        lists: PerturbedLists,
        gene_cosines: bool,
        block_rows: int | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """`cosine_shift_reference` on a device, by chunk of a list; gene cosines only when asked for."""
        assert tuple(hidden.shape) == (lists.rows, base.hidden.shape[1])
        gene = torch.empty(lists.rows, dtype=torch.float32, device=hidden.device) if gene_cosines else None
        pooled, total, pairs = _launch_rows(
            base.hidden, base.inverse_norm, hidden,
            (lists.base, lists.base_length, lists.length, lists.start),
            (lists.source, lists.destination, lists.token), (base.skip_first, base.skip_last),
            lists.width, gene, block_rows, chunk_rows,
        )  # fmt: skip
        return total, pairs, pooled, gene

# ---------------------------------------------------------------- dispatch


def cosine_shift(
    base: BaseCells,
    hidden: Tensor,
    lists: PerturbedLists,
    *,
    gene_cosines: bool = False,
) -> CosineShift:
    """Compares hidden states [T, D] of perturbed lists, packed as by `rank_shift`, with those of their base lists.

    `lists.base` must be starts of cells in `base`, and `lists.base_length` the lengths of the lists that were encoded
    as the originals. Raises ValueError when shapes disagree.
    """
    if tuple(hidden.shape) != (lists.rows, base.hidden.shape[1]) or not hidden.is_contiguous():
        raise ValueError(f"hidden is {tuple(hidden.shape)}, must be contiguous ({lists.rows}, {base.hidden.shape[1]})")
    cell = torch.searchsorted(base.start, lists.base)
    if hidden.device.type == "cpu" and not torch.equal(base.start[cell.clamp(max=base.start.numel() - 1)], lists.base):
        raise ValueError("a perturbed list begins where no base cell does: prepare the base from the same packing")
    gene: Tensor | None
    left_out = base.skip_first + base.skip_last
    if runs_triton(hidden) and lists.length.numel():
        totals, counts, sums, gene = launch_cosine_shift(base, hidden, lists, gene_cosines)
        pooled_cosine, state_before, state_after = launch_row_cosines(
            sums, lists.length, left_out, cell, base.pooled, base.states
        )
        total, pairs = totals.sum(1), counts.sum(1, dtype=torch.int32)
    else:
        total, pairs, pooled, gene = cosine_shift_reference(base, hidden, lists)
        pooled = pooled / (lists.length - left_out).clamp(min=0)[:, None]
        pooled_cosine = cosine(pooled, base.pooled[cell])
        if base.states is not None and base.state_before is not None:
            state_before, state_after = base.state_before[cell], cosine_to_states(pooled, base.states)
    return CosineShift(
        similarity=total / pairs,
        pairs=pairs,
        cell_cosine=pooled_cosine,
        state_before=None if base.states is None else state_before,
        state_after=None if base.states is None else state_after,
        gene=gene if gene_cosines else None,
    )


def cosine_rows(
    after: Tensor, before: Tensor, states: Tensor | None = None, index: Tensor | None = None
) -> CosineShift:
    """The shift of one embedding row per perturbation (a <cls> row): `after` [P, D], `before` [B, D].

    index [P] int64: the row before, by perturbation; without it `before` has one for each, or one for all. Similarity and
    cell cosine are the same number, and there is one pair. Raises ValueError when shapes disagree.
    """
    rows = after.shape[0]
    if after.dim() != 2 or before.shape[1:] != after.shape[1:] or (index is None and before.shape[0] not in (1, rows)):
        raise ValueError(f"after {tuple(after.shape)} and before {tuple(before.shape)} must be [P, D] and [P or 1, D]")
    states = None if states is None else states.to(after.device, torch.float32)
    pairs = torch.ones(rows, dtype=torch.int32, device=after.device)
    if runs_triton(after) and rows:
        if index is None:
            index = torch.arange(rows, device=after.device).clamp_(max=before.shape[0] - 1)
        similarity, state_before, state_after = launch_row_cosines(
            after[:, None].contiguous(), pairs, 0, index, before.contiguous(), states
        )
    else:
        after, before = after.float(), (before if index is None else before[index]).float()
        similarity = cosine(after, before)
        if states is not None:
            state_before = cosine_to_states(before, states).expand(rows, -1)
            state_after = cosine_to_states(after, states)
    return CosineShift(
        similarity=similarity,
        pairs=pairs,
        cell_cosine=similarity,
        state_before=None if states is None else state_before,
        state_after=None if states is None else state_after,
        gene=None,
    )
