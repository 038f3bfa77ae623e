"""Compiles every kernel, as its launcher would launch it, for GPUs that need not be there; prints one JSON line a kernel.

`python compile_kernels.py cuda:80 hip:gfx942`. A stub takes the place of Triton's driver and launches become warm-ups, so
block sizes, warps and argument specialisation are those of the launchers. It cannot share a process with the interpreter.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile

os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-kernels-")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.jit import JITFunction

from rankshift.kernels.add_norm import launch_add_norm
from rankshift.kernels.cosine_shift import launch_cosine_shift, prepare_base
from rankshift.kernels.difference_product import launch_difference_product
from rankshift.kernels.eight_bit import EightBit
from rankshift.kernels.first_layer import launch_first_layer
from rankshift.kernels.first_row_attention import launch_first_row_attention
from rankshift.kernels.narrow_layer import launch_perceptron_norm, launch_product_norm
from rankshift.kernels.perturbed_lists import NOWHERE, PerturbedLists
from rankshift.kernels.rank_shift import EmbeddingTables, launch_rank_shift
from rankshift.kernels.row_cosines import launch_means, launch_row_cosines
from rankshift.kernels.token_rows import launch_token_rows
from rankshift.kernels.varlen_attention import launch_varlen_attention

TOKENS, LISTS = 2048, 64
WIDTHS = (256, 512, 768, 896, 1152)
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


class AbsentDevice(DriverBase):
    """A driver that knows its target and nothing else."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError

    def get_benchmarker(self):
        raise NotImplementedError

    def get_device_interface(self):
        return None


def report(kernel: str, target: GPUTarget, label: str, compiled, log: str) -> None:
    if target.backend == "cuda":
        spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", log)]
        registers = [int(n) for n in re.findall(r"Used (\d+) registers", log)]
    else:
        assembly = compiled.asm["amdgcn"]
        spills = [int(n) for n in re.findall(r"\.vgpr_spill_count:\s*(\d+)", assembly)]  # scalars spill into lanes
        registers = [int(n) for n in re.findall(r"\.vgpr_count:\s*(\d+)", assembly)]
    binary = "cubin" if target.backend == "cuda" else "hsaco"
    print(
        json.dumps(
            {
                "kernel": kernel,
                "target": f"{target.backend}:{target.arch}",
                "case": label,
                "binary_bytes": len(compiled.asm[binary]),
                "shared_bytes": compiled.metadata.shared,
                "registers": max(registers),
                "spills": max(spills),
            }
        ),
        flush=True,
    )


def compile_for(target: GPUTarget) -> None:
    triton.runtime.driver.set_active(AbsentDevice(target))
    label = ""

    def warm_up(self, grid):
        def launch(*args, **kwargs):
            self.device_caches.clear()
            log = io.StringIO()
            with contextlib.redirect_stdout(log):
                compiled = self.warmup(*args, grid=grid, **kwargs)
            report(self.__name__, target, label, compiled, log.getvalue())

        return launch

    JITFunction.__getitem__ = warm_up

    for dims, dtype, edits in [
        *((d, F32, k) for d in WIDTHS for k in (1, 2)), (1152, F32, 3), (1152, BF16, 3), (256, F16, 1),
    ]:  # fmt: skip
        label = f"D={dims} {dtype} K={edits}"
        lists = PerturbedLists.pack(
            ids=torch.zeros(TOKENS), base=torch.zeros(LISTS), base_length=torch.full((LISTS,), TOKENS),
            length=torch.full((LISTS,), TOKENS), source=torch.full((LISTS, edits), NOWHERE),
            destination=torch.full((LISTS, edits), NOWHERE), token=torch.full((LISTS, edits), -1),
        )  # fmt: skip
        row, table = torch.zeros(dims, dtype=dtype), torch.zeros(TOKENS, dims, dtype=dtype)
        tables = EmbeddingTables(word=table, position=table, type_row=row, gamma=row, beta=row)
        hidden = torch.empty(lists.rows, dims, dtype=dtype)
        launch_rank_shift(lists, tables, hidden)
        base = prepare_base(table, torch.tensor([0]), torch.tensor([TOKENS]))
        sums = launch_cosine_shift(base, hidden, lists, edits == 2)[2]
        launch_row_cosines(sums, lists.length, 2, lists.base, base.pooled, torch.zeros(3, dims))
        launch_means(sums, lists.length, 2)
        if dtype == F32:
            launch_first_row_attention(
                hidden, torch.zeros(LISTS, max(4, dims // 64), dims), torch.arange(LISTS + 1), TOKENS
            )
            launch_token_rows(lists.base, lists.base, tables)
    for heads, head_dims, dtype, moved in [
        (4, 64, F16, False), (4, 64, F16, True), (18, 64, BF16, True), (4, 64, F32, True), (4, 16, F16, True),
    ]:  # fmt: skip
        label = f"H={heads} E={head_dims} {dtype} extra={moved}"
        rows = torch.zeros(TOKENS, 3 * heads * head_dims, dtype=dtype)
        out = torch.empty(LISTS, TOKENS - 1 + moved, heads * head_dims, dtype=dtype)
        launch_first_layer(rows, rows, rows[:LISTS] if moved else None, torch.arange(LISTS), 0, heads, out)
    for dims, dtype in [(d, F16) for d in WIDTHS] + [(256, BF16)]:
        label = f"D={dims} {dtype}"
        row, half = torch.zeros(dims), torch.zeros(TOKENS, dims, dtype=dtype)
        launch_add_norm(torch.zeros(TOKENS, dims), half, row, row, 1e-12, half)
    for dims, inner, dtype in [(256, 512, F16), (256, 512, BF16), (128, 256, F16)]:
        label = f"D={dims} F={inner} {dtype}"
        x, row, bias = torch.zeros(TOKENS, dims), torch.zeros(dims), torch.zeros(inner, dtype=dtype)
        up, down, a = (torch.zeros(*shape, dtype=dtype) for shape in ((inner, dims), (dims, inner), (TOKENS, dims)))
        launch_product_norm(x, a, torch.zeros(dims, dims, dtype=dtype).T, bias[:dims], row, row, 1e-12)
        launch_perceptron_norm(x, up.T, bias, down.T, bias[:dims], row, row, 1e-12)
    for inner, outer, bits, relu, output in [
        (256, 768, F16, False, F16), (256, 256, F16, False, F32), (256, 512, BF16, True, F32), (4608, 1152, BF16, False, F32),
        (256, 768, torch.int8, False, F16), (768, 3072, torch.int8, True, F32), (4608, 1152, torch.int8, False, F32),
    ]:  # fmt: skip
        label = f"D={inner} F={outer} {bits} into {output}"
        weight = torch.zeros(outer, inner, dtype=bits).T
        few = EightBit(weight, torch.zeros(outer)) if bits == torch.int8 else weight
        x = torch.zeros(TOKENS, inner, dtype=F16 if outer == inner else F32)
        originals = torch.zeros(LISTS, inner), torch.zeros(LISTS, outer), torch.zeros(TOKENS, dtype=torch.int32)
        launch_difference_product(x, *originals, few, relu, torch.empty(TOKENS, outer, dtype=output))
    for heads, head_dims, dtype in [(4, 64, F16), (12, 64, BF16), (4, 32, F16), (4, 128, BF16)]:
        label = f"H={heads} E={head_dims} {dtype}"
        rows = torch.zeros(TOKENS, 3 * heads * head_dims, dtype=dtype)
        out = torch.empty(TOKENS, heads * head_dims, dtype=dtype)
        launch_varlen_attention(rows, torch.tensor([0, 5, TOKENS]), TOKENS - 5, heads, out)


if __name__ == "__main__":
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.always_compile = True
    for name in sys.argv[1:]:
        backend, arch = name.split(":")
        compile_for(GPUTarget("cuda", int(arch), 32) if backend == "cuda" else GPUTarget("hip", arch, 64))
