"""Pretend-CUDA: tensors of the CPU that say they lie on cuda:0, so that our branch for a GPU runs for real and is counted.

It counts launches, views, copies and waits; it says nothing of speed. Triton kernels are answered by their torch references.
`install` must run before rankshift is imported, in a process of its own: inference mode would hide operations from the count.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

CUDA = torch.device("cuda", 0)
VIEWS = frozenset(
    """view permute transpose t slice select unsqueeze expand alias detach _unsafe_view as_strided unbind squeeze split
    unfold _reshape_alias split_with_sizes lift_fresh diagonal flatten reshape view_as unflatten contiguous movedim narrow
    """.split()  # noqa: SIM905
)
ALLOCATIONS = frozenset(
    ["empty", "empty_like", "empty_strided", "new_empty", "set_", "is_pinned", "sym_size", "new_empty_strided"]
)
WAITS = frozenset(["_local_scalar_dense", "equal", "nonzero", "_unique2", "masked_select"])
READS = frozenset(["tolist", "item", "__int__", "__bool__", "__float__", "__index__"])


@dataclass(frozen=True)
class Event:
    """What was asked of the device. kind: launch, triton, view, allocation, copy (in stream order), blocking or wait."""

    kind: str
    name: str
    bytes: int = 0


@dataclass
class Record:
    """Everything that happened, in order."""

    events: list[Event] = field(default_factory=list)

    def note(self, kind: str, name: str, size: int = 0) -> None:
        self.events.append(Event(kind, name, size))

    @property
    def bytes(self) -> int:
        """Read and written by launches, weights included."""
        return sum(event.bytes for event in self.events if event.kind in ("launch", "triton"))

    def counts(self) -> Counter[str]:
        return Counter(event.kind for event in self.events)

    def names(self, *kinds: str) -> Counter[str]:
        return Counter(event.name for event in self.events if event.kind in kinds)


RECORD = Record()


class Pretended(torch.Tensor):
    """A tensor whose values are `elem`, on the CPU."""

    elem: torch.Tensor

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> "Pretended":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device="cpu",
        )
        made.elem = elem
        return made

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.elem.untyped_storage()  # that of its values: views of one tensor share it

    def __repr__(self) -> str:
        return f"Pretended{tuple(self.shape)}"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _OPERATIONS.run(func, args, kwargs or {})


def real(value: Any) -> Any:
    """The values of a pretended tensor."""
    return value.elem if isinstance(value, Pretended) else value


def _tensors(tree: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    tree_map(lambda x: found.append(x) if isinstance(x, torch.Tensor) else None, tree)
    return found


@contextlib.contextmanager
def _uncounted() -> Iterator[None]:
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


class _Operations(TorchDispatchMode):
    """Counts what reaches the dispatcher and computes it on the values."""

    making = False  # a tensor is being made on the device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        name = func._schema.name.split("::")[1]
        flat = _tensors((args, kwargs))
        pretended = [x for x in flat if isinstance(x, Pretended)]
        if not pretended:
            if self.making:
                RECORD.note("allocation" if name in ALLOCATIONS else "launch", name)
            return func(*args, **kwargs)
        before = len(RECORD.events)
        if name == "copy_" and not (isinstance(args[0], Pretended) and isinstance(args[1], Pretended)):
            RECORD.note("blocking", "copy_", args[1].nbytes)
        elif name in WAITS:
            RECORD.note("wait", name)
        elif name in VIEWS or name in ALLOCATIONS:
            RECORD.note("view" if name in VIEWS else "allocation", name)
        else:
            for index in args[1] if name in ("index", "index_put_", "_index_put_impl_") else ():
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    RECORD.note("wait", f"{name} by a mask")
            if any(not isinstance(x, Pretended) and x.dim() for x in flat):
                raise AssertionError(f"{name} mixes tensors of the CPU and the device")
            before = len(RECORD.events)
            RECORD.note("launch", name, sum(x.nbytes for x in flat))
        with _uncounted():
            out = func(*tree_map(real, args), **tree_map(real, kwargs))
        if RECORD.events[before].kind == "launch":
            read = flat[-1].nbytes if name == "copy_" else RECORD.events[before].bytes
            RECORD.events[before] = Event("launch", name, read + sum(x.nbytes for x in _tensors(out)))
        known = {id(x.elem): x for x in pretended}

        def wrap(x):
            if type(x) is not torch.Tensor:
                return x
            return known[id(x)] if id(x) in known else Pretended(x)

        return tree_map(wrap, out)


class _Functions(TorchFunctionMode):
    """Counts what goes between host and device, and sends what is made on the device there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if name == "to" and isinstance(first, torch.Tensor):
            moved = self._to(func, first, list(args[1:]), kwargs)
            if moved is not None:
                return moved
        elif name == "cpu" and isinstance(first, Pretended):
            RECORD.note("blocking", "cpu", first.elem.nbytes)
            return first.elem.clone()
        elif name in READS and isinstance(first, Pretended):
            RECORD.note("wait", name)
            return getattr(first.elem, name)()
        elif name == "pin_memory":
            return first
        elif name == "scaled_dot_product_attention" and isinstance(first, Pretended):
            RECORD.note("launch", name, 4 * first.nbytes)
            with _uncounted():
                q, k, v = (x.elem.float() for x in args[:3])
                out = torch.nn.functional.scaled_dot_product_attention(q, k, v).to(first.dtype)
                return Pretended(out.transpose(1, 2).contiguous().transpose(1, 2))
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            _OPERATIONS.making = True
            try:
                out = func(*args, **{**kwargs, "device": "cpu"})
            finally:
                _OPERATIONS.making = False
            return out if isinstance(out, Pretended) else Pretended(out)
        return func(*args, **kwargs)

    def _to(self, func, tensor, rest, kwargs):
        device = kwargs.get("device")
        if device is None and rest and isinstance(rest[0], str | torch.device):
            device = rest.pop(0)
        if device is None:
            return None
        dtype = kwargs.get("dtype") or next((x for x in rest if isinstance(x, torch.dtype)), None)
        there, wanted = isinstance(tensor, Pretended), torch.device(device).type
        if wanted == "cuda" and not there:
            RECORD.note("copy" if kwargs.get("non_blocking") else "blocking", "to", tensor.nbytes)
            with _uncounted():
                return Pretended(tensor.to(dtype or tensor.dtype, copy=True))
        if wanted == "cuda":
            if dtype in (None, tensor.dtype):
                return tensor.clone() if kwargs.get("copy") else tensor
            return func(tensor, dtype, copy=bool(kwargs.get("copy")))
        if there:
            RECORD.note("copy" if kwargs.get("non_blocking") else "blocking", "to", tensor.nbytes)
            with _uncounted():
                return tensor.elem.to(dtype or tensor.dtype, copy=True)
        return None


_OPERATIONS, _FUNCTIONS = _Operations(), _Functions()


@contextlib.contextmanager
def pretending() -> Iterator[None]:
    """What runs inside meets the pretended device."""
    with _FUNCTIONS, _OPERATIONS:
        yield


def install() -> None:
    """Prepare this process: no inference mode, no CUDA context, and Triton kernels that are counted and answered."""
    torch.inference_mode = lambda mode=True: torch.no_grad()  # type: ignore[assignment, misc]
    torch.cuda.device_of = lambda tensor: contextlib.nullcontext()  # type: ignore[assignment, misc]
    torch.cuda.empty_cache = lambda: None  # type: ignore[assignment]
    from triton.runtime.jit import JITFunction

    def launched(self, grid):
        def launch(*args, **constants):
            named = dict(zip(self.arg_names, args, strict=False)) | constants
            size = sum(x.nbytes for x in named.values() if isinstance(x, Pretended))
            size += named[OVER[self.__name__]].nbytes if self.__name__ in OVER else 0
            RECORD.note("triton", self.__name__, size)
            with _uncounted():
                ANSWERS[self.__name__]({name: real(x) for name, x in named.items()})

        return launch

    JITFunction.__getitem__ = launched  # type: ignore[method-assign]


# ---------------------------------------------------------------- what the kernels would have written


def _rank_shift(a: dict[str, Any]) -> None:
    from rankshift.kernels.rank_shift import EmbeddingTables, rank_shift_reference

    tables = EmbeddingTables(**{n: a[n] for n in ("word", "position", "type_row", "gamma", "beta", "eps")})
    rank_shift_reference(_lists(a, a["ids"]), tables, a["out"])


def _lists(a: dict[str, Any], ids: torch.Tensor) -> Any:
    from rankshift.kernels.perturbed_lists import PerturbedLists

    edits = {name: a[name] for name in ("length", "source", "destination", "token")}
    return PerturbedLists.pack(ids=ids, base=a["base"], base_length=a.get("base_length", a["length"]), **edits)


def _cosine_shift(a: dict[str, Any]) -> None:
    from rankshift.kernels.cosine_shift import BaseCells, cosine_shift_reference

    base = BaseCells(
        hidden=a["base_hidden"], inverse_norm=a["inverse_norm"], start=a["base"], pooled=a["base_hidden"], states=None,
        state_before=None, skip_first=a["skip_first"], skip_last=a["skip_last"],
    )  # fmt: skip
    ids = torch.zeros(len(a["base_hidden"]), dtype=torch.int32)
    total, pairs, pooled, gene = cosine_shift_reference(base, a["hidden"], _lists(a, ids))
    for name, values in (("sums", pooled), ("cosines", total), ("pairs", pairs)):
        a[name].zero_()[:, 0] = values  # the first chunk of each list has the sum of all
    if a["GENES"]:
        a["gene"].copy_(gene)


def _shared_rows(a: dict[str, Any]) -> None:
    from rankshift.kernels.first_layer import first_layer_reference

    n = a["N"]
    extra = a["extra"] if a["EXTRA"] else None
    first_layer_reference(a["table"][:n], a["table"][n:], extra, a["split"], a["front"], a["H"], a["out"])


def _varlen_attention(a: dict[str, Any]) -> None:
    from rankshift.kernels.varlen_attention import varlen_attention_reference

    varlen_attention_reference(a["qkv"], a["start"], a["H"], a["out"])


def _add_norm(a: dict[str, Any]) -> None:
    from rankshift.kernels.add_norm import add_norm_reference

    add_norm_reference(a["x"], a["a"], a["gamma"], a["beta"], a["eps"], a["half"])


def _first_row_logits(a: dict[str, Any]) -> None:
    owner = torch.repeat_interleave(torch.arange(len(a["start"]) - 1), a["start"].diff())
    a["logits"].copy_((a["u"][owner] * a["x"][:, None]).sum(-1) / 0.6931471805599453)


def _first_row_sums(a: dict[str, Any]) -> None:
    bounds = a["start"].tolist()
    for p, (first, last) in enumerate(pairwise(bounds)):
        weight = (a["logits"][first:last] * 0.6931471805599453).softmax(0)
        a["out"][p] = weight.T @ a["x"][first:last]


def _product_norm(a: dict[str, Any]) -> None:
    from rankshift.kernels.narrow_layer import product_norm_reference

    product_norm_reference(*(a[n] for n in ("x", "a", "weight", "bias", "gamma", "beta", "eps")))


def _perceptron_norm(a: dict[str, Any]) -> None:
    from rankshift.kernels.narrow_layer import perceptron_norm_reference

    names = ("x", "up", "up_bias", "down", "down_bias", "gamma", "beta", "eps")
    a["half"].copy_(perceptron_norm_reference(*(a[n] for n in names)))


def _token_rows(a: dict[str, Any]) -> None:
    from rankshift.kernels.rank_shift import EmbeddingTables
    from rankshift.kernels.token_rows import token_rows_reference

    tables = EmbeddingTables(**{n: a[n] for n in ("word", "position", "type_row", "gamma", "beta", "eps")})
    a["out"].copy_(token_rows_reference(a["token"], a["at"], tables))


def _row_cosines(a: dict[str, Any]) -> None:
    from rankshift.kernels.row_cosines import cosine, cosine_to_states, means_reference

    after = means_reference(a["sums"].float(), (a["length"] - a["left_out"]).clamp(min=0))
    if a["MEANS"]:
        a["mean"].copy_(after)
        return
    before = a["before"][a["index"]].float()
    a["cosine"].copy_(cosine(after, before))
    a["state_before"].copy_(cosine_to_states(before, a["states"]))
    a["state_after"].copy_(cosine_to_states(after, a["states"]))


OVER = {
    "add_norm_kernel": "x",
    "product_norm_kernel": "x",
    "perceptron_norm_kernel": "x",
}  # what a kernel reads and writes over
ANSWERS = {
    "add_norm_kernel": _add_norm,
    "first_row_logits_kernel": _first_row_logits,
    "first_row_sums_kernel": _first_row_sums,
    "product_norm_kernel": _product_norm,
    "perceptron_norm_kernel": _perceptron_norm,
    "rank_shift_kernel": _rank_shift,
    "row_cosines_kernel": _row_cosines,
    "token_rows_kernel": _token_rows,
    "cosine_shift_kernel": _cosine_shift,
    "shared_rows_kernel": _shared_rows,
    "extra_rows_kernel": lambda a: None,  # the answer to shared_rows_kernel has these rows too
    "varlen_attention_kernel": _varlen_attention,
}
