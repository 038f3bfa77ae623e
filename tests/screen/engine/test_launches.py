"""What a screen asks of a GPU, counted on pretended tensors: launches, copies and waits of a batch. Ceilings may only fall."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton on this platform")


@pytest.fixture(scope="module")
def counted() -> dict[str, list[dict]]:
    """The rows of `count_launches.py` by case: all lists in one batch, then in three where the case is a cell of 140 genes."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "count_launches.py")],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, list[dict]] = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        found.setdefault(row["case"], []).append(row)
    return found


@pytest.mark.slow
def test_weights_of_8_bits_lie_as_cublas_reads_them(counted):
    """By columns: [D, F] with D values of a column side by side, also of a part of the columns."""
    assert counted["8 bits"][0]["strides"] == [[1, 64], [1, 64], [1, 64]]


@pytest.mark.slow
def test_bytes_of_a_layer_and_token(counted):
    """By part, in D bytes: qkv 8, attention 8; of narrow layers projection 10 and perceptron 10, each with add and norm.

    Of wider ones projection 4, add and norm 12 twice, inner products 12 (F = 2D) or 20 (4D).
    """
    assert counted["bytes V1"][0]["per dim"] == pytest.approx(36, abs=0.2)
    assert counted["bytes V2"][0]["per dim"] == pytest.approx(64, abs=0.2)


def of_a_batch(rows: list[dict], name: str) -> Counter[str]:
    """What the second and third batch of a screen cost on top of the first, each."""
    one, three = (Counter(row[name]) for row in rows)
    return Counter({key: (three[key] - one[key]) / 2 for key in one | three})


@pytest.mark.slow
def test_the_branch_for_a_gpu_computes_what_the_cpu_does(counted):
    for rows in counted.values():
        for row in rows:
            assert row.get("off", 0.0) <= 0.1 * row.get("spread", 0.0), row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "launches", "blocking", "waits"),
    [("one cell", 29, 0, 0), ("overexpress", 30, 0, 0), ("cls, one cell", 90, 0, 0)],
)
def test_a_batch(counted, case, launches, blocking, waits):
    """Five layers of a V1 model, eleven of a V2 model and its <cls> rows."""
    counts = of_a_batch(counted[case], "counts")
    assert counts["launch"] + counts["triton"] <= launches, of_a_batch(counted[case], "kernels")
    assert counts["blocking"] <= blocking
    assert counts["wait"] <= waits


@pytest.mark.slow
def test_a_group_waits_once(counted):
    """For its results, which come in one copy."""
    for rows in counted.values():
        for row in rows:
            assert row.get("stalls", {"cpu": 1}) == {"cpu": 1}, row


@pytest.mark.slow
@pytest.mark.parametrize("measured", ["gene", "cls"])
def test_lists_of_many_lengths_launch_what_lists_of_one_length_do(counted, measured):
    one, many = (counted[f"{measured} list, {n}"][0] for n in ("one length", "twelve lengths"))
    assert many["kernels"] == one["kernels"]
    assert many["stalls"] == one["stalls"]
