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


def of_a_batch(rows: list[dict], name: str) -> Counter[str]:
    """What the second and third batch of a screen cost on top of the first, each."""
    one, three = (Counter(row[name]) for row in rows)
    return Counter({key: (three[key] - one[key]) / 2 for key in one | three})


@pytest.mark.slow
def test_the_branch_for_a_gpu_computes_what_the_cpu_does(counted):
    for rows in counted.values():
        for row in rows:
            assert row["off"] < 0.1 * row["spread"], row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "launches", "blocking", "waits"),
    [("one cell", 94, 1, 0), ("overexpress", 102, 1, 0), ("cls, one cell", 169, 2, 0)],
)
def test_a_batch(counted, case, launches, blocking, waits):
    """Five layers of a V1 model, eleven of a V2 model and its <cls> rows."""
    counts = of_a_batch(counted[case], "counts")
    assert counts["launch"] + counts["triton"] <= launches, of_a_batch(counted[case], "kernels")
    assert counts["blocking"] <= blocking
    assert counts["wait"] <= waits


@pytest.mark.slow
def test_all_that_a_group_waits_for(counted):
    for case, rows in counted.items():
        assert sum(rows[0]["stalls"].values()) <= 5, (case, rows[0]["stalls"])


@pytest.mark.slow
def test_lists_of_many_lengths_launch_what_lists_of_one_length_do(counted):
    one, many = (counted[f"gene list, {n}"][0] for n in ("one length", "twelve lengths"))
    assert many["kernels"] == one["kernels"]
    assert many["stalls"] == one["stalls"]
