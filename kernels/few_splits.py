"""First-layer self-attention of a few single edits of one cell, and of the cell itself, from the same queries, keys and values.

The lists are those of `first_layer`: of every split d the tokens before it stand as in `below`, those behind it as in `above`.
A tree over the splits pays where there are hundreds. A dozen of them cut the keys into a dozen runs, so that every query needs
few sums: over the keys of `below` up to each split, and over the keys of `above` behind it. With w = exp(q k - peak), the peak
of a query taken over all its keys,

    output of list p = (sum_{j < d_p} w_j v_j + sum_{j > d_p} w_j v_j + w_x v_x) / (the same sums of w)

and both sums grow by one run of keys from a split to the next: nothing is ever subtracted. Every query meets every key once,
which is 1.5 times the attention of the cell for each of the two variants; the cell itself is one more split of one of them.
Where a token that leads by far leaves a list, the weights of the others may vanish beside the peak: `few_splits` then says so,
and who called it takes another way. It is for a CPU, in torch: a GPU runs the few lists of many cells together instead.

Legend: N tokens of the cell, P splits, n rows of a perturbed list, H heads, E head dims, D = H E, R queries of a block, K keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rankshift.kernels.first_layer import extra_rows

BLOCK_ELEMENTS = 1 << 20  # weights of a block of queries over both kinds of keys
LEAST_WEIGHT = 1e-20  # of all keys of a list beside the peak: below it float32 drops keys that count


@dataclass(frozen=True, slots=True)
class _Side:
    """Keys and values of one of the two variants, by head: [H, N, E]."""

    key: Tensor
    value: Tensor


def few_splits(
    below: Tensor, above: Tensor, extra: Tensor | None, split: list[int], front: int, heads: int
) -> tuple[Tensor, Tensor] | None:
    """Attention output [P, n, D] of the lists, and [N, D] of the cell; None where float32 cannot hold the weights together.

    Arguments as for `first_layer`, but that `split` is strictly ascending and below N. The cell itself is all `below` where
    nothing moves (deletions), and all `above` where a token moves to `front`; all of that variant is read.
    """
    return _Few(below, above, extra, split, front, heads).run()


class _Few:
    def __init__(
        self, below: Tensor, above: Tensor, extra: Tensor | None, split: list[int], front: int, heads: int
    ) -> None:
        exact = torch.float64 if below.dtype == torch.float64 else torch.float32
        self.tokens, dims = below.shape[0], below.shape[1] // 3
        self.given, self.split, self.front, self.heads = (below, above, extra), split, front, heads
        self.moves = int(extra is not None)
        self.n = self.tokens - 1 + self.moves
        # The rows of a list before edge[p] are queries of `below`, those from there on of `above`.
        self.edge = [d + self.moves for d in split]
        scale = (dims // heads) ** -0.5
        query_b, key_b, value_b = self._by_head(below.to(exact))
        query_a, key_a, value_a = self._by_head(above.to(exact))
        self.below, self.above = _Side(key_b, value_b), _Side(key_a, value_a)
        if self.moves:  # row `front` is an idle query, overwritten at the end
            query_b = torch.cat([query_b[:, :front], query_b[:, :1], query_b[:, front:-1]], 1)
        else:
            query_a = query_a[:, 1:]
        self.query_b, self.query_a = ((q * scale).transpose(1, 2).contiguous() for q in (query_b, query_a))  # (H, E, R)
        self.own = None if extra is None else self._by_head(extra.to(exact))[1:]  # keys and values (H, P, E)
        self.out = below.new_empty(len(split), self.n, dims, dtype=exact)
        self.cell = below.new_empty(self.tokens, dims, dtype=exact)
        self.least = float("inf")

    def _by_head(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rows.unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        return q, k, v

    def run(self) -> tuple[Tensor, Tensor] | None:
        below, above, extra = self.given
        block = max(1, BLOCK_ELEMENTS // (self.heads * self.tokens * 3 // 2))
        # The cell is one more list: of deletions all rows as in `below`, of moves all as in `above`.
        stop, start = (max(self.edge), 0) if self.moves else (self.tokens, min(self.edge))
        for first in range(0, stop, block):
            self._below_queries(first, min(first + block, stop))
        for first in range(start, self.n, block):
            self._above_queries(first, min(first + block, self.n))
        if self.least < LEAST_WEIGHT:
            return None
        if extra is not None:
            at = torch.tensor(self.split, device=below.device)
            self.out[:, self.front] = extra_rows(below, above, extra, at, self.heads)
        return self.out.to(below.dtype), self.cell.to(below.dtype)

    def _below_queries(self, a: int, b: int) -> None:
        """Rows a..b-1 as they stand in `below`: in every list whose edge lies behind a, and of deletions in the cell."""
        lists = [p for p, edge in enumerate(self.edge) if edge > a]
        stop = [self.split[p] for p in lists]
        ends = stop if self.moves else [*stop, self.tokens]  # the cell is the list of the split behind all tokens
        rows = [slice(a, min(b, self.edge[p])) for p in lists]
        self._rows(self.query_b[:, :, a:b], a, lists, rows, ends, [d + 1 for d in stop])

    def _above_queries(self, a: int, b: int) -> None:
        """Rows a..b-1 as they stand in `above`: in every list whose edge lies before b, and of moves in the cell."""
        lists = [p for p, edge in enumerate(self.edge) if edge < b]
        stop = [self.split[p] for p in lists]
        begins = [d + 1 for d in stop]
        rows = [slice(max(a, self.edge[p]), b) for p in lists]
        self._rows(self.query_a[:, :, a:b], a, lists, rows, stop, [0, *begins] if self.moves else begins)

    def _rows(
        self,
        query: Tensor,
        a: int,
        lists: list[int],
        rows: list[slice],
        ends: list[int],
        begins: list[int],
    ) -> None:
        """Add up the keys of `below` before each of `ends`, those of `above` from each of `begins` on, and write the rows.

        One more end, or one more begin in front, than there are lists is that of the cell.
        """
        last, first = max(ends, default=0), min(begins, default=self.tokens)
        weights = [torch.bmm(self.below.key[:, :last], query), torch.bmm(self.above.key[:, first:], query)]  # (H, K, R)
        if self.own is not None and lists:
            weights.append(torch.bmm(self.own[0][:, lists[0] : lists[-1] + 1], query))  # (H, P, R)
        peaks = [w.amax(1, keepdim=True) for w in weights if w.shape[1]]
        peak = peaks[0]
        for other in peaks[1:]:
            peak = torch.maximum(peak, other)
        for w in weights:
            w.sub_(peak).exp_()
        w_b, w_a, *own = weights
        before, behind = self._sums(w_b, [0, *ends]), self._sums(w_a, [self.tokens, *begins[::-1]], first)
        cell = (before if len(ends) > len(lists) else behind)[len(lists) :]  # of the cell, in its one variant
        weight = before[: len(lists)] + behind[: len(lists)].flip(0)
        weight = weight + own[0].transpose(0, 1) if own else weight
        self.least = min(self.least, *(float(x.min()) for x in (weight, cell) if x.numel()))
        share_PRH1 = weight.reciprocal_().transpose(1, 2).contiguous()[..., None]
        total = query.new_zeros(query.shape[2], self.out.shape[2])
        by_head = total.unflatten(1, (self.heads, -1))  # (R, H, E)
        for i, end in enumerate(ends):
            low = rows[i].start - a if i < len(lists) else 0  # no list from this one on has a row before
            self._add(by_head[low:], w_b[..., low:], self.below.value, ends[i - 1] if i else 0, end)
            if i < len(lists):
                here = slice(rows[i].start - a, rows[i].stop - a)
                torch.mul(by_head[here], share_PRH1[i, here], out=self._target(lists[i], rows[i]))
            else:
                self._cell_rows(by_head, cell[0], a)
        total.zero_()
        shift = len(begins) - len(lists)
        for i in range(len(begins) - 1, -1, -1):
            stop = begins[i + 1] if i + 1 < len(begins) else self.tokens
            p = i - shift
            high = rows[p].stop - a if p >= 0 else len(by_head)  # no list up to this one has a row behind
            self._add(by_head[:high], w_a[..., :high], self.above.value, begins[i], stop, first)
            if p >= 0:
                here = slice(rows[p].start - a, rows[p].stop - a)
                target = self._target(lists[p], rows[p])
                target.addcmul_(by_head[here], share_PRH1[p, here])
                if own and self.own is not None:
                    mine = own[0][:, p, here].T[..., None] * share_PRH1[p, here]  # (R, H, 1)
                    target.addcmul_(mine, self.own[1][:, lists[p]])
            else:
                self._cell_rows(by_head, cell[0], a)

    def _sums(self, w: Tensor, edges: list[int], offset: int = 0) -> Tensor:
        """Sums of weights [H, K, R] from the first edge to each of the others, (edges - 1, H, R)."""
        if len(edges) < 2:
            return w.new_zeros(0, w.shape[0], w.shape[2])
        parts = [w[:, min(x, y) - offset : max(x, y) - offset].sum(1) for x, y in pairwise(edges)]
        return torch.stack(parts).cumsum_(0)

    def _add(self, by_head: Tensor, w: Tensor, value: Tensor, first: int, last: int, offset: int = 0) -> None:
        """Add the values of the keys first..last-1 to the sums (R, H, E)."""
        if last > first:
            target = by_head.transpose(0, 1)
            torch.baddbmm(
                target, w[:, first - offset : last - offset].transpose(1, 2), value[:, first:last], out=target
            )

    def _target(self, p: int, rows: slice) -> Tensor:
        return self.out[p, rows].unflatten(1, (self.heads, -1))

    def _cell_rows(self, by_head: Tensor, weight: Tensor, a: int) -> None:
        """The rows of the cell, which are those of the variant in which nothing has moved."""
        target = self.cell[a : a + len(by_head)].unflatten(1, (self.heads, -1))
        torch.mul(by_head, weight.reciprocal().T[:, :, None], out=target)
