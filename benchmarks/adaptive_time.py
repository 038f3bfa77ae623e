"""Adaptive screens by the clock: processor seconds beside those of the full screen of the same cells, by size of the model.

    rankshift demo --out demo --workers 0 --max-cells 10
    python -m benchmarks.adaptive_time demo [--cells 69]

The 0 h cells of the demo, overexpression towards 72 h, float32, one thread, both in one process, without start-up. Of the full
screen the first cells are computed and counted for all, because every cell has 512 lists. Models: the fine-tuned one of the
demo, which measures one layer; and one of six layers of the shape of V1-10M with drawn weights, which measures five.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from rankshift.screen.adaptive.here import run_here
from rankshift.screen.bundle.bundle import make_bundle
from rankshift.screen.engine.options import Adaptive, Options
from rankshift.screen.runs.run import Run

SHAPE = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
FULL_CELLS = 4
TOP, MIN_CELLS = 100, 3


def six_layers(demo: Path, folder: Path) -> tuple[Path, Path]:
    """A bundle with drawn weights over the demo's vocabulary, and two drawn states."""
    config = json.loads((demo / "bundle/config.json").read_text())
    torch.manual_seed(0)
    sizes = {name: config[name] for name in ("vocab_size", "max_position_embeddings")}
    model = BertForMaskedLM(BertConfig(**SHAPE, **sizes, hidden_act="relu"))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.3 if "embeddings" in key else 0.08)
    model.save_pretrained(folder / "checkpoint")
    make_bundle(folder / "checkpoint", demo / "vocabulary.parquet", folder / "bundle")
    random = np.random.default_rng(0)
    (folder / "states.json").write_text(json.dumps({s: random.normal(size=256).tolist() for s in ("0", "72")}))
    return folder / "bundle", folder / "states.json"


def spent(work: Callable[[], Run]) -> tuple[float, Run]:
    """Processor seconds, and the run that was made."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def row(name: str, demo: Path, bundle: Path, states: Path, cells: int, folder: Path) -> str:
    """A row of the table."""
    route = {"states": states, "state_key": "hours", "start": "0", "goal": "72", "dtype": "float32"}

    def asked(count: int) -> Options:
        return Options(perturb="overexpress", max_cells=count, **route)

    table = demo / "cells.parquet"
    run_here(table, bundle, folder / "warm", asked(1))
    full, whole = spent(lambda: run_here(table, bundle, folder / "full", asked(FULL_CELLS)))
    adaptive = Adaptive(top=TOP, min_cells=MIN_CELLS)
    said: list[str] = []
    part, made = spent(
        lambda: run_here(table, bundle, folder / "top", asked(cells), adaptive=adaptive, say=said.append)
    )
    lists = made.manifest.lists or 0
    full *= lists / (whole.manifest.lists or 1)
    passes = next(words for line in said for words in line.split("; ") if "passes of the full" in words)
    return f"| {name} | {lists:,} | {passes.split('%')[0]} % | {part:.1f} | {full:.0f} | {part / full:.1%} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--cells", type=int, default=69)
    arguments = parser.parse_args()
    demo = arguments.demo.resolve()
    torch.set_num_threads(1)
    print("| model | lists of the full screen | passes | adaptive, s | full, s | time |\n|---|---|---|---|---|---|")
    for layers in (1, 5):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if layers == 1:
                bundle, states = demo / "finetuned/bundle", demo / "finetuned/states.json"
                name = "fine-tuned demo, 1 layer of 128"
            else:
                bundle, states = six_layers(demo, folder)
                name = "drawn, 5 layers of 256"
            print(row(name, demo, bundle, states, arguments.cells, folder), flush=True)


if __name__ == "__main__":
    main()
