"""First-layer self-attention shared between all single edits of one cell. It takes Q, K and V, and projects nothing.

In the first layer a token's query, key and value depend on the token and its position alone, and in a screen of single
edits a token stands at one of two positions: the one it has while it is before the edit (`below`) or after it
(`above`). For a split d (the index of the token the edit takes out of its place), the rows of the list are

    below[0], ..., below[d-1], above[d+1], ..., above[N-1]        and, when given, extra[p] put in at row `front`

    deletion           below: token i at position i           above: at i-1      no extra
    move to front f    below: token i at i + (i >= f)         above: at i        extra: token d at f
    insertion at f     below: token i at i + (i >= f)         d = N, so none is above        extra: the new token at f

and the output is softmax(q k^T / sqrt(head dim)) v over those rows. Attention over disjoint sets of keys composes: with
running maximum m, denominator l and numerator a of two sets,

    m = max(m1, m2);   l = l1 exp(m1 - m) + l2 exp(m2 - m);   a = a1 exp(m1 - m) + a2 exp(m2 - m);   output = a / l

so keys that many splits have in common are attended to once for all of them. Nothing is ever subtracted, and a maximum
is only taken over keys that are present: a removed token that led the softmax by far leaves the others exact.

Legend: N base tokens, P splits, n rows of a perturbed list, H heads, E head dims, D = H E, R query rows, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rankshift.kernels.perturbed_lists import sent
from rankshift.kernels.rank_shift import FLOATS, runs_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the reference below is what runs
    triton = None

LEAF_SPLITS = 8  # splits whose last keys are handled together, and
LEAF_WINDOW = 8  # the most tokens they may span: each split attends to this many keys for itself
KEY_BLOCK = 256  # keys attended to at once: logits of a block stay in the last-level cache
FEWEST_ROWS = 32  # shorter lists cost more in launches than their attention and projections take
FEWEST_SPLITS = 6  # the tree attends to each key about 2 + log2(P) times, plain attention P times
LOG2_E = 1.4426950408889634
SPLIT_BLOCK = 32  # splits of one program of the kernel: balances its common keys with its own, at 1000 to 4000 tokens


def sharing_pays(tokens: int, split: Sequence[int] | Tensor, device_type: str = "cpu") -> bool:
    """Whether `first_layer` shares, or computes plain attention for every list: a rule, so that results repeat.

    On the CPU each base key is attended to at most 2 + log2(P) times instead of P times, wherever the splits lie: at
    least `FEWEST_SPLITS` splits pay, counting the projections a caller saves. Shorter lists are all overhead.

    On a device the splits of a block of `SPLIT_BLOCK` share all keys but those between its first and its last split,
    which each of them attends to by itself. It pays when that comes to half of plain attention or less.

    >>> sharing_pays(2048, range(0, 2048, 2)), sharing_pays(2048, [5, 900]), sharing_pays(16, range(16))
    (True, False, False)
    >>> sharing_pays(2048, range(0, 2048, 100), "cpu"), sharing_pays(2048, range(0, 2048, 100), "cuda")
    (True, False)
    """
    if tokens < FEWEST_ROWS or len(split) < FEWEST_SPLITS:
        return False
    if device_type == "cpu":
        return True
    ordered = [int(d) for d in split]
    work = 0
    for p in range(0, len(ordered), SPLIT_BLOCK):
        block = ordered[p : p + SPLIT_BLOCK]
        window = block[-1] - block[0] + 1
        work += tokens - window + len(block) * window
    return 2 * work <= tokens * len(ordered)


# ---------------------------------------------------------------- torch reference


@dataclass(frozen=True, slots=True)
class _Partial:
    """Attention of the roll's rows from `first` on over the keys seen so far."""

    first: int
    peak: Tensor  # [H, R], maximum of the logits
    weight: Tensor  # [H, R], denominator
    value: Tensor  # [R, D], numerator

    def rows(self, first: int, last: int) -> _Partial:
        here = slice(first - self.first, last - self.first)
        return _Partial(first, self.peak[:, here], self.weight[:, here], self.value[here])


class _SplitTree:
    """Halves the sorted splits down to leaves; a half adds the keys that its splits share and the other half's do not.

    The queries lie on a roll of 2n rows: the above variants by output row, then the below variants by output row. The
    rows that splits lo..hi may need are the stretch row(lo) .. n + row(hi), and what one split d needs, the n rows from
    row(d) on, is its output rotated by row(d). Row `front` of an extra token is an idle query, overwritten at the end.
    """

    def __init__(
        self, below: Tensor, above: Tensor, extra: Tensor | None, split: list[int], front: int, heads: int, out: Tensor
    ) -> None:
        tokens, dims = below.shape[0], below.shape[1] // 3
        self.split, self.heads, self.out = split, heads, out
        self.front = tokens + 1 if extra is None else front
        self.n = out.shape[1]
        exact = torch.float64 if below.dtype == torch.float64 else torch.float32
        below, above = below.to(exact), above.to(exact)
        self.below_key, self.below_value = (self._by_head(below[:, c * dims : (c + 1) * dims]) for c in (1, 2))
        self.above_key, self.above_value = (self._by_head(above[:, c * dims : (c + 1) * dims]) for c in (1, 2))
        self.extra_key = self.extra_value = None
        if extra is not None:
            self.extra_key, self.extra_value = (
                self._by_head(extra[:, c * dims : (c + 1) * dims].to(exact)) for c in (1, 2)
            )
        roll = below.new_zeros(2 * self.n, dims)
        rank = torch.arange(tokens, device=below.device)
        row = rank + (rank >= self.front)
        roll[row[: tokens - 1]] = above[1:, :dims]  # token i > d has rank i - 1
        kept = row < self.n
        roll[self.n + row[kept]] = below[kept, :dims]
        self.query = roll.mul_((dims // heads) ** -0.5).view(2 * self.n, heads, -1).permute(1, 2, 0)  # [H, E, 2n]

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (self.heads, -1)).transpose(0, 1)

    def _row(self, rank: int) -> int:
        return rank + (rank >= self.front)

    def run(self) -> None:
        """Fills the output, but for row `front` of an extra token."""
        lo, hi = self.split[0], self.split[-1]
        first, last = self._row(lo), self.n + self._row(hi)
        rows = last - first
        none = _Partial(
            first,
            self.query.new_full((self.heads, rows), -torch.inf),
            self.query.new_zeros(self.heads, rows),
            self.query.new_zeros(rows, self.out.shape[2]),
        )
        common = self._attend(none, self.below_key[:, :lo], self.below_value[:, :lo])
        common = self._attend(common, self.above_key[:, hi + 1 :], self.above_value[:, hi + 1 :])
        self._descend(0, len(self.split), common)

    def _attend(self, seen: _Partial, key: Tensor, value: Tensor) -> _Partial:
        """`seen` with more keys [H, K, E]; the numerator is a new tensor, scaled and accumulated into."""
        first, last = seen.first, seen.first + seen.value.shape[0]
        peak, weight, total = seen.peak, seen.weight, seen.value
        for block in range(0, key.shape[1], KEY_BLOCK):
            logit = torch.bmm(key[:, block : block + KEY_BLOCK], self.query[:, :, first:last])  # [H, K, R]
            new_peak = torch.maximum(peak, logit.amax(1))
            logit.sub_(new_peak[:, None]).exp_()
            fade = torch.sub(peak, new_peak).exp_()
            weight = torch.addcmul(logit.sum(1), weight, fade)
            total = (self._heads_last(total) * fade.T.contiguous()[:, :, None]).view(total.shape)
            by_head = self._by_head(total)
            torch.baddbmm(by_head, logit.transpose(1, 2), value[:, block : block + KEY_BLOCK], out=by_head)
            peak = new_peak
        return _Partial(first, peak, weight, total)

    def _heads_last(self, rows: Tensor) -> Tensor:
        return rows.view(rows.shape[0], self.heads, -1)

    def _descend(self, p: int, stop: int, seen: _Partial) -> None:
        lo, hi = self.split[p], self.split[stop - 1]
        if stop - p == 1 or (stop - p <= LEAF_SPLITS and hi - lo < LEAF_WINDOW):
            self._finish(p, stop, seen)
            return
        middle = (p + stop) // 2
        left, right = self.split[middle - 1], self.split[middle]
        rows, after = seen.rows(self._row(lo), self.n + self._row(left)), slice(left + 1, hi + 1)
        self._descend(p, middle, self._attend(rows, self.above_key[:, after], self.above_value[:, after]))
        rows, before = seen.rows(self._row(right), self.n + self._row(hi)), slice(lo, right)
        self._descend(middle, stop, self._attend(rows, self.below_key[:, before], self.below_value[:, before]))

    def _own_keys(self, p: int, stop: int, queries: Tensor) -> tuple[Tensor, Tensor] | None:
        """Logits [P, H, K, R] and values [P, H, K, E] of the keys a few splits have left, each for itself.

        Of the window lo..hi split d has the keys above d and those below it: laid out as above[lo+1..hi],
        below[lo..hi-1] they are the hi - lo consecutive ones from d - lo on. The extra token's own key comes last.
        """
        split, lo, hi = self.split[p:stop], self.split[p], self.split[stop - 1]
        logits, values = [], []
        if hi > lo:
            key = torch.cat([self.above_key[:, lo + 1 : hi + 1], self.below_key[:, lo:hi]], 1)
            value = torch.cat([self.above_value[:, lo + 1 : hi + 1], self.below_value[:, lo:hi]], 1)
            logit = torch.bmm(key, queries)
            logits.append(torch.stack([logit[:, d - lo : d - lo + hi - lo] for d in split]))
            values.append(torch.stack([value[:, d - lo : d - lo + hi - lo] for d in split]))
        if self.extra_key is not None and self.extra_value is not None:
            logits.append(torch.bmm(self.extra_key[:, p:stop], queries).transpose(0, 1)[:, :, None])
            values.append(self.extra_value[:, p:stop].transpose(0, 1)[:, :, None])
        return (torch.cat(logits, 2), torch.cat(values, 2)) if logits else None

    def _finish(self, p: int, stop: int, seen: _Partial) -> None:
        """Adds the last keys of a few splits and writes their output: out = share * numerator + weights @ values."""
        first = seen.first
        share_PHR = seen.weight.reciprocal()[None].expand(stop - p, -1, -1)
        weight_PHKR = value_PHKE = None
        own = self._own_keys(p, stop, self.query[:, :, first : first + seen.value.shape[0]])
        if own is not None:
            weight_PHKR, value_PHKE = own
            peak = torch.maximum(seen.peak, weight_PHKR.amax(2))
            weight_PHKR.sub_(peak[:, :, None]).exp_()
            share_PHR = torch.sub(seen.peak, peak).exp_()
            whole = torch.addcmul(weight_PHKR.sum(2), share_PHR, seen.weight).reciprocal_()
            weight_PHKR.mul_(whole[:, :, None])
            share_PHR.mul_(whole)
        share_PRH = share_PHR.transpose(1, 2).contiguous()  # so that the products below run over whole rows
        for i, d in enumerate(self.split[p:stop]):
            turn = self._row(d)
            done = self.out[p + i] if self.out.dtype == seen.value.dtype else seen.value.new_empty(self.out.shape[1:])
            for start, end in ((turn, self.n), (self.n, self.n + turn)):
                if start == end:
                    continue
                here = slice(start - first, end - first)
                target = self._heads_last(done[start % self.n : start % self.n + end - start])
                torch.mul(self._heads_last(seen.value[here]), share_PRH[i, here, :, None], out=target)
                if weight_PHKR is not None and value_PHKE is not None:
                    by_head = target.transpose(0, 1)
                    torch.baddbmm(by_head, weight_PHKR[i, :, :, here].transpose(1, 2), value_PHKE[i], out=by_head)
            if done.dtype != self.out.dtype:
                self.out[p + i] = done


def extra_rows(below: Tensor, above: Tensor, extra: Tensor, split: Tensor, heads: int) -> Tensor:
    """What the extra token of every split attends to, [P, D]: below keys before its split, above keys after it."""
    tokens, dims = below.shape[0], below.shape[1] // 3
    exact = torch.float64 if below.dtype == torch.float64 else torch.float32
    result = torch.empty(split.numel(), dims, dtype=exact, device=below.device)
    _, below_key, below_value = below.to(exact).view(tokens, 3, heads, -1).permute(1, 2, 0, 3)  # [H, N, E]
    _, above_key, above_value = above.to(exact).view(tokens, 3, heads, -1).permute(1, 2, 0, 3)
    place = torch.arange(tokens, device=below.device)
    block = max(1, (1 << 20) // max(1, heads * tokens))
    for p in range(0, split.numel(), block):
        query, key, value = (
            extra[p : p + block].to(exact).view(-1, 3, heads, dims // heads).permute(1, 2, 0, 3)
        )  # [H, P, E]
        query = query * (dims // heads) ** -0.5
        d = split[p : p + block, None]
        logit = torch.where(place < d, torch.bmm(query, below_key.transpose(1, 2)), -torch.inf)
        if bool((d < tokens).any()):
            logit = torch.where(place > d, torch.bmm(query, above_key.transpose(1, 2)), logit)
        share = torch.cat([logit, (query * key).sum(-1, keepdim=True)], 2).softmax(-1)
        total = share[:, :, -1:] * value
        total += torch.bmm(share[:, :, :-1] * (place < d), below_value)
        if bool((d < tokens).any()):
            total += torch.bmm(share[:, :, :-1] * (place > d), above_value)
        result[p : p + block] = total.transpose(0, 1).reshape(-1, dims)
    return result


def first_layer_reference(
    below: Tensor, above: Tensor, extra: Tensor | None, split: Tensor, front: int, heads: int, out: Tensor
) -> Tensor:
    """The shared attention in torch: one tree over the splits, and the extra tokens' own rows."""
    _SplitTree(below, above, extra, split.tolist(), front, heads, out).run()
    if extra is not None:
        out[:, front] = extra_rows(below, above, extra, split, heads).to(out.dtype)
    return out


def plain_first_layer(
    below: Tensor, above: Tensor, extra: Tensor | None, split: Tensor, front: int, heads: int, out: Tensor
) -> Tensor:
    """The same attention without sharing: the rows of every list gathered, then torch's own attention."""
    tokens, dims = below.shape[0], below.shape[1] // 3
    rows = out.shape[1]
    table = torch.cat([below, above] if extra is None else [below, above, extra])
    row = torch.arange(rows, device=below.device)
    rank = row if extra is None else row - (row > front).to(row.dtype)
    block = max(1, (1 << 22) // max(1, rows * dims))
    for p in range(0, split.numel(), block):
        d = split[p : p + block, None]
        index = torch.where(rank < d, rank, tokens + rank + 1)
        if extra is not None:
            index[:, front] = 2 * tokens + torch.arange(p, p + d.shape[0], device=below.device)
        query, key, value = table[index].unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # [P, H, n, E]
        attended = functional.scaled_dot_product_attention(query, key, value)
        out[p : p + block] = attended.transpose(1, 2).flatten(2)
    return out


# ---------------------------------------------------------------- Triton kernels

if triton is not None:

    @triton.jit
    def _merge(peak, weight, value, logit, values):  # type: ignore[no-untyped-def]
        """Adds keys to a running (maximum [R], denominator [R], numerator [R, E]): logits [R, K] in base 2, values [K, E]."""
        new_peak = tl.maximum(peak, tl.max(logit, 1))
        floor = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # no key yet: weights of 0, not NaN
        w = tl.exp2(logit - floor[:, None])
        fade = tl.exp2(peak - floor)
        value = tl.dot(w.to(values.dtype), values, value * fade[:, None], input_precision="ieee")
        return new_peak, weight * fade + tl.sum(w, 1), value

    @triton.jit
    def _attend(  # type: ignore[no-untyped-def]
        peak, weight, value, query, table, row, present, allowed, scale, D: tl.constexpr, E: tl.constexpr
    ):  # fmt: skip
        """_merge of the keys in `row` [K] of the q|k|v table (at this head) where `present`, for each query where `allowed`."""
        e = tl.arange(0, E)
        at = row * (3 * D)
        key = tl.load(table + D + at[None, :] + e[:, None], mask=present[None, :], other=0.0)  # a dot takes their dtype
        logit = tl.where(allowed, tl.dot(query, key, input_precision="ieee") * scale, float("-inf"))
        values = tl.load(table + 2 * D + at[:, None] + e[None, :], mask=present[:, None], other=0.0)
        return _merge(peak, weight, value, logit, values)

    # What follows cells and batches is not specialised: 8 kinds of it met a screen of 500 cells, each compiled in mid-run.
    @triton.jit(do_not_specialize=["N", "P", "n_out", "front"])
    def shared_rows_kernel(  # type: ignore[no-untyped-def]
        table, extra, split, out,
        N, P, n_out, front, scale,
        EXTRA: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
        BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, WINDOW_K: tl.constexpr,
    ):  # fmt: skip
        """Base queries of one variant (0 below, 1 above) and one head, for a block of splits d0..d1.

        Keys before d0 (below) and after d1 (above) are common to the block; those between are attended to split by split.
        `table` holds the below rows and, from row N on, the above rows. `scale` is log2(e) / sqrt(E), so that weights are
        powers of two.
        """
        D: tl.constexpr = H * E
        first = tl.program_id(1) * BLOCK_P
        last = tl.minimum(first + BLOCK_P, P)
        variant = tl.program_id(2) % 2
        head = tl.program_id(2) // 2
        d0 = tl.load(split + first)
        d1 = tl.load(split + last - 1)
        q0 = tl.program_id(0) * BLOCK_Q
        if ((variant == 0) & (q0 < d1)) | ((variant == 1) & (tl.minimum(q0 + BLOCK_Q, N) - 1 > d0)):
            e = tl.arange(0, E)
            i = q0 + tl.arange(0, BLOCK_Q)
            table += head * E
            own = (variant * N + i[:, None]) * (3 * D) + e[None, :]
            query = tl.load(table + own, mask=(i < N)[:, None], other=0.0)

            peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
            weight = tl.zeros([BLOCK_Q], tl.float32)
            value = tl.zeros([BLOCK_Q, E], tl.float32)
            for k in range(0, d0, BLOCK_K):
                j = k + tl.arange(0, BLOCK_K)
                common = j < d0
                peak, weight, value = _attend(
                    peak, weight, value, query, table, j, common, common[None, :], scale, D, E
                )
            for k in range(d1 + 1, N, BLOCK_K):
                j = k + tl.arange(0, BLOCK_K)
                common = j < N
                peak, weight, value = _attend(
                    peak, weight, value, query, table, N + j, common, common[None, :], scale, D, E
                )

            for p in range(first, last):
                d = tl.load(split + p)
                wide_p = tl.cast(p, tl.int64)
                peak_p = peak
                weight_p = weight
                value_p = value
                for k in range(d0, tl.minimum(d1 + 1, N), WINDOW_K):
                    j = k + tl.arange(0, WINDOW_K)
                    present = (j <= d1) & (j < N) & (j != d)
                    row = tl.where(j < d, j, N + j)
                    peak_p, weight_p, value_p = _attend(
                        peak_p, weight_p, value_p, query, table, row, present, present[None, :], scale, D, E
                    )
                if EXTRA:
                    mine = extra + wide_p * (3 * D) + head * E + e
                    key = tl.load(mine + D).to(tl.float32)
                    logit = tl.sum(query.to(tl.float32) * key[None, :], 1) * scale
                    new_peak = tl.maximum(peak_p, logit)
                    w = tl.exp2(logit - new_peak)
                    fade = tl.exp2(peak_p - new_peak)
                    weight_p = weight_p * fade + w
                    value_p = value_p * fade[:, None] + w[:, None] * tl.load(mine + 2 * D).to(tl.float32)[None, :]
                stays = tl.where(variant == 0, i < d, i > d) & (i < N)
                to = i - variant
                if EXTRA:
                    to += (to >= front).to(tl.int32)
                y = value_p / tl.where(stays, weight_p, 1.0)[:, None]
                at = (wide_p * n_out + to) * D + head * E
                tl.store(out + at[:, None] + e[None, :], y.to(out.dtype.element_ty), mask=stays[:, None])

    @triton.jit(do_not_specialize=["N", "P", "n_out", "front"])
    def extra_rows_kernel(  # type: ignore[no-untyped-def]
        table, extra, split, out,
        N, P, n_out, front, scale,
        H: tl.constexpr, E: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
    ):  # fmt: skip
        """The extra tokens' own rows of a block of splits and one head: below keys before d, above keys after it, itself."""
        D: tl.constexpr = H * E
        first = tl.program_id(0) * BLOCK_P
        head = tl.program_id(1)
        e = tl.arange(0, E)
        p = first + tl.arange(0, BLOCK_P)
        is_list = (p < P)[:, None]
        d = tl.load(split + p, mask=p < P, other=0)
        d0 = tl.load(split + first)
        d1 = tl.load(split + tl.minimum(first + BLOCK_P, P) - 1)
        table += head * E
        own = p[:, None] * (3 * D) + head * E + e[None, :]
        query = tl.load(extra + own, mask=is_list, other=0.0)
        key = tl.load(extra + D + own, mask=is_list, other=0.0).to(tl.float32)
        value = tl.load(extra + 2 * D + own, mask=is_list, other=0.0).to(tl.float32)
        peak = tl.sum(query.to(tl.float32) * key, 1) * scale
        weight = tl.full([BLOCK_P], 1.0, tl.float32)
        for k in range(0, d1, BLOCK_K):
            j = k + tl.arange(0, BLOCK_K)
            before = j[None, :] < d[:, None]
            peak, weight, value = _attend(peak, weight, value, query, table, j, j < d1, before, scale, D, E)
        for k in range(d0 + 1, N, BLOCK_K):
            j = k + tl.arange(0, BLOCK_K)
            after = (j[None, :] > d[:, None]) & (j < N)[None, :]
            peak, weight, value = _attend(peak, weight, value, query, table, N + j, j < N, after, scale, D, E)
        at = (p.to(tl.int64) * n_out + front) * D + head * E
        tl.store(out + at[:, None] + e[None, :], (value / weight[:, None]).to(out.dtype.element_ty), mask=is_list)

    def launch_first_layer(
        below: Tensor,
        above: Tensor,
        extra: Tensor | None,
        split: Tensor,
        front: int,
        heads: int,
        out: Tensor,
        block: int | None = None,
        block_splits: int = SPLIT_BLOCK,
    ) -> Tensor:
        """Runs the kernels into `out` [P, n, D]; see `kernel_takes`.

        `block` queries by as many keys are multiplied at a time: 64 in 16 bit, 32 in float32, which spills with more.
        """
        tokens, dims = below.shape[0], below.shape[1] // 3
        head_dims = dims // heads
        assert kernel_takes(below.dtype, head_dims), f"{below.dtype}, {head_dims} dims a head"
        block = block or (32 if below.dtype == torch.float32 else 64)
        assert min(block, block_splits) >= 16, "a tensor core multiplies 16 x 16 at least"
        for rows in (below, above, out) if extra is None else (below, above, extra, out):
            assert rows.is_contiguous()
            assert rows.dtype == below.dtype
            assert rows.device == below.device
        assert above.shape == below.shape
        assert max(2 * tokens, split.numel()) * 3 * dims < 2**31, "offsets into q|k|v rows are 32 bit"
        split = sent(split.to(torch.int32).contiguous(), below.device)
        together = below.untyped_storage()._cdata == above.untyped_storage()._cdata
        if together and below.storage_offset() + below.numel() == above.storage_offset():
            table = below.as_strided((2 * tokens, 3 * dims), below.stride())  # one product made both
        else:
            table = torch.cat([below, above])
        arguments = (
            table, table if extra is None else extra, split, out,
            tokens, split.numel(), out.shape[1], front, head_dims**-0.5 * LOG2_E,
        )  # fmt: skip
        grid = (triton.cdiv(tokens, block), triton.cdiv(split.numel(), block_splits), 2 * heads)
        with torch.cuda.device_of(out):
            shared_rows_kernel[grid](
                *arguments, EXTRA=extra is not None, H=heads, E=head_dims,
                BLOCK_Q=block, BLOCK_P=block_splits, BLOCK_K=block, WINDOW_K=min(32, block_splits),
                num_warps=block // 16 if below.dtype != torch.float32 else 8,  # 16 rows a warp: more would compute them twice
                num_stages=2,
            )  # fmt: skip
            if extra is not None:
                extra_rows_kernel[(triton.cdiv(split.numel(), 16), heads)](
                    *arguments, H=heads, E=head_dims, BLOCK_P=16, BLOCK_K=block, num_warps=4, num_stages=2,
                )  # fmt: skip
        return out


# ---------------------------------------------------------------- dispatch


def kernel_takes(dtype: torch.dtype, head_dims: int) -> bool:
    """Whether the kernels handle these rows: heads of 16, 32 or 64 dims. On a device, others take plain attention.

    64 is the head size of every published model; a tensor core multiplies no less than 16, and 128 would spill.
    """
    return dtype in FLOATS and head_dims in (16, 32, 64)


@torch.no_grad()
def first_layer(
    below: Tensor,
    above: Tensor,
    extra: Tensor | None,
    split: Tensor,
    front: int,
    heads: int,
    out: Tensor | None = None,
) -> Tensor:
    """Attention output [P, n, D] of the first layer for P single edits of one cell, before the output projection.

    `below` and `above` [N, 3D] hold q | k | v of every base token at its two positions; queries are not scaled, the
    factor head_dim^-0.5 is applied here. `above[0]`, and `below[N-1]` when something is removed, are never read. `extra`
    [P, 3D] is q | k | v of the moved or inserted tokens, which stand at output row `front`. `split` [P] is ascending:
    the index of the removed token, or N for all when none is; on the CPU it saves a wait for the device.

    n = N - (a token is removed) + (there is an extra). For inference: no gradient flows. Where `sharing_pays` says no,
    the result is plain attention. Raises ValueError when shapes, order or devices are wrong.
    """
    tokens, width = below.shape
    dims, heads_left = divmod(width, 3)
    if heads_left or dims % heads or above.shape != below.shape or above.dtype != below.dtype:
        raise ValueError(
            f"below {tuple(below.shape)}, above {tuple(above.shape)}: must be [N, 3D] of one dtype, D % {heads} == 0"
        )
    if extra is not None and (tuple(extra.shape) != (split.numel(), width) or extra.dtype != below.dtype):
        raise ValueError(
            f"extra is {extra.dtype} {tuple(extra.shape)}, must be {below.dtype} ({split.numel()}, {width})"
        )
    if not all(x.is_contiguous() for x in (below, above, *([] if extra is None else [extra]))):
        raise ValueError("below, above and extra must be contiguous")
    on_host = split.to("cpu", torch.int64)
    outside = bool(((on_host < 0) | (on_host > tokens)).any())
    if outside or bool((on_host.diff() < 0).any()):
        raise ValueError(f"split must ascend within 0..{tokens}: sort the perturbations of a cell by their split")
    removes = bool(on_host.numel()) and int(on_host[0]) < tokens
    if removes and int(on_host[-1]) == tokens:
        raise ValueError(f"some splits remove a token and some (= {tokens}) do not: run the two kinds apart")
    shape = (on_host.numel(), tokens - removes + (extra is not None), dims)
    if extra is not None and not 0 <= front < max(1, shape[1]):
        raise ValueError(f"front is {front}, must be a row of the {shape[1]}-row lists")
    if out is None:
        out = below.new_empty(shape)
    elif tuple(out.shape) != shape or out.dtype != below.dtype or not out.is_contiguous() or out.device != below.device:
        raise ValueError(f"out is {out.dtype} {tuple(out.shape)}, must be contiguous {below.dtype} {shape}")
    if out.numel() == 0:
        return out
    pays = sharing_pays(tokens, on_host, "cuda" if runs_triton(below) else "cpu")
    if not pays or (runs_triton(below) and not kernel_takes(below.dtype, dims // heads)):
        return plain_first_layer(below, above, extra, sent(on_host, below.device), front, heads, out)
    if runs_triton(below):
        return launch_first_layer(below, above, extra, on_host, front, heads, out)
    return first_layer_reference(below, above, extra, sent(on_host, below.device), front, heads, out)
