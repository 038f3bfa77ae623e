"""Products of perturbed rows taken on what differs from their originals, so that few bits lose little. It keeps no originals.

Formula, for a row x of a perturbed list and the row r of the original it comes from, with the original's input x0 and its
product y0 = x0 W + b known in float32:

    y = f(x W + b) = f(y0[r] + (x - x0[r]) W)          exactly; only the last product has few bits
    16 bits            (x - x0[r]) and W are rounded to 16 bits
    8 bits             s = max |x - x0[r]| / 127;  (x - x0[r]) W = s t (round((x - x0[r]) / s) V),  V and t as in `eight_bit`

A rounding errs in proportion to the difference, not to the row. Sums are float32, of 8 bits int32. A row without an original
points at a row of zeros whose product is the bias, which multiplies it plainly.

Legend: T rows, R rows of originals, D in, F out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankshift.kernels.eight_bit import LARGEST, SMALLEST, EightBit
from rankshift.kernels.rank_shift import runs_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton on this platform: the reference below is what runs
    triton = None

HALVES = (torch.float16, torch.bfloat16)
ROWS = 512  # that a CPU takes at a time: what lies between the passes over them stays in the second-level cache


# ---------------------------------------------------------------- torch reference


def difference_product_reference(
    x: Tensor, inputs: Tensor, products: Tensor, row: Tensor, weight: Tensor | EightBit, relu: bool, out: Tensor
) -> None:
    """The formula in torch, block by block. Sums of 16 bits are rounded to 16 bits where a CPU multiplies them natively."""
    most = min(ROWS, len(x)) if x.device.type == "cpu" else len(x)
    difference = x.new_empty(most, x.shape[1], dtype=torch.float32)
    eight = isinstance(weight, EightBit)
    size, whole = difference.new_empty(difference.shape), x.new_empty(difference.shape, dtype=torch.int8)
    sums = x.new_empty(most, out.shape[1], dtype=torch.int32) if eight else x.new_empty(0)
    for first in range(0, len(x), most):
        here = slice(first, first + most)
        from_row, total = row[here], out[here]
        some = slice(0, len(total))
        part = torch.index_select(inputs, 0, from_row, out=difference[some])
        torch.sub(x[here], part, out=part)
        torch.index_select(products, 0, from_row, out=total)
        if isinstance(weight, EightBit):
            scale = torch.abs(part, out=size[some]).amax(1, keepdim=True).div_(LARGEST).clamp_(min=SMALLEST)
            whole[some] = part.div_(scale).round_()
            added = torch._int_mm(whole[some], weight.weight, out=sums[some])
            floats = added.view(torch.float32)  # the same memory: every number is read before it is written
            total.addcmul_(floats.copy_(added).mul_(weight.scale), scale)
        elif _native(x.device):
            total.add_(part.to(weight.dtype) @ weight)
        else:
            total.addmm_(part.copy_(part.to(weight.dtype)), weight.float())
        if relu:
            total.relu_()


def _native(device: torch.device) -> bool:
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


# ---------------------------------------------------------------- Triton kernel

if triton is not None:
    # Added to a number below 2^22 and taken away again, it leaves the nearest whole number; a cast would cut off.
    NEAREST = tl.constexpr(1.5 * 2.0**23)

    @triton.jit
    def _difference(x, inputs, row, source, k, there, D: tl.constexpr):  # type: ignore[no-untyped-def]
        """Rows of x less those of their originals, float32 [BLOCK_T, BLOCK_D]; zero outside."""
        inside = there & (k < D)[None, :]
        mine = tl.load(x + row[:, None] * D + k[None, :], mask=inside, other=0.0).to(tl.float32)
        return mine - tl.load(inputs + source[:, None] * D + k[None, :], mask=inside, other=0.0)

    @triton.jit(do_not_specialize=["T"])
    def difference_product_kernel(  # type: ignore[no-untyped-def]
        x, inputs, products, rows, weight, scale, out, T,
        D: tl.constexpr, F: tl.constexpr, EIGHT: tl.constexpr, RELU: tl.constexpr,
        BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """A block of rows by a block of columns. weight lies as [F, D]. Blocks of columns of the same rows are neighbours."""
        blocks = tl.cdiv(F, BLOCK_F)
        row = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
        f = (tl.program_id(0) % blocks) * BLOCK_F + tl.arange(0, BLOCK_F)
        present = row < T
        there, column = present[:, None], f < F
        source = tl.load(rows + row, mask=present, other=0).to(tl.int64)
        if EIGHT:
            largest = tl.zeros([BLOCK_T], tl.float32)
            for k0 in range(0, D, BLOCK_D):
                k = k0 + tl.arange(0, BLOCK_D)
                largest = tl.maximum(largest, tl.max(tl.abs(_difference(x, inputs, row, source, k, there, D)), 1))
            step = tl.maximum(largest / 127.0, 1e-30)
            total = tl.zeros([BLOCK_T, BLOCK_F], tl.int32)
        else:
            total = tl.zeros([BLOCK_T, BLOCK_F], tl.float32)
        for k0 in range(0, D, BLOCK_D):
            k = k0 + tl.arange(0, BLOCK_D)
            part = _difference(x, inputs, row, source, k, there, D)
            known = tl.load(weight + f[None, :] * D + k[:, None], mask=column[None, :] & (k < D)[:, None], other=0)
            if EIGHT:
                part = part / step[:, None] + NEAREST - NEAREST
                total = tl.dot(part.to(tl.int8), known, total, out_dtype=tl.int32)
            else:
                total = tl.dot(part.to(weight.dtype.element_ty), known, total)
        tile = there & column[None, :]
        y = tl.load(products + source[:, None] * F + f[None, :], mask=tile, other=0.0)
        if EIGHT:
            t = tl.load(scale + f, mask=column, other=0.0)
            y += total.to(tl.float32) * step[:, None] * t[None, :]
        else:
            y += total
        if RELU:
            y = tl.maximum(y, 0.0)
        tl.store(out + row[:, None] * F + f[None, :], y.to(out.dtype.element_ty), mask=tile)

    def launch_difference_product(
        x: Tensor, inputs: Tensor, products: Tensor, row: Tensor, weight: Tensor | EightBit, relu: bool, out: Tensor
    ) -> None:
        """Runs the kernel into `out` [T, F]; see `difference_product`."""
        count, dims = x.shape
        eight = isinstance(weight, EightBit)
        matrix, scale = (weight.weight, weight.scale) if isinstance(weight, EightBit) else (weight, products)
        wide = matrix.shape[1]
        assert matrix.shape[0] == dims
        assert matrix.stride() == (1, dims), "the kernel reads weights by columns"
        assert matrix.dtype == torch.int8 if eight else matrix.dtype in HALVES
        assert inputs.dtype == products.dtype == torch.float32
        assert row.dtype == torch.int32
        assert tuple(row.shape) == (count,)
        assert (inputs.shape[1], products.shape[1]) == (dims, wide)
        assert tuple(out.shape) == (count, wide)
        tensors = (x, inputs, products, row, out) if not eight else (x, inputs, products, row, out, scale)
        assert all(t.is_contiguous() and t.device == x.device for t in tensors)
        block_rows, block_columns, block_inner = 64, 128, 64 if eight else 32
        with torch.cuda.device_of(x):
            difference_product_kernel[(triton.cdiv(count, block_rows) * triton.cdiv(wide, block_columns),)](
                x, inputs, products, row, matrix, scale, out, count,
                D=dims, F=wide, EIGHT=eight, RELU=relu,
                BLOCK_T=block_rows, BLOCK_F=block_columns, BLOCK_D=block_inner, num_warps=4, num_stages=3,
            )  # fmt: skip


# ---------------------------------------------------------------- dispatch


def difference_product(
    x: Tensor,
    inputs: Tensor,
    products: Tensor,
    row: Tensor,
    weight: Tensor | EightBit,
    *,
    relu: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """f(x W + b) [T, F] in `dtype`, by way of the difference to the originals; f: ReLU, or nothing.

    x [T, D] contiguous, float32 or 16 bits. inputs [R, D] and products [R, F] float32 contiguous: of the originals, the bias
    in the products. row [T] int32: the original's row of every row. weight [D, F]: 16 bits laid out as its transpose, or 8.
    Raises ValueError when shapes or dtypes are wrong.
    """
    shape = tuple((weight.weight if isinstance(weight, EightBit) else weight).shape)
    if (x.shape[1], products.shape[1]) != shape or inputs.shape != (len(products), x.shape[1]):
        raise ValueError(
            f"x {tuple(x.shape)}, inputs {tuple(inputs.shape)}, products {tuple(products.shape)} and weight {shape} disagree"
        )
    if inputs.dtype != torch.float32 or products.dtype != torch.float32 or row.dtype != torch.int32:
        raise ValueError(
            f"inputs are {inputs.dtype}, products {products.dtype}, row {row.dtype}: must be float32 and int32"
        )
    if tuple(row.shape) != (len(x),):
        raise ValueError(f"row is {tuple(row.shape)} for {len(x)} rows: give one of each")
    out = torch.empty(len(x), shape[1], dtype=dtype, device=x.device)
    if len(x) and runs_triton(x):
        launch_difference_product(x, inputs, products, row, weight, relu, out)
        return out
    total = out if dtype == torch.float32 else torch.empty(out.shape, device=x.device)
    difference_product_reference(x, inputs, products, row, weight, relu, total)
    return total if total is out else out.copy_(total)
