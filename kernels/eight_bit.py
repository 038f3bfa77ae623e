"""Matrix products in 8 bits: weights and activations as int8, sums as int32, nothing lost in between.

    y[i, j] = s[i] t[j] * sum_k q[i, k] w[k, j] + bias[j]
    q[i, k] = round(x[i, k] / s[i]),  s[i] = max_k |x[i, k]| / 127;   w, t likewise per column of the weights

One scale per row and one per column is the vector-wise quantisation of Dettmers et al. 2022, without their separate product
for outlying columns. A row's result depends on that row alone, so it is the same in any batch.

Legend: T rows, D in, F out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127.0
FEWEST_ROWS = 17  # on a GPU torch multiplies no fewer
SMALLEST = 1e-30  # the least scale, so that a row of zeros stays zeros


@dataclass(frozen=True, slots=True)
class EightBit:
    """A weight [D, F] as int8 with the scales float32 [F] of its columns."""

    weight: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight_DF: Tensor) -> "EightBit":
        """Quantise a weight."""
        wide = weight_DF.float()
        scale = (wide.abs().amax(0) / LARGEST).clamp_(min=SMALLEST)
        return cls(_laid_out((wide / scale).round_().to(torch.int8)), scale)

    def __getitem__(self, at: tuple[slice, slice]) -> "EightBit":
        """Some columns, as [:, first:last]."""
        return EightBit(_laid_out(self.weight[:, at[1]]), self.scale[at[1]])

    def float(self) -> Tensor:
        """The weight that the 8 bits stand for, float32."""
        return self.weight * self.scale

    def product(self, x_TD: Tensor, bias: Tensor) -> Tensor:
        """x times the weight, plus the bias, in the type of the bias."""
        scale = (x_TD.float().abs().amax(1, keepdim=True) / LARGEST).clamp_(min=SMALLEST)
        eight = (x_TD / scale).round_().to(torch.int8)
        short = FEWEST_ROWS - len(eight) if eight.is_cuda else 0
        if short > 0:
            eight = torch.nn.functional.pad(eight, (0, 0, 0, short))
        sums = torch._int_mm(eight, self.weight)[: len(x_TD)].float()
        return torch.addcmul(bias.float(), sums.mul_(scale), self.scale).to(bias.dtype)


def _laid_out(weight_DF: Tensor) -> Tensor:
    """The same values as a device multiplies them: cuBLAS reads 8-bit weights by columns only, a CPU by rows."""
    return weight_DF.T.contiguous().T if weight_DF.is_cuda else weight_DF.contiguous()


def multiplies(device: torch.device, sizes: set[int]) -> str | None:
    """None if the device multiplies int8 matrices of these sizes, else why not."""
    if device.type == "cuda" and (odd := [n for n in sizes if n % 8]):
        return f"a GPU multiplies them in sizes that 8 divides, a weight has {odd[0]}"
    try:
        x, weight = (torch.ones(32, 32, dtype=torch.int8, device=device) for _ in range(2))
        torch._int_mm(x, _laid_out(weight))
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        return f"torch {torch.__version__} does not multiply them on {device.type} ({str(error).splitlines()[0]})"
    return None
