"""Every kernel compiles to machine code for the GPUs in use, spills no register and fits into their shared memory."""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SHARED_LIMIT = {"cuda:80": 166912, "cuda:90": 232448, "cuda:100": 232448, "hip:gfx942": 65536}
KERNELS = {
    "first_row_logits_kernel",
    "first_row_sums_kernel",
    "product_norm_kernel",
    "perceptron_norm_kernel",
    "rank_shift_kernel",
    "row_cosines_kernel",
    "token_rows_kernel",
    "cosine_shift_kernel",
    "shared_rows_kernel",
    "extra_rows_kernel",
    "varlen_attention_kernel",
    "add_norm_kernel",
    "difference_product_kernel",
}


def compiled_for(target: str) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "compile_kernels.py"), target],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"kernel"')]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton on this platform")
def test_every_kernel_compiles_for_every_target():
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        found = dict(zip(SHARED_LIMIT, pool.map(compiled_for, SHARED_LIMIT), strict=True))
    for target, rows in found.items():
        assert {row["kernel"] for row in rows} == KERNELS, target
        for row in rows:
            assert row["target"] == target
            assert row["binary_bytes"] > 0, row
            assert row["spills"] == 0, row
            assert row["shared_bytes"] <= SHARED_LIMIT[target], row
