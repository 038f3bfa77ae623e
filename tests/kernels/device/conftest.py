"""The Triton kernels against their torch references: on the GPU where there is one, else in Triton's interpreter.

The interpreter must be chosen before Triton is imported and slows every kernel of the process down, so without a GPU these
files are collected only in a process of their own (`test_interpreter.py` starts it).
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]

# One rounding of the output: half a unit in the last place of 11 and 8 bits; float32 differs by the order of sums.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def _round_to_bfloat16(values):
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, np.uint16(0x7FC0), rounded).reshape(np.shape(values))


def _widen_bfloat16(values):
    import numpy as np

    return (np.ascontiguousarray(values).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(values))


@pytest.fixture(scope="session", autouse=True)
def interpreter_knows_bfloat16():
    """The interpreter (Triton 3.6 to 3.9) truncates casts to bfloat16 and multiplies its raw bits in a dot; a GPU does not."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def exact_cast(self, source, target):
        pair = source.dtype.scalar, target.scalar
        if pair == (tl.float32, tl.bfloat16):
            return TensorHandle(_round_to_bfloat16(source.data), tl.bfloat16)
        if pair == (tl.bfloat16, tl.float32):
            return TensorHandle(_widen_bfloat16(source.data), tl.float32)
        return cast(self, source, target)

    def exact_dot(self, a, b, d, *rest):
        a, b = (
            TensorHandle(_widen_bfloat16(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)
        )
        return dot(self, a, b, d, *rest)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = exact_cast, exact_dot
    yield
    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast, dot


@pytest.fixture(scope="session")
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["float32", "float16", "bfloat16"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture
def tolerance(dtype) -> float:
    return TOLERANCE[dtype]
