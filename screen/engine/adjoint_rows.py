"""The two passes behind the adjoint prediction: a cell's rows forward with the rows that would stand elsewhere, then back.

It knows rows of one cell and the layers of an encoder; what a perturbation is made of is known in `adjoint`, which has the
formulas. Everything is float32, on the encoder's device.

Legend: N rows of the cell, M moved rows (a token at a place where the cell does not have it), T = N + M; S directions in
which the embedding is read; H heads, E head size, D = H E; B queries of a block. `slot` [T] is the row of the cell that a
row replaces: its own one, or N for a gene that the cell lacks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rankshift.screen.encoder.encoder import BLOCK_TOKENS, Encoder

# Attention weights of a block of queries over all keys, in elements: they stay in a CPU's cache, and fill a GPU.
BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
MOST_RUNS = 8  # of neighbouring rows that are handled as slices
LEAST_LEFT = 1e-6  # weight of all other keys when one leaves; below it float32 knows nothing of them
MOST_LOGIT = 80.0  # of a new key over all old ones together; exp of it is finite, and its share is 1 to every digit


Piece = tuple[slice | Tensor, slice | Tensor]  # moved rows, and the rows of the cell that they replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the way back needs of one layer: its input rows [T, D], and of the rows it was asked for their attention
    [*, D] and the log of their softmax's denominator [H, *]."""

    rows: Tensor
    attended: Tensor
    log_sum: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A cell and its moved rows behind the layers. hidden [T, D], or [1, D] where only the first row is read."""

    slot: Tensor
    length: int
    kept: list[Kept]
    hidden: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """First-order change of what is read [S, D] . embedding, by the answer of all other rows.

    moved [S, M]: to the new key and value of a moved row in place of its old one; removed [S, N]: to a row that leaves.
    """

    moved: Tensor
    removed: Tensor


@torch.no_grad()
def forward(
    encoder: Encoder, ids: Tensor, token: Tensor, place: Tensor, slot: Tensor, layers: int, cls: bool
) -> Forward:
    """Run the cell `ids` [N], and each of the tokens `token` [M] alone at its `place` [M] among the cell's other rows.

    A moved row attends to the cell's keys and values as they are, but for those of its own old place: there it finds
    itself. The rows of the cell are the moved rows that stay, so one product serves all. cls: of the last layer only the
    first row is read.
    """
    n = len(ids)
    own = torch.arange(n, device=ids.device)
    places = torch.cat([own, place]).clamp_(0, encoder.sizes.positions - 1)  # no list moves the rows that this touches
    rows = encoder.model.embed_tokens(torch.cat([ids, token]), places)
    slots = torch.cat([own, slot])
    kept = []
    for layer in range(layers):
        asked = 1 if cls and layer == layers - 1 else len(rows)
        attended, log_sum = _attend(encoder, layer, rows, slots, n, asked)
        read = min(asked, n)
        kept.append(Kept(rows=rows, attended=attended[:read].clone(), log_sum=log_sum[:, :read].clone()))
        spans = _spans(asked, BLOCK_TOKENS)
        rows = torch.cat([encoder.model.finish(layer, rows[a:b].clone(), attended[a:b]) for a, b in spans])
    return Forward(slot=slot, length=n, kept=kept, hidden=rows[:1] if cls else rows)


def backward(encoder: Encoder, cell: Forward, read: Tensor, removals: bool) -> Responses:
    """Carry the derivative `read` [S, rows, D] of what is read by the last hidden rows down through the layers.

    On its way it meets, in every layer, the derivative by each row's attention output (the adjoint); the exact change of that
    output by one key, times the adjoint, is what a moved or a leaving row does to all others there. removals: leaving rows,
    too, else they stay 0.
    """
    n, states = cell.length, len(read)
    moved = torch.zeros(states, len(cell.slot), device=read.device)
    removed = torch.zeros(states, n, device=read.device)
    pieces = _pieces(cell.slot, n)
    gradient = read
    for layer in reversed(range(len(cell.kept))):
        kept, deeper = cell.kept[layer], layer > 0
        adjoint, passed = _back_to_attention(encoder, layer, kept, gradient)
        keys = _Keys(encoder, layer, kept, adjoint, cell.slot, pieces, n)
        for first, last in _spans(len(kept.attended), _block(encoder, len(kept.rows))):
            keys.answer(first, last, moved, removed if removals else None, deeper)
        moved += keys.moved()
        if deeper:
            gradient = keys.gradient()
            gradient[:, : passed.shape[1]] += passed
    return Responses(moved=moved, removed=removed)


class _Keys:
    """Queries, keys and values of one layer on the way back, and the derivatives that gather on them block by block."""

    def __init__(
        self,
        encoder: Encoder,
        layer: int,
        kept: Kept,
        adjoint_SBD: Tensor,
        slot: Tensor,
        pieces: list[Piece],
        length: int,
    ) -> None:
        self.scale = (encoder.hidden_size // encoder.heads) ** -0.5
        self.kept, self.slot, self.pieces = kept, slot, pieces
        with torch.inference_mode(False), torch.enable_grad():
            self.rows = kept.rows[:length].clone().requires_grad_()
            self.projected = encoder.model.qkv(layer, self.rows)  # (N, 3D)
        q, k, v = _heads(self.projected.detach(), encoder.heads)
        self.q, self.keys, self.values = q[:, : len(kept.attended)] * self.scale, k, v  # (H, *, E)
        _, self.new_keys, self.new_values = _heads(
            encoder.model.qkv(layer, kept.rows[length:]), encoder.heads
        )  # (H, M, E)
        self.out = kept.attended.unflatten(1, (encoder.heads, -1)).transpose(0, 1)  # (H, B, E)
        self.adjoint = adjoint_SBD.unflatten(2, (encoder.heads, -1)).transpose(1, 2).contiguous()  # (S, H, B, E)
        heads, n, size = k.shape
        states = len(adjoint_SBD)
        self.d_query, self.d_key = torch.zeros(2, states, *k.shape, device=k.device)
        # Side by side over the states, so that one product serves all: the adjoint [S E], and behind it its base [S].
        self.d_value = torch.zeros(heads, n, states * size, device=k.device)
        self.sums = torch.zeros(heads, self.new_keys.shape[1], states * (size + 1), device=k.device)

    def answer(self, first: int, last: int, moved: Tensor, removed: Tensor | None, deeper: bool) -> None:
        """Add what the queries first..last-1 answer to every moved and leaving row; deeper: and their derivatives.

        What needs no look at single weights is left for `moved`, as sums of the adjoint over queries: products do most of it.
        """
        q, log_sum = self.q[:, first:last], self.kept.log_sum[:, first:last, None]
        adjoint = self.adjoint[:, :, first:last]
        states, _, queries, size = adjoint.shape
        base = (adjoint * self.out[:, first:last]).sum(-1)  # (S, H, B)
        old = torch.baddbmm(-log_sum, q, self.keys.transpose(1, 2)).exp_()  # (H, B, N): attention weights
        new = torch.baddbmm(-log_sum, q, self.new_keys.transpose(1, 2)).clamp_(max=MOST_LOGIT).exp_()  # (H, B, M)
        one_over = new + 1.0  # the softmax's denominator with the new key, in units of the old one
        for rows, replaced in self.pieces:
            one_over[..., rows] -= old[..., replaced]
        one_over.reciprocal_()
        row = ((self.slot >= first) & (self.slot < last)).nonzero()[:, 0]
        one_over[:, self.slot[row] - first, row] = 0.0  # a row is no answer to itself
        new.mul_(one_over)
        wide = torch.cat([adjoint.permute(1, 2, 0, 3).flatten(2), base.permute(1, 2, 0)], 2)  # (H, B, S E + S)
        self.sums.baddbmm_(new.transpose(1, 2), wide)
        if deeper:
            self.d_value.baddbmm_(old.transpose(1, 2), wide[..., : states * size])
        flat = adjoint.transpose(0, 1).flatten(1, 2)  # (H, S B, E)
        changes = torch.baddbmm(
            base.transpose(0, 1).flatten(1)[..., None], flat, self.values.transpose(1, 2), beta=-1.0
        )
        changes = changes.unflatten(1, (states, queries)).mul_(old[:, None])  # (H, S, B, N)
        if deeper:
            self.d_query[:, :, first:last] = (
                (changes.flatten(1, 2) @ self.keys).unflatten(1, (states, queries)).transpose(0, 1)
            )
        for s, change in enumerate(changes.unbind(1)):
            for rows, replaced in self.pieces:
                moved[s, rows] -= (change[..., replaced] * one_over[..., rows]).sum((0, 1))
            if deeper:
                self.d_key[s].baddbmm_(change.transpose(1, 2), q)
            if removed is not None:
                own = torch.arange(first, last, device=q.device)
                change[:, own - first, own] = 0.0
                removed[s] -= change.div_((1.0 - old).clamp_(min=LEAST_LEFT)).sum((0, 1))

    def moved(self) -> Tensor:
        """The rest of the answers to moved rows, [S, M], after the last block."""
        size = self.new_values.shape[-1]
        states = len(self.adjoint)
        answers = self.sums[..., : states * size].unflatten(2, (states, size))  # (H, M, S, E)
        return (answers * self.new_values[:, :, None]).sum((0, 3)).T - self.sums[..., states * size :].sum(0).T

    def gradient(self) -> Tensor:
        """The derivative [S, N, D] by the layer's input rows, as far as it goes through attention."""
        d_value = self.d_value.unflatten(2, (len(self.d_key), -1)).permute(2, 0, 1, 3)  # (S, H, N, E)
        parts = (self.d_query * self.scale, self.d_key, d_value)
        through = torch.cat([x.transpose(1, 2).flatten(2) for x in parts], 2)  # (S, N, 3D)
        return torch.stack([_derivative(self.projected, (self.rows,), g)[0] for g in through])


def _derivative(out: Tensor, by: tuple[Tensor, ...], along: Tensor) -> tuple[Tensor, ...]:
    """The derivative of (out * along).sum(), whose graph stays. As `grad_outputs`, `along` would make torch load sympy."""
    return torch.autograd.grad((out * along).sum(), by, retain_graph=True)


def _back_to_attention(encoder: Encoder, layer: int, kept: Kept, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """From the derivative [S, B, D] by a layer's output to those by its attention output and by its input, both [S, B, D]."""
    adjoint, passed = torch.empty_like(gradient), torch.empty_like(gradient)
    for a, b in _spans(gradient.shape[1], BLOCK_TOKENS):
        with torch.inference_mode(False), torch.enable_grad():
            rows, attended = (x[a:b].clone().requires_grad_() for x in (kept.rows, kept.attended))
            out = encoder.model.finish(layer, rows.clone(), attended)
            for s in range(len(gradient)):
                adjoint[s, a:b], passed[s, a:b] = _derivative(out, (attended, rows), gradient[s, a:b])
    return adjoint, passed


@torch.no_grad()
def first_row_changes(encoder: Encoder, cell: Forward) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """How the last layer's attention output at the first row changes by one key alone: of moved rows [M, D], of leaving rows
    [N, D]; and the function from such an output [*, D] to the first row behind the layer."""
    layer, kept, n = len(cell.kept) - 1, cell.kept[-1], cell.length
    q, k, v = _heads(encoder.model.qkv(layer, kept.rows), encoder.heads)
    q = q[:, :1] * q.shape[-1] ** -0.5
    weight = (
        (q @ k.transpose(1, 2) - kept.log_sum[:, :, None]).clamp_(max=MOST_LOGIT).exp_().transpose(1, 2)
    )  # (H, T, 1)
    change = weight * (v - kept.attended.unflatten(1, (encoder.heads, -1)).transpose(0, 1))  # (H, T, E)
    old_weight, old_change = (_padded(x[:, :n]) for x in (weight, change))
    moved = (change[:, n:] - old_change[:, cell.slot]) / (1.0 - old_weight[:, cell.slot] + weight[:, n:])
    removed = -change[:, :n] / (1.0 - weight[:, :n]).clamp_(min=LEAST_LEFT)

    def behind(attended: Tensor) -> Tensor:
        rows = kept.rows[:1].expand(len(attended), -1)
        return encoder.model.finish(layer, rows.clone(), kept.attended + attended)

    return (*(x.transpose(0, 1).flatten(1) for x in (moved, removed)), behind)


def _attend(encoder: Encoder, layer: int, rows: Tensor, slots: Tensor, n: int, asked: int) -> tuple[Tensor, Tensor]:
    """Attention of the first `asked` rows over the cell's keys, each finding itself at its slot: [*, D] and log sums [H, *]."""
    q, k, v = _heads(encoder.model.qkv(layer, rows), encoder.heads)
    q = q[:, :asked] * q.shape[-1] ** -0.5
    keys, values = k[:, :n], v[:, :n]
    if lacks := bool((slots == n).any()):  # a row of zeros more costs time, as no row begins on a boundary then
        keys, values = _padded(keys), _padded(values)
    out, log_sum = torch.empty_like(q), torch.empty(q.shape[:2], device=q.device)
    for a, b in _spans(asked, _block(encoder, n + 1)):
        logits = q[:, a:b] @ keys.transpose(1, 2)  # (H, B, N or N + 1)
        if lacks:
            logits[..., n] = -torch.inf
        at = slots[None, a:b, None].expand(len(logits), -1, -1)
        logits.scatter_(2, at, (q[:, a:b] * k[:, a:b]).sum(-1, keepdim=True))
        top = logits.amax(-1, keepdim=True)
        share = logits.sub_(top).exp_()
        total = share.sum(-1, keepdim=True)
        attended = share @ values
        attended += share.gather(2, at) * (v[:, a:b] - values[:, slots[a:b]])
        out[:, a:b] = attended / total
        log_sum[:, a:b] = (top + total.log()).squeeze(-1)
    return out.transpose(0, 1).flatten(1), log_sum


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (T, 3D) by head: (H, T, E) each."""
    q, k, v = qkv.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3).contiguous()
    return q, k, v


def _padded(rows_HNE: Tensor) -> Tensor:
    """One row of zeros more, for genes that the cell lacks."""
    return F.pad(rows_HNE, (0, 0, 0, 1))


def _pieces(slot: Tensor, length: int) -> list[Piece]:
    """The moved rows with the rows they replace, as runs of neighbours where these are few: a slice costs nothing."""
    slots = slot.cpu().numpy()
    here = np.flatnonzero(slots < length)
    runs = np.split(here, np.flatnonzero((np.diff(here) != 1) | (np.diff(slots[here]) != 1)) + 1) if len(here) else []
    if len(runs) > MOST_RUNS:
        rows = torch.from_numpy(here).to(slot.device)
        return [(rows, slot[rows])]
    return [(slice(r[0], r[-1] + 1), slice(slots[r[0]], slots[r[-1]] + 1)) for r in runs]


def _block(encoder: Encoder, keys: int) -> int:
    """Queries whose weights over `keys` keys are in memory together."""
    return max(1, BLOCK_ELEMENTS[encoder.device.type] // (encoder.heads * keys))


def _spans(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((a, min(a + size, count)) for a in range(0, count, size))
