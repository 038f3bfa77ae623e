"""What every family computes with: products at one precision, and attention inside lists that are packed without padding.

`dtype` is that of the matrix products and of attention; embeddings, residual stream and LayerNorm stay float32, because
cosine shifts are small (1e-4 to 1e-2) and bfloat16 alone is about thirty times noisier on 1 - cos. int8 are 8-bit weights
and activations (kernel `eight_bit`) beside attention in 16 bits. Of `bfloat16-delta` and its like only the products of what
differs from the original have few bits (kernel `difference_product`); originals are multiplied in float32.

Shapes: T packed rows of a batch, P lists, N rows of a list, D hidden size, H heads, E head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from rankshift.kernels.add_norm import add_norm
from rankshift.kernels.difference_product import difference_product
from rankshift.kernels.eight_bit import EightBit, multiplies
from rankshift.kernels.narrow_layer import kernels_take, perceptron_norm, product_norm
from rankshift.kernels.varlen_attention import kernel_takes, varlen_attention
from rankshift.screen.errors import InputError
from rankshift.screen.families.originals import Place

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x, inplace=True),
    "swish": lambda x: F.silu(x, inplace=True),
    "tanh": torch.tanh_,
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DELTA = "-delta"  # of products on differences
PRECISIONS = (*DTYPES, "int8", "bfloat16-delta", "int8-delta")
QUERY_BLOCK = 256  # queries whose logits over a list's keys are in cache together
Runs: TypeAlias = list[tuple[int, int]]  # (count, length) of neighbouring lists of one length


@dataclass(frozen=True, slots=True)
class Twofold:
    """A weight [D, F] in float32, for originals, and in few bits, for what lists differ by."""

    exact: Tensor
    few: Tensor | EightBit

    def __getitem__(self, at: tuple[slice, slice]) -> Tensor:
        """Some columns, as [:, first:last], in float32."""
        return self.exact[at]

    def float(self) -> Tensor:
        """In float32."""
        return self.exact


Weight: TypeAlias = Tensor | EightBit | Twofold
Norm: TypeAlias = tuple[Tensor, Tensor]  # weight and bias of a LayerNorm, float32 [D]
Linear: TypeAlias = tuple[Weight, Tensor]  # of a product, with its bias
Places: TypeAlias = tuple[Place | None, Place | None]  # of the two linear layers of a perceptron
Scalar: TypeAlias = float  # `Operators.float` hides the type from its methods


class Operators:
    """How weights are held on a device, and the products with them."""

    def __init__(self, device: str, dtype: str, sizes: set[int]) -> None:
        """Sizes: of the matrices that 8 bits would multiply."""
        if dtype not in PRECISIONS:
            raise InputError(f"dtype {dtype!r} is unknown: use one of auto, {', '.join(PRECISIONS)}")
        self.device, self.precision = torch.device(device), dtype
        self.deltas, self._few = dtype.endswith(DELTA), dtype.removesuffix(DELTA)
        eight_bit = self._few == "int8"
        if eight_bit and (lacking := multiplies(self.device, sizes)):
            raise InputError(f"dtype {dtype} needs products of 8-bit integers, {lacking}: use --dtype auto")
        if self.deltas:  # bfloat16 attention would undo what its products gain
            self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        else:
            self.dtype = _beside_eight_bits(self.device) if eight_bit else DTYPES[dtype]
        settle(self.device)
        plain = not eight_bit and not self.deltas
        self._fuses = self.device.type == "cuda" and self.dtype != torch.float32 and plain
        self._halves = WeakIdKeyDictionary()  # 16-bit copies of the rows that `norm_of_sum` made, as long as those live

    def float(self, tensor: Tensor) -> Tensor:
        """A float32 copy on the device, of what stays at full precision."""
        return tensor.to(self.device, torch.float32, copy=True).contiguous()  # uncopied, it keeps the whole file mapped

    def matrix(self, weight: Tensor) -> Weight:
        """A weight as files hold it, [out, in], turned to [in, out] so that a batch is multiplied from the left."""
        few = EightBit.of(weight.to(self.device).T) if self._few == "int8" else None
        if self.deltas:
            exact = weight.to(self.device, torch.float32).contiguous().T
            return Twofold(exact, weight.to(self.device, DTYPES[self._few]).contiguous().T if few is None else few)
        return weight.to(self.device, self.dtype).contiguous().T if few is None else few

    def vector(self, bias: Tensor) -> Tensor:
        """A bias beside a `matrix`."""
        return bias.to(self.device, torch.float32 if self.deltas else self.dtype)

    def product(self, x: Tensor, weight: Weight, bias: Tensor, place: Place | None = None) -> Tensor:
        """x times the weight, plus the bias. place: where the rows stand beside originals, None where there are none."""
        if isinstance(weight, Twofold):
            return self._beside(x, weight, bias, place, dtype=self.dtype)
        if isinstance(weight, EightBit):
            return weight.product(x, bias)
        return torch.addmm(bias, self._half(x), weight)

    def _beside(
        self,
        x: Tensor,
        weight: Twofold,
        bias: Tensor,
        place: Place | None,
        *,
        relu: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Rows that come from originals by way of the difference to them; others in float32, and originals are kept."""
        known = None if place is None else place.known
        if place is not None and known is not None:
            row, alone = place.rows.row, place.rows.alone
            y = difference_product(x, known.inputs, known.products, row, weight.few, relu=relu, dtype=dtype)
            if len(alone):
                whole = torch.addmm(bias, x[alone].float(), weight.exact)
                y[alone] = (whole.relu_() if relu else whole).to(dtype)
            return y
        y = torch.addmm(bias, x.float(), weight.exact)
        if place is not None:
            place.keep(x, y, bias)
        return (y.relu_() if relu else y).to(dtype)

    def activated(self, x: Tensor, weight: Weight, bias: Tensor, name: str, place: Place | None = None) -> Tensor:
        """An activation of `product`. A GPU applies ReLU before it rounds and writes, which gives the same bits."""
        if isinstance(weight, Twofold):  # never rounded: the next product takes the difference
            y = self._beside(x, weight, bias, place, relu=name == "relu")
            return y if name == "relu" else ACTIVATIONS[name](y)
        if self._fuses and name == "relu" and isinstance(weight, Tensor):
            return torch._addmm_activation(bias, self._half(x), weight)
        return ACTIVATIONS[name](self.product(x, weight, bias))

    def norm_of_sum(
        self, x: Tensor, a: Tensor, weight: Weight, bias: Tensor, norm: Norm, eps: Scalar, place: Place | None = None
    ) -> Tensor:
        """LayerNorm of `add_product`. Takes x over. A GPU makes the next product's copy with it."""
        if self._narrow(weight, x):
            self._halves.pop(x, None)
            product_norm(x, a, weight, bias, *norm, eps)
            return x
        if self._fuses and isinstance(weight, Tensor):
            self._halves[x] = add_norm(x, torch.addmm(bias, a, weight), *norm, eps)
            return x
        return F.layer_norm(self.add_product(x, a, weight, bias, place), x.shape[1:], *norm, eps)

    def perceptron(
        self, x: Tensor, up: Linear, down: Linear, name: str, norm: Norm, eps: Scalar, at: Places = (None, None)
    ) -> Tensor:
        """LayerNorm of x plus the two-layer perceptron of it. Takes x over. A GPU does narrow ones in one launch."""
        (first, first_bias), (second, second_bias) = up, down
        if name == "relu" and self._narrow(first, x) and self._narrow(second, x):
            self._halves[x] = perceptron_norm(x, first, first_bias, second, second_bias, *norm, eps)
            return x
        inner = self.activated(x, first, first_bias, name, at[0])
        return self.norm_of_sum(x, inner, second, second_bias, norm, eps, at[1])

    def _narrow(self, weight: Weight, x: Tensor) -> TypeGuard[Tensor]:
        return self._fuses and isinstance(weight, Tensor) and kernels_take(x, weight)

    def _half(self, x: Tensor) -> Tensor:
        found: Tensor | None = self._halves.get(x)
        return x.to(self.dtype) if found is None else found

    def add_product(self, x: Tensor, a: Tensor, weight: Weight, bias: Tensor, place: Place | None = None) -> Tensor:
        """The residual stream x plus (a times the weight, plus the bias). Takes x over."""
        self._halves.pop(x, None)
        if isinstance(weight, Twofold):
            return x.add_(self._beside(a, weight, bias, place))
        if isinstance(weight, EightBit):
            return x.add_(weight.product(a, bias.float()))
        if self.dtype == torch.float32:
            return x.add_(bias).addmm_(a, weight)  # the residual is the accumulator
        return x.add_(torch.addmm(bias, a, weight))

    def attention(self, qkv: Tensor, runs: Runs, start: Tensor, heads: int) -> Tensor:
        """Self-attention inside every list, (T, 3D) -> (T, D); the lists begin in `start` [P+1], which ends with T.

        A GPU takes all lists in one launch, in 16 bits. Elsewhere lists of one length go together: nothing is padded.
        """
        if self.device.type == "cuda" and kernel_takes(qkv.dtype, qkv.shape[1] // (3 * heads)):
            return varlen_attention(qkv, start, max(n for _, n in runs), heads)
        out = torch.empty(len(qkv), qkv.shape[1] // 3, dtype=qkv.dtype, device=qkv.device)
        row = 0
        for count, n in runs:
            rows = slice(row, row + count * n)
            q, k, v = qkv[rows].view(count, n, 3, heads, -1).permute(2, 0, 3, 1, 4)  # (P, H, N, E) each
            target = out[rows].view(count, n, heads, -1)
            if self.dtype != torch.float32 and self.device.type == "cpu":
                _attend_in_blocks(q, k, v, target)
            else:
                target.copy_(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
            row += count * n
        return out


def settle(device: torch.device) -> None:
    """torch's settings for our own work on a GPU, of this process. On a CPU nothing changes.

    cuDNN's attention, which torch prefers on the newest GPUs, is off on purpose: it builds a plan for every new number of
    lists and every new length, 40 to 440 ms each as others measured, and a screen or a training meets thousands of both.
    Products of 16 bits are summed in float32 also where cuBLAS splits a sum and would add its parts in 16 bits.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_accumulation = False


def _beside_eight_bits(device: torch.device) -> torch.dtype:
    """Type of what stays wider than 8 bits, attention above all: 16 bits where they are fast."""
    if device.type == "cuda":
        return torch.float16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _attend_in_blocks(q_PHNE: Tensor, k_PHNE: Tensor, v_PHNE: Tensor, out_PNHE: Tensor) -> None:
    """Attention by batched products over blocks of queries, for 16 bits on a CPU: torch's own kernel computes those products
    at float32 speed there (60 to 70 GFLOP/s a core at 600 genes and more, this 83 to 104)."""
    scale = q_PHNE.shape[-1] ** -0.5
    for p in range(len(q_PHNE)):
        q, k, v = q_PHNE[p].contiguous(), (k_PHNE[p] * scale).transpose(1, 2).contiguous(), v_PHNE[p].contiguous()
        for block in range(0, q.shape[1], QUERY_BLOCK):
            share = torch.bmm(q[:, block : block + QUERY_BLOCK], k).softmax(-1)
            out_PNHE[p, block : block + QUERY_BLOCK] = torch.bmm(share, v).transpose(0, 1)
