"""The benchmark runs end to end and agrees with transformers; what the roofline counts is what torch counts."""

import csv
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from benchmarks.scale import QUERIES, Atlas
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.batches import batches, join
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import edits_of
from support import PATIENCE, ROOT


@pytest.fixture(scope="module")
def roofline() -> ModuleType:
    """benchmarks/roofline.py, which no installed package holds."""
    spec = importlib.util.spec_from_file_location("roofline", ROOT / "benchmarks" / "roofline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["roofline"] = module  # where dataclasses look for the module they are in
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_smallest_case_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "benchmarks.bench", "--quick", "--only", "V1-10M-200-delete-float32"]
    subprocess.run([*command, "--csv", str(out)], cwd=ROOT, check=True, timeout=PATIENCE)
    with out.open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["max_deviation"]) < 1e-5
    assert float(row["spread"]) > 1e-5, "perturbations must differ, or agreement says nothing"
    assert row["case"] == "V1-10M-200-delete-float32"
    assert int(row["lists"]) >= int(row["stock_lists"]) == 8


@pytest.mark.slow
def test_the_first_hour_on_a_gpu_is_rehearsed_on_a_cpu() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    facts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ended = {fact["part"]: fact["error"] for fact in facts if "seconds" in fact}
    parts = ["environment", "attention", "passes", "numbers", "memory", "screens", "budgets", "kernels"]
    assert ended == dict.fromkeys(parts), ended
    assert done.returncode == 0, done.stderr[-2000:]
    off = {fact["dtype"]: fact["off"] / fact["spread"] for fact in facts if "dtype" in fact}
    assert off["float32"] < 1e-5
    assert 0 < off["float16"] < off["bfloat16"] < 0.1
    assert all(fact["repeats"] for fact in facts if "repeats" in fact)


@pytest.mark.slow
def test_unknown_case_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "--only", "V9", "--csv", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "no case matches 'V9'" in done.stdout
    assert not out.exists()


@pytest.mark.parametrize(("model", "tokens"), [("V1-10M", 600), ("V2-104M", 1024)])
@pytest.mark.parametrize("head", [False, True])
def test_flops_of_transformers(roofline: ModuleType, model: str, tokens: int, head: bool) -> None:
    shape = roofline.SHAPES[model]
    with torch.device("meta"):
        whole = BertForMaskedLM(
            BertConfig(
                vocab_size=shape.vocab,
                hidden_size=shape.width,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=shape.inner,
                max_position_embeddings=shape.positions,
            )
        )
        with FlopCounterMode(display=False) as counter:
            (whole if head else whole.bert)(torch.zeros(1, tokens, dtype=torch.long))
    skips = frozenset() if head else frozenset({"head"})
    counted = sum(o.flops for o in roofline.operations(shape, tokens, skips=skips, half=False))
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(("model", "each"), [("V1-10M", 36), ("V2-104M", 64)])
def test_bytes_of_a_layer_are_those_that_are_counted(roofline: ModuleType, model: str, each: int) -> None:
    """Of a token and dimension, as `test_launches.py` counts them: roofline's own layers are 5 and 4 full ones."""
    skips, n = frozenset({"head"}), 100
    shape = replace(roofline.SHAPES[model], framed=False)
    five, four = (
        sum(o.bytes for o in roofline.operations(replace(shape, layers=layers), n, skips=skips, half=True))
        for layers in (5, 4)
    )
    assert (five - four) / (n * shape.width) == each


@pytest.mark.parametrize("shared", [False, True])
def test_flops_of_the_engine(
    roofline: ModuleType, bundles: dict[str, Path], generation: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundles[generation])
    config, framed = bundle.config, generation == "v2"
    shape = roofline.Shape(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        positions=config["max_position_embeddings"],
        vocab=config["vocab_size"],
        framed=framed,
    )
    # In bfloat16 a CPU multiplies by operators that torch counts; in float32 it adds products in place, uncounted.
    encoder = Encoder(bundle, dtype="bfloat16", share_first_layer=shared)
    monkeypatch.setattr(encoder, "_threads", None)  # a counter counts its own thread
    genes = np.flatnonzero(bundle.vocabulary.is_gene)
    n = min(64, len(genes), bundle.input_size)
    ids = np.random.default_rng(0).permutation(genes)[:n].astype(np.int32)
    if framed:
        ids[0], ids[-1] = bundle.special.cls, bundle.special.eos
    perturb = asked(kind="delete", how="each", genes=None, frame=Frame.of_record(framed), limit=bundle.input_size)
    edits = edits_of(ids, perturb)
    lists = join([edits], np.zeros(1, int), np.array([n]), [np.zeros(len(edits), int)])
    parts = batches(torch.from_numpy(ids), lists, 10**6)
    with FlopCounterMode(display=False) as counter:
        for _ in encoder.map(parts, lambda block, rows: 0, layers=shape.layers - 1, first_rows=framed):
            pass
    counted = roofline.screen_flops(shape, n - 1, shared=shared, lists=len(edits), device="cpu") * len(edits)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_run_that_is_asked_has_each_gene_of_a_cell_once(tmp_path: Path) -> None:
    """Of benchmarks/scale.py, whose queries all answer."""
    run, _ = Atlas(cells=25, genes=60, per_cell=12).run(tmp_path / "run")
    assert run.manifest.shards == 3, "ten cells a part"
    found = {name: run.sql(query).num_rows for name, query in QUERIES.items()}
    (genes,) = run.sql("SELECT count(DISTINCT gene_ids) AS n FROM shifts")["n"].to_pylist()
    pairs = run.sql("SELECT cell, perturbation FROM shifts GROUP BY ALL").num_rows
    assert pairs == 25 * 12
    assert found["count"] == 1
    assert found["mean by gene"] == 20
    assert found["limit 5"] == 5
    assert genes <= found["top genes"] <= 3 * genes


def test_bytes_of_products_on_differences(roofline: ModuleType) -> None:
    """Of V1-10M by hand: x of 256, 256, 256 and 512 numbers, the output's in 16 bits; y of 768 in 16 bits, 256, 512 and 256."""
    found = roofline.product_times(roofline.SHAPES["V1-10M"], roofline.GPUS["H100 SXM"])
    cached, fetched = (found[f"differences in 8 bits, originals {where}"] for where in ("in cache", "from memory"))
    assert cached[0] == 4 * (256 + 256 + 512) + 2 * 256 + 2 * 768 + 4 * (256 + 512 + 256)
    assert fetched[0] - cached[0] == 4 * (8 * 256 + 2 * 512)  # what a row of an original keeps of a layer
    assert cached[1] < fetched[1]
