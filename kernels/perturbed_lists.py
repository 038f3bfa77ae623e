"""Perturbed rank lists: base lists and edits, packed for a device; it never builds a perturbed id list.

An edit (source, destination, token) takes the row at `source` out and puts it, or a new token, in at `destination`:
delete (i, NOWHERE, -1), move (i, j, -1), insert (NOWHERE, j, token), nothing (NOWHERE, NOWHERE, -1). One step maps a
row j of the list after it to a row of the list before it:

    j == destination: source;   source <= j < destination: j + 1;   destination < j <= source: j - 1;   else j

and several edits compose from the last to the first.

Legend: B base rows, P perturbations, K edits each, T perturbed rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the reference below is what runs
    triton = None

NOWHERE = 1 << 30  # index of an edit that has no source, or no destination; larger than any rank list


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; to a GPU through pinned memory, so that copying overlaps what runs there and nothing waits."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbedLists:
    """P edited rank lists, packed one after the other without padding.

    `ids` [B] int32 holds the base lists (framed or plain) one after the other, none overlapping another; `base` [P]
    int64 and `base_length` [P] int32 say where perturbation p's base list begins in it and how long it is. `source`,
    `destination` and `token` [P, K] int32 are the edits, applied in the order 0..K-1. `length` [P] int32 is the length
    of the perturbed list: a shorter one than the edits give truncates it. `start` [P+1] int64 is the exclusive
    cumulative sum of `length`. `uniform` is the common length when all are equal, so that the packed rows view as
    [P, n, D]. `total` (sum of the lengths) and `longest` are host copies; without them a device is waited for.
    """

    ids: Tensor
    base: Tensor
    base_length: Tensor
    length: Tensor
    start: Tensor
    source: Tensor
    destination: Tensor
    token: Tensor
    uniform: int | None = None
    total: int | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        perturbations = self.length.numel()
        edits = self.source.shape[1] if self.source.dim() == 2 else -1
        expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "ids": (torch.int32, tuple(self.ids.shape[:1])),
            "base": (torch.int64, (perturbations,)),
            "base_length": (torch.int32, (perturbations,)),
            "length": (torch.int32, (perturbations,)),
            "start": (torch.int64, (perturbations + 1,)),
            "source": (torch.int32, (perturbations, edits)),
            "destination": (torch.int32, (perturbations, edits)),
            "token": (torch.int32, (perturbations, edits)),
        }
        for name, (dtype, shape) in expected.items():
            tensor = getattr(self, name)
            if tensor.dtype != dtype or tuple(tensor.shape) != shape or not tensor.is_contiguous():
                raise ValueError(
                    f"{name} is {tensor.dtype} {tuple(tensor.shape)}, must be contiguous {dtype} {shape}: pack anew"
                )
            if tensor.device != self.ids.device:
                raise ValueError(f"{name} is on {tensor.device}, ids on {self.ids.device}: put the lists on one device")
        if self.ids.device.type == "cpu":
            if int(self.start[0]) or not torch.equal(self.start.diff(), self.length.to(torch.int64)):
                raise ValueError("start is not the exclusive cumulative sum of length: pack the lists anew")
            if self.uniform is not None and bool((self.length != self.uniform).any()):
                raise ValueError(f"uniform is {self.uniform}, but the lengths differ: leave it None")
        if self.uniform is not None:
            object.__setattr__(self, "total", perturbations * self.uniform)
            object.__setattr__(self, "longest", self.uniform if perturbations else 0)
        if self.total is None:
            object.__setattr__(self, "total", int(self.start[-1]))
        if self.longest is None:
            object.__setattr__(self, "longest", int(self.length.max()) if perturbations else 0)

    @classmethod
    def pack(
        cls,
        *,
        ids: Tensor,
        base: Tensor,
        base_length: Tensor,
        length: Tensor,
        source: Tensor,
        destination: Tensor,
        token: Tensor,
    ) -> PerturbedLists:
        """Lists from tensors on the CPU: works out `start`, `uniform`, `total` and `longest`, and sets the dtypes."""
        length = length.to(torch.int32).contiguous()
        start = torch.zeros(length.numel() + 1, dtype=torch.int64)
        torch.cumsum(length, 0, dtype=torch.int64, out=start[1:])
        shortest, longest = (int(length.min()), int(length.max())) if length.numel() else (0, 0)
        return cls(
            ids=ids.to(torch.int32).contiguous(),
            base=base.to(torch.int64).contiguous(),
            base_length=base_length.to(torch.int32).contiguous(),
            length=length,
            start=start,
            source=source.to(torch.int32).contiguous(),
            destination=destination.to(torch.int32).contiguous(),
            token=token.to(torch.int32).contiguous(),
            uniform=longest if shortest == longest else None,
            total=int(start[-1]),
            longest=longest,
        )

    def to(self, device: torch.device | str) -> PerturbedLists:
        """The same lists on another device; the host copies come along, so nothing waits."""
        tensors = ("ids", "base", "base_length", "length", "start", "source", "destination", "token")
        moved: dict[str, Any] = {name: sent(getattr(self, name), device) for name in tensors}
        return replace(self, **moved)

    @property
    def rows(self) -> int:
        """T, the rows of all perturbed lists together."""
        assert self.total is not None
        return self.total

    @property
    def width(self) -> int:
        """Rows of the longest perturbed list."""
        assert self.longest is not None
        return self.longest


# ---------------------------------------------------------------- torch reference


def trace(lists: PerturbedLists) -> tuple[Tensor, Tensor, Tensor]:
    """Where every row of the perturbed lists comes from.

    Returns `index` [T] int64, the row in the packed base lists or -1 where a token was inserted; `token` [T] int32, the
    inserted token or -1; `moved` [T] bool, true where an edit moved or inserted the row itself (not where a row only
    made room for another).

    >>> lists = PerturbedLists.pack(
    ...     ids=torch.tensor([10, 11, 12]), base=torch.tensor([0]), base_length=torch.tensor([3]),
    ...     length=torch.tensor([3]), source=torch.tensor([[2]]), destination=torch.tensor([[0]]),
    ...     token=torch.tensor([[-1]]))
    >>> trace(lists)[0].tolist()
    [2, 0, 1]
    """
    device, shape = lists.ids.device, (lists.length.numel(), lists.width)
    row = torch.arange(shape[1], dtype=torch.int32, device=device)
    source = row.expand(shape)
    token = torch.full(shape, -1, dtype=torch.int32, device=device)
    moved = torch.zeros(shape, dtype=torch.bool, device=device)
    for k in range(lists.source.shape[1] - 1, -1, -1):
        a, b, inserted = (edit[:, k, None] for edit in (lists.source, lists.destination, lists.token))
        live = token < 0  # an inserted row has no past: earlier edits cannot touch it
        hit = live & (source == b)
        before = (
            source + ((source >= a) & (source < b)).to(torch.int32) - ((source > b) & (source <= a)).to(torch.int32)
        )
        source = torch.where(hit, a, torch.where(live, before, source))
        token = torch.where(hit, inserted, token)
        moved |= hit
    index = torch.where(token < 0, lists.base[:, None] + source, -1)
    if lists.uniform is not None:
        return index.reshape(-1), token.reshape(-1), moved.reshape(-1)
    produced = row < lists.length[:, None]
    return index[produced], token[produced], moved[produced]


def row_positions(lists: PerturbedLists) -> tuple[Tensor, Tensor]:
    """The perturbation of every packed row [T] int64, and its row within the list [T] int64."""
    count = torch.arange(lists.length.numel(), device=lists.ids.device)
    owner = torch.repeat_interleave(count, lists.length, output_size=lists.rows)
    return owner, torch.arange(lists.rows, device=lists.ids.device) - lists.start[owner]


# ---------------------------------------------------------------- Triton, for the kernels that read the lists

if triton is not None:

    @triton.jit
    def source_of_rows(j, source, destination, token, K):  # type: ignore[no-untyped-def]
        """`trace` for rows j (int32) of one list: base index, inserted token or -1, and 1 where an edit moved the row."""
        s = j
        t = tl.full(j.shape, -1, tl.int32)
        moved = tl.zeros(j.shape, tl.int32)
        for r in range(K):
            a = tl.load(source + (K - 1 - r))
            b = tl.load(destination + (K - 1 - r))
            inserted = tl.load(token + (K - 1 - r))
            live = t < 0
            hit = live & (s == b)
            before = s + ((s >= a) & (s < b)).to(tl.int32) - ((s > b) & (s <= a)).to(tl.int32)
            s = tl.where(hit, a, tl.where(live, before, s))
            t = tl.where(hit, inserted, t)
            moved = tl.where(hit, 1, moved)
        return s, t, moved
