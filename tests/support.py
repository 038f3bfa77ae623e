"""What several test files need; no test of its own."""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"  # values of the published code

# The screen of several shards that is repeated in processes, on workers and in buckets; the fixture `alone` has its rows.
SCREEN = {"perturb": "delete", "embedding": "cell", "shard_tokens": 600}
ROWS = "FROM shifts ORDER BY cell, perturbation"

DEMO = {"--max-cells": 12, "--input-size": 128, "--epochs": 1}  # of the fixture `finished`, a demo in small

LEVEL = {"v1": "cell", "v2": "cls"}  # the embedding that the golden values of a generation are of


def golden_cases(name: str) -> dict[str, dict[str, Any]]:
    """{generation: {case: values}} of the published code: "shifts" or "embeddings"."""
    files = {g: GOLDEN / g / f"{name}.json.gz" for g in LEVEL}
    return {g: json.loads(gzip.decompress(file.read_bytes())) for g, file in files.items()}


def until(true: Callable[[], bool], seconds: float = 600.0) -> None:
    """Wait until it is true; the seconds are those of a hopeless case, a busy machine needs many."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
