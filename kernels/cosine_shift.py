"""How far hidden states moved under perturbation: cosines of aligned rows, of the pooled cell, and to states.

It makes no aligned copy of the hidden states. Formulas, all in float32 and summed in a fixed order:

    cos(u, v)         = u.v / (max(|u|, 1e-8) * max(|v|, 1e-8))
    similarity[p]     = mean over aligned pairs of cos(hidden row, base row);  NaN without a pair
    cell_cosine[p]    = cos(mean of all gene rows after, mean of all gene rows before);  NaN without a gene row
    state_after[p, s] = cos(mean of all gene rows after, state s);  shift towards s = state_after - state_before

An aligned pair is a row of the perturbed list that no edit moved or inserted, with the row of the base list it came
from. Both must be gene rows: `skip_first` rows at the front and `skip_last` at the end (the specials) are left out.
The pooled means include the perturbed gene where it is present; the pairs never do.

Legend: B base rows, C cells (base lists), P perturbations, T perturbed rows, S states, D dims, R aggregate rows,
V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankshift.kernels.rank_shift import PerturbedLists, row_positions, trace

TINY = 1e-8  # floor of every norm, so that a zero row has cosine 0 rather than NaN


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
    """Per perturbation: `similarity` [P] f32, `pairs` [P] int32, `cell_cosine` [P] f32, `state_before` and
    `state_after` [P, S] f32 or None. `gene` [T] f32 or None: the cosine of each row with its partner, NaN where it has
    none."""

    similarity: Tensor
    pairs: Tensor
    cell_cosine: Tensor
    state_before: Tensor | None
    state_after: Tensor | None
    gene: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Gene cosines over cells, per (perturbation row, affected token): each tensor is [R, V]."""

    n: Tensor
    sum: Tensor
    square: Tensor
    min: Tensor

    @classmethod
    def zeros(cls, rows: int, tokens: int, device: torch.device | str = "cpu") -> Aggregate:
        """An empty aggregate: n int32, sum and square float64, min float32 (infinity where n is 0)."""
        shape = (rows, tokens)
        return cls(
            n=torch.zeros(shape, dtype=torch.int32, device=device),
            sum=torch.zeros(shape, dtype=torch.float64, device=device),
            square=torch.zeros(shape, dtype=torch.float64, device=device),
            min=torch.full(shape, float("inf"), dtype=torch.float32, device=device),
        )


# ---------------------------------------------------------------- torch reference


def _cosine(u: Tensor, v: Tensor) -> Tensor:
    """cos over the last dimension, broadcasting; by products and sums, so no TF32 setting touches it."""
    norms = torch.linalg.vector_norm(u, dim=-1).clamp(min=TINY) * torch.linalg.vector_norm(v, dim=-1).clamp(min=TINY)
    return (u * v).sum(-1) / norms


def _cosine_to_states(rows: Tensor, states: Tensor) -> Tensor:
    return torch.stack([_cosine(rows, state) for state in states], dim=-1)


def _row_block(dims: int) -> int:
    return max(1, (1 << 16) // dims)  # 256 KB of float32: operands of a row block stay in a core's L2


def _pool(hidden: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Mean of rows first[i]..last[i]-1, float32 [len(first), D]; NaN for an empty range."""
    pooled = torch.full((first.numel(), hidden.shape[1]), float("nan"), device=hidden.device)
    for row, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        if b > a:
            pooled[row] = hidden[a:b].float().mean(0)
    return pooled


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
    - 1 (`start` strictly ascending). `skip_first` and `skip_last` are 0 for plain lists, 1 for lists framed by
    specials. `states` [S, D]. Raises ValueError when shapes disagree.
    """
    if hidden.dim() != 2 or not hidden.is_contiguous() or start.shape != length.shape:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, start {tuple(start.shape)}, length {tuple(length.shape)} disagree"
        )
    if states is not None and (states.dim() != 2 or states.shape[1] != hidden.shape[1]):
        raise ValueError(
            f"states have shape {tuple(states.shape)}, the hidden states {hidden.shape[1]} dims: same layer?"
        )
    start = start.to(hidden.device, torch.int64)
    length = length.to(hidden.device, torch.int64)
    norm = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    block = _row_block(hidden.shape[1]) if hidden.device.type == "cpu" else max(1, hidden.shape[0])
    for first in range(0, hidden.shape[0], block):
        norm[first : first + block] = torch.linalg.vector_norm(hidden[first : first + block].float(), dim=1)
    pooled = _pool(hidden, start + skip_first, start + length - skip_last)
    states = None if states is None else states.to(hidden.device, torch.float32).contiguous()
    return BaseCells(
        hidden=hidden,
        inverse_norm=norm.clamp_(min=TINY).reciprocal_(),
        start=start,
        pooled=pooled,
        states=states,
        state_before=None if states is None else _cosine_to_states(pooled, states),
        skip_first=skip_first,
        skip_last=skip_last,
    )


def cosine_shift_reference(
    base: BaseCells, hidden: Tensor, lists: PerturbedLists, cell: Tensor, partner_limit: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of the aligned cosines [P], pairs [P], pooled mean after [P, D] and gene cosines [T], in torch."""
    index, _, moved = trace(lists)
    owner, position = row_positions(lists)
    within = index - lists.base[owner]
    aligned = ~moved & (position >= base.skip_first) & (position < lists.length[owner] - base.skip_last)
    aligned &= (within >= base.skip_first) & (within < lists.base_length[owner] - base.skip_last)
    if partner_limit is not None:
        aligned &= within < partner_limit[owner]
    index = torch.where(aligned, index, 0)

    dims = hidden.shape[1]
    block = _row_block(dims)
    partner = torch.empty(block, dims, dtype=base.hidden.dtype, device=hidden.device)
    gene = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    norm = torch.ones_like(gene)
    pooled = torch.zeros(lists.length.numel(), dims, dtype=torch.float32, device=hidden.device)
    bounds = lists.start.tolist()
    for p in range(lists.length.numel()):
        stop = bounds[p + 1] - base.skip_last
        for first in range(bounds[p] + base.skip_first, stop, block):
            rows = slice(first, min(first + block, stop))
            after = hidden[rows].float()
            before = torch.index_select(base.hidden, 0, index[rows], out=partner[: after.shape[0]])
            pooled[p] += after.sum(0)
            torch.linalg.vector_norm(after, dim=1, out=norm[rows])
            torch.sum(before.float().mul_(after), 1, out=gene[rows])
    gene /= norm.clamp_(min=TINY)
    gene *= base.inverse_norm[index]
    gene.masked_fill_(~aligned, 0.0)
    length = lists.length.to(torch.int64)
    total = torch.segment_reduce(gene.double(), "sum", lengths=length, initial=0)
    pairs = torch.segment_reduce(aligned.double(), "sum", lengths=length, initial=0)
    gene.masked_fill_(~aligned, float("nan"))
    rows_pooled = (length - base.skip_first - base.skip_last).clamp(min=0)
    return total.float(), pairs.to(torch.int32), pooled / rows_pooled[:, None], gene


def accumulate_reference(aggregate: Aggregate, gene: Tensor, token: Tensor, row: Tensor) -> None:
    """Adds cosines `gene` [n] of (`row`, `token`) cells, which must be distinct, to the aggregate in place."""
    value = gene.double()
    aggregate.n[row, token] += 1
    aggregate.sum[row, token] += value
    aggregate.square[row, token] += value * value
    aggregate.min[row, token] = torch.minimum(aggregate.min[row, token], gene)


# ---------------------------------------------------------------- dispatch


def cosine_shift(
    base: BaseCells,
    hidden: Tensor,
    lists: PerturbedLists,
    *,
    partner_limit: Tensor | None = None,
    gene_cosines: bool = False,
) -> CosineShift:
    """Compares hidden states [T, D] of perturbed lists, packed as `rank_shift` packs them, with those of their base
    lists.

    `lists.base` must be starts of cells in `base`, and `lists.base_length` the lengths of the lists that were encoded
    as the originals. `partner_limit` [P] int32: base rows from this index of the base list on have no partner (an
    original that was cut shorter than the list the edits were applied to). Raises ValueError when shapes disagree.
    """
    if tuple(hidden.shape) != (lists.rows, base.hidden.shape[1]) or not hidden.is_contiguous():
        raise ValueError(f"hidden is {tuple(hidden.shape)}, must be contiguous ({lists.rows}, {base.hidden.shape[1]})")
    if partner_limit is not None and partner_limit.shape != lists.length.shape:
        raise ValueError(f"partner_limit has shape {tuple(partner_limit.shape)}, one is needed per perturbation")
    cell = torch.searchsorted(base.start, lists.base)
    if hidden.device.type == "cpu" and not torch.equal(base.start[cell.clamp(max=base.start.numel() - 1)], lists.base):
        raise ValueError("a perturbed list begins where no base cell does: prepare the base from the same packing")
    total, pairs, pooled, gene = cosine_shift_reference(base, hidden, lists, cell, partner_limit)
    return CosineShift(
        similarity=total / pairs,
        pairs=pairs,
        cell_cosine=_cosine(pooled, base.pooled[cell]),
        state_before=None if base.state_before is None else base.state_before[cell],
        state_after=None if base.states is None else _cosine_to_states(pooled, base.states),
        gene=gene if gene_cosines else None,
    )


def cosine_rows(after: Tensor, before: Tensor, states: Tensor | None = None) -> CosineShift:
    """The shift of one embedding row per perturbation (a <cls> row): `after` [P, D], `before` [P, D] or [1, D].

    Similarity and cell cosine are the same number, and there is one pair.
    """
    if after.dim() != 2 or before.shape[1:] != after.shape[1:] or before.shape[0] not in (1, after.shape[0]):
        raise ValueError(f"after {tuple(after.shape)} and before {tuple(before.shape)} must be [P, D] and [P or 1, D]")
    after, before = after.float(), before.float()
    similarity = _cosine(after, before)
    states = None if states is None else states.to(after.device, torch.float32)
    return CosineShift(
        similarity=similarity,
        pairs=torch.ones(after.shape[0], dtype=torch.int32, device=after.device),
        cell_cosine=similarity.clone(),
        state_before=None if states is None else _cosine_to_states(before, states).expand(after.shape[0], -1),
        state_after=None if states is None else _cosine_to_states(after, states),
        gene=None,
    )


def accumulate(aggregate: Aggregate, gene: Tensor, lists: PerturbedLists, row: Tensor) -> None:
    """Adds the gene cosines [T] of a batch to the aggregate, in place, at (row[p], affected token) for perturbation p.

    A gene may stand at most once in a list. Perturbations with the same aggregate row (one perturbation in several
    cells) are added one after the other in the order of the batch, so the sums do not depend on scheduling.
    """
    if gene.shape[0] != lists.rows or row.shape != lists.length.shape:
        raise ValueError(
            f"gene {tuple(gene.shape)} and row {tuple(row.shape)} must be [{lists.rows}] and one per perturbation"
        )
    index, _, _ = trace(lists)
    owner, _ = row_positions(lists)
    present = ~gene.isnan()
    owner, value, token = owner[present], gene[present], lists.ids[index[present]].to(torch.int64)
    turn = _turns(row).to(owner.device)[owner]
    row = row.to(owner.device, torch.int64)
    for t in range(int(turn.max()) + 1 if turn.numel() else 0):
        now = turn == t
        accumulate_reference(aggregate, value[now], token[now], row[owner[now]])


def _turns(row: Tensor) -> Tensor:
    """How often each entry's value occurred before it: rows with equal turns are distinct."""
    order = torch.argsort(row, stable=True)
    ordered = row[order]
    first = torch.searchsorted(ordered, ordered)
    turn = torch.empty_like(order)
    turn[order] = torch.arange(row.numel(), device=row.device) - first
    return turn
