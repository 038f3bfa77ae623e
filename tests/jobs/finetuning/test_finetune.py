"""Fine-tuning from labels to a bundle: what is learnt, how it opens in transformers, how it screens, how it goes on."""

import json
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from rankshift.jobs.cli import run_command
from rankshift.jobs.finetuning.finetune import finetune
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.finetuning.preparation import FinetuneJob, prepare
from rankshift.jobs.training.gang import Rank
from rankshift.screen import run as screen
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError, Stopped
from rankshift.screen.genes.framing import Frame
from rankshift.screen.genes.vocabulary import Vocabulary, make_vocabulary
from support import random_bundle

pytestmark = pytest.mark.usefixtures("one_thread")

GENES, CELLS = 24, 60
QUIET = {"say": lambda line: None}
FAST = {"epochs": 6, "batch_tokens": 150, "learning_rate": 1e-2, "warmup": 0.1}


def vocabulary(framed: bool) -> Vocabulary:
    names = ["<pad>", "<mask>", *(["<cls>", "<eos>"] if framed else []), *(f"ENSG{i:011d}" for i in range(GENES))]
    return make_vocabulary({name: token for token, name in enumerate(names)})


def kinds_of_cells(table: Vocabulary) -> Cells:
    """Cells of three kinds: 8 to 12 genes, most from the third of the genes that is their kind's."""
    rng, first, framed = np.random.default_rng(3), int(np.argmax(table.is_gene)), table.special.cls is not None
    lists, columns = [], {"kind": [], "sex": [], "donor": [], "dose": []}
    for i in range(CELLS):
        kind = i % 3
        own, other = rng.permutation(GENES // 3), rng.permutation(GENES)[:4]
        mixed = first + np.concatenate([own + kind * GENES // 3, other])
        genes = np.array(list(dict.fromkeys(mixed.tolist())))[: rng.integers(8, 12)]
        lists.append(np.concatenate([[table.special.cls], genes, [table.special.eos]]) if framed else genes)
        columns["kind"].append(["muscle", "blood", "nerve"][kind])
        columns["sex"].append(["f", "m"][int(first in genes)] if i % 7 else None)
        columns["donor"].append(f"d{i // 3 % 6}")
        columns["dose"].append(float(100 + 10 * kind))
    offsets = np.cumsum([0, *map(len, lists)])
    obs = pa.table({"cell_id": [f"c{i}" for i in range(CELLS)], **columns})
    return Cells(ids=np.concatenate(lists).astype(np.int32), offsets=offsets, obs=obs, frame=Frame.of_record(framed))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """(cells, bundle) of either generation; the encoder has random weights, of a masked model."""
    out = {}
    for generation, framed in (("v1", False), ("v2", True)):
        folder, table = tmp_path_factory.mktemp(generation), vocabulary(framed)
        kinds_of_cells(table).write(folder / "cells.parquet", table)
        out[generation] = folder / "cells.parquet", random_bundle(folder, table, dropout=0.02)
    return out


@pytest.fixture(scope="module")
def tuned(inputs, tmp_path_factory) -> dict[str, Bundle]:
    """A cell classifier of either generation."""
    options = Finetuning(task="cell", label=("kind",), baseline=True, **FAST)
    out = tmp_path_factory.mktemp("tuned")
    return {name: finetune(*paths, out / name, options, **QUIET) for name, paths in inputs.items()}


def metrics(bundle: Bundle) -> dict:
    return json.loads((bundle.path / "evaluation" / "metrics.json").read_text())


def predictions(bundle: Bundle, name: str = "") -> list[dict]:
    return pq.read_table(bundle.path / "evaluation" / name / "predictions.parquet").to_pylist()


@pytest.mark.slow
def test_it_learns_the_kinds_of_cells(tuned, generation):
    found = metrics(tuned[generation])
    assert found["tasks"]["kind"]["final"]["macro_f1"] > 0.9
    assert found["tasks"]["kind"]["final"]["n"] == 12
    assert found["baseline"]["kind"]["final"]["n"] == 12
    assert tuned[generation].config["id2label"] == {"0": "blood", "1": "muscle", "2": "nerve"}
    rows = predictions(tuned[generation])
    assert list(rows[0]) == [
        "cell_id", "fold", "split", "true", "predicted",
        "probability_blood", "probability_muscle", "probability_nerve",
    ]  # fmt: skip
    assert {(row["fold"], row["split"]) for row in rows} == {(None, "test")}
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert right / 12 == pytest.approx(found["tasks"]["kind"]["final"]["accuracy"])
    files = {p.name for p in (tuned[generation].path / "evaluation").iterdir()}
    assert files == {"metrics.json", "predictions.parquet", "confusion.png", "roc.png", "predictions.png"}
    assert (tuned[generation].path / "metrics" / "final" / "metrics.csv").is_file()


@pytest.mark.slow
def test_plain_transformers_give_the_same_probabilities(tuned, inputs):
    """The readout of V2 is <cls>, of V1 the mean over genes of a token classifier's logits, as config.json says."""
    for generation, kind in (("v1", BertForTokenClassification), ("v2", BertForSequenceClassification)):
        bundle = tuned[generation]
        assert bundle.config["architectures"] == [kind.__name__]
        assert bundle.config["finetuning"]["pool"] == {"v1": "mean", "v2": "cls"}[generation]
        assert bundle.config["finetuning"]["reading"].startswith(kind.__name__)
        model = kind.from_pretrained(bundle.path).eval()
        cells = Cells.read(inputs[generation][0], bundle)
        for row in predictions(bundle):
            ids = torch.tensor(cells.ids_of(int(row["cell_id"][1:])).astype(np.int64))[None]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0]
            given = (logits.mean(0) if generation == "v1" else logits).softmax(-1).numpy()
            ours = [row[f"probability_{name}"] for name in ("blood", "muscle", "nerve")]
            np.testing.assert_allclose(given, ours, atol=1e-5)


@pytest.mark.slow
def test_it_screens_and_embeds_like_a_pretrained_bundle(tuned, inputs, generation, tmp_path):
    """Layer -1 is the second to last of the fine-tuned encoder, as it is of the pretrained one."""
    cells, pretrained = inputs[generation]
    bundle = tuned[generation]
    ours = {}
    for name, path in (("before", pretrained), ("after", bundle.path)):
        made = screen(cells, path, tmp_path / name, perturb="delete", max_cells=2, layer=-1)
        ours[name] = made.manifest["layers"], len(made.sql("SELECT * FROM shifts"))
    assert ours["before"] == ours["after"]
    assert ours["after"][0] == 1
    table = Cells.read(cells, bundle)
    model = BertModel.from_pretrained(bundle.path).eval()
    for layer in (1, 2):
        vectors = embed(table, Encoder(bundle), level="cell", layer_count=layer, tokens=500)
        ids = torch.tensor(table.ids_of(5).astype(np.int64))[None]
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
        rows = hidden[1:-1] if table.frame.head else hidden
        np.testing.assert_allclose(vectors[5], rows.mean(0).numpy(), atol=1e-5)


@pytest.mark.slow
def test_folds_hold_donors_whole_and_judge_every_cell(inputs, tmp_path):
    options = Finetuning(
        task="cell", label=("kind",), split_by="donor", test=0.0, folds=3, baseline=True, **{**FAST, "epochs": 2}
    )
    made = finetune(*inputs["v1"], tmp_path / "b", options, **QUIET)
    rows = predictions(made)
    donor = dict(
        zip(*Cells.read(inputs["v1"][0], made).obs.select(["cell_id", "donor"]).to_pydict().values(), strict=True)
    )
    assert sorted(row["cell_id"] for row in rows) == sorted(donor)
    folds_of: dict[str, set[int]] = {}
    for row in rows:
        folds_of.setdefault(donor[row["cell_id"]], set()).add(row["fold"])
    assert all(len(folds) == 1 for folds in folds_of.values())
    found = metrics(made)
    assert found["tasks"]["kind"]["mean"]["folds"] == len(found["baseline"]["kind"]["folds"]) == 3
    assert "final" not in found["tasks"]["kind"]


@pytest.mark.slow
def test_genes_are_judged_by_gene_and_by_place(inputs, tmp_path):
    """A class of genes is the kind of cell they belong to; genes are split, cells are not."""
    ids = [f"ENSG{i:011d}" for i in range(GENES)]
    classes = {"first": [*ids[:8], "ENSG99999999999"], "second": ids[8:16]}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    said: list[str] = []
    options = Finetuning(task="gene", genes=tmp_path / "classes.json", folds=2, **{**FAST, "epochs": 8})
    made = finetune(*inputs["v1"], tmp_path / "b", options, say=said.append)
    assert "1 genes are not in the vocabulary: ENSG99999999999" in said
    genes, places = predictions(made, "genes"), predictions(made, "places")
    tested = [row["ensembl_id"] for row in genes if row["split"] == "test"]
    learnt = [row["ensembl_id"] for row in genes if row["split"] == "fold"]
    assert (len(tested), len(learnt)) == (3, 13)
    assert not set(tested) & set(learnt)
    assert {row["ensembl_id"] for row in places} == set(tested) | set(learnt)
    model = BertForTokenClassification.from_pretrained(made.path).eval()
    cells = Cells.read(inputs["v1"][0], made)
    found = []
    for row in (row for row in places if row["split"] == "test" and row["ensembl_id"] == tested[0]):
        ids_of = torch.tensor(cells.ids_of(int(row["cell_id"][1:])).astype(np.int64))[None]
        assert made.vocabulary.ensembl_id[int(ids_of[0, row["place"]])] == tested[0]
        with torch.no_grad():
            given = model(input_ids=ids_of).logits[0, row["place"]].softmax(-1).numpy()
        np.testing.assert_allclose(given, [row["probability_first"], row["probability_second"]], atol=1e-5)
        found.append(given)
    gene = next(row for row in genes if row["ensembl_id"] == tested[0])
    assert gene["cells"] == len(found)
    np.testing.assert_allclose(np.mean(found, axis=0)[0], gene["probability_first"], atol=1e-5)


@pytest.mark.slow
def test_several_tasks_share_an_encoder_that_was_pretrained(inputs, tmp_path):
    options = Finetuning(task="multitask", label=("kind", "sex"), task_weights=(1.0, 0.5), **FAST)
    made = finetune(*inputs["v2"], tmp_path / "b", options, **QUIET)
    outputs = made.config["finetuning"]["outputs"]
    assert outputs["kind"] == {"from": 0, "to": 3, "classes": ["blood", "muscle", "nerve"], "weight": 1.0}
    assert outputs["sex"] == {"from": 3, "to": 5, "classes": ["f", "m"], "weight": 0.5}
    assert made.config["id2label"]["4"] == "sex=m"
    assert metrics(made)["tasks"]["kind"]["final"]["macro_f1"] > 0.8
    model = BertForSequenceClassification.from_pretrained(made.path).eval()
    cells = Cells.read(inputs["v2"][0], made)
    row = predictions(made, "sex")[0]
    assert all(row["true"] in ("f", "m") for row in predictions(made, "sex"))
    with torch.no_grad():
        logits = model(torch.tensor(cells.ids_of(int(row["cell_id"][1:])).astype(np.int64))[None]).logits[0]
    assert float(logits[3:5].softmax(-1)[1]) == pytest.approx(row["probability_m"], abs=1e-5)


def test_the_encoder_begins_with_the_pretrained_weights(inputs):
    from rankshift.jobs.finetuning.models import new_model

    cells, path = inputs["v2"]
    job = FinetuneJob(
        cells=cells, bundle=path, out=Path("x"), options=Finetuning(task="multitask", label=("kind", "sex"))
    )
    model, pretrained = new_model(Bundle.open(path), prepare(job).head), BertForMaskedLM.from_pretrained(path)
    ours = model.state_dict()
    for name, value in pretrained.bert.state_dict().items():
        assert torch.equal(ours[f"bert.{name}"], value), name


@pytest.mark.slow
def test_regression_gives_numbers_in_the_label_s_unit(inputs, tmp_path):
    made = finetune(
        *inputs["v1"], tmp_path / "b", Finetuning(task="regression", label=("dose",), baseline=True, **FAST), **QUIET
    )
    found = metrics(made)["tasks"]["dose"]["final"]
    assert found["r2"] > 0.7
    assert found["mae"] < 5
    record = made.config["finetuning"]
    assert record["target_mean"] == pytest.approx(110, abs=2)
    assert record["target_sd"] == pytest.approx(8.2, abs=1)
    model = BertForTokenClassification.from_pretrained(made.path).eval()
    cells = Cells.read(inputs["v1"][0], made)
    for row in predictions(made)[:3]:
        with torch.no_grad():
            ids = torch.tensor(cells.ids_of(int(row["cell_id"][1:])).astype(np.int64))[None]
            assert float(model(ids).logits.mean()) == pytest.approx(row["predicted"], rel=1e-5)


@pytest.mark.slow
def test_adapters_are_merged_and_frozen_layers_stay(inputs, tmp_path):
    options = Finetuning(task="cell", label=("kind",), lora=4, freeze=1, class_weights="balanced", **FAST)
    made = finetune(*inputs["v2"], tmp_path / "b", options, **QUIET)
    before = BertForMaskedLM.from_pretrained(inputs["v2"][1]).bert.state_dict()
    after = BertForSequenceClassification.from_pretrained(made.path)
    assert not [name for name in after.state_dict() if "lora" in name]
    changed = {name for name, value in before.items() if not torch.equal(value, after.bert.state_dict()[name])}
    assert changed == {f"encoder.layer.1.attention.self.{name}.weight" for name in ("query", "value")}


@pytest.mark.slow
def test_frozen_layers_stay_and_the_rest_learns(inputs, tmp_path):
    options = Finetuning(task="cell", label=("kind",), freeze=1, **{**FAST, "epochs": 1})
    made = finetune(*inputs["v1"], tmp_path / "b", options, **QUIET)
    before = BertForMaskedLM.from_pretrained(inputs["v1"][1]).bert.state_dict()
    after = BertForTokenClassification.from_pretrained(made.path).bert.state_dict()
    same = {
        name.split(".")[2] for name in before if name.startswith("encoder") and torch.equal(before[name], after[name])
    }
    assert same == {"0"}
    assert not torch.equal(before["embeddings.word_embeddings.weight"], after["embeddings.word_embeddings.weight"])


class Stopping:
    """A report that asks to stop after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, n: int, note: str = "") -> None:
        self.left -= n > 0

    def stopped(self) -> bool:
        return self.left <= 0


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(inputs, tmp_path):
    options = Finetuning(task="cell", label=("kind",), folds=2, drop_genes=0.2, **{**FAST, "epochs": 2})
    whole = finetune(*inputs["v1"], tmp_path / "whole", options, **QUIET)
    stops = (3, 8)  # within the first fold, and within the second

    def until(after: int):
        return lambda run, job, total: run(Rank(), job, Stopping(after))

    for after in stops:
        with pytest.raises(Stopped):
            finetune(*inputs["v1"], tmp_path / "b", options, resume=True, launch=until(after), **QUIET)
    with pytest.raises(InputError, match=r"b.training is an unfinished training: continue it with --resume"):
        finetune(*inputs["v1"], tmp_path / "b", options, **QUIET)
    with pytest.raises(InputError, match="other cells, labels or options"):
        finetune(*inputs["v1"], tmp_path / "b", replace(options, seed=9), resume=True, **QUIET)
    resumed = finetune(*inputs["v1"], tmp_path / "b", options, resume=True, **QUIET)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert metrics(resumed) == metrics(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "whole"]


@pytest.mark.slow
def test_a_gang_of_two_learns_what_one_does(inputs, tmp_path):
    """Without dropout the numbers do not depend on how many train."""
    options = Finetuning(task="cell", label=("kind",), dropout=0.0, drop_genes=0.2, **{**FAST, "epochs": 2})
    alone = finetune(*inputs["v1"], tmp_path / "alone", options, **QUIET)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous = f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def launch(run, job, total):
        paths = {name: str(getattr(job, name)) for name in ("cells", "bundle", "out")}
        told = json.dumps({"rendezvous": rendezvous, "paths": paths, "options": asdict(job.options)})
        other = subprocess.Popen([sys.executable, str(Path(__file__).with_name("second.py")), told])
        try:
            return run(Rank(number=0, world=2, rendezvous=rendezvous), job, Stopping(10**6))
        finally:
            assert other.wait(60) == 0

    both = finetune(*inputs["v1"], tmp_path / "both", options, launch=launch, **QUIET)
    for one, two in zip(predictions(alone), predictions(both), strict=True):
        assert one["cell_id"] == two["cell_id"]
        assert one["probability_nerve"] == pytest.approx(two["probability_nerve"], abs=1e-4)


def test_a_search_tries_the_given_settings_first_and_keeps_the_best(inputs, tmp_path, ray_cluster):
    options = Finetuning(task="cell", label=("kind",), **{**FAST, "epochs": 3})
    made = finetune(*inputs["v1"], tmp_path / "b", options, trials=2, **QUIET)
    trials = pq.read_table(made.path / "evaluation" / "trials.parquet").to_pylist()
    assert len(trials) == 2
    assert trials[0]["score"] >= trials[1]["score"]
    assert 1e-2 in [trial["learning_rate"] for trial in trials]
    assert made.config["finetuning"]["options"]["learning_rate"] == trials[0]["learning_rate"]
    drawn = next(trial for trial in trials if trial["learning_rate"] != 1e-2)
    assert 1e-6 <= drawn["learning_rate"] <= 1e-3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


@pytest.mark.slow
def test_from_the_command_line(inputs, tmp_path, capfd):
    cells, bundle = inputs["v1"]
    line = ["finetune", str(cells), "--bundle", str(bundle), "--out", str(tmp_path / "b"), "--task", "cell"]
    quick = ["--epochs", "1", "--learning-rate", "0.01", "--batch-tokens", "150", "--class-weights", "balanced"]
    assert run_command([*line, *quick, "--label", "kind", "--where", "sex IS NOT NULL", "--pool", "first"]) == 0
    said = capfd.readouterr().err
    assert "kind: 3 classes: blood (" in said
    assert "kind, held-out: macro F1" in said
    made = Bundle.open(tmp_path / "b")
    assert made.config["architectures"] == ["BertForSequenceClassification"]
    assert (made.config["finetuning"]["options"]["epochs"], made.config["finetuning"]["pool"]) == (1, "first")
    assert run_command([*line, "--label", "age"]) == 2
    assert "b exists: give another --out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "cells"}, "--task 'cells' is unknown: use one of cell, gene"),
        ({"task": "cell"}, "needs one column, not 0"),
        ({"task": "multitask", "label": ("kind",)}, "needs at least 2 columns"),
        ({"task": "gene"}, "--task gene needs --genes"),
        ({"task": "gene", "genes": Path("x"), "split_by": "donor"}, "splits genes, not cells"),
        ({"task": "cell", "label": ("kind",), "genes": Path("x")}, "--genes is of --task gene"),
        ({"task": "cell", "label": ("kind",), "pool": "median"}, "--pool 'median' is unknown"),
        ({"task": "regression", "label": ("dose",), "class_weights": "balanced"}, "needs classes"),
        ({"task": "cell", "label": ("kind",), "lora": 4, "quantize": True}, "needs a CUDA GPU"),
        ({"task": "cell", "label": ("kind",), "quantize": True}, "give --lora RANK"),
        ({"task": "multitask", "label": ("a", "b"), "task_weights": (1.0,)}, "needs 2 positive numbers"),
    ],
)
def test_options_that_do_not_fit(options, message):
    if "CUDA" in message and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=message):
        Finetuning(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": ("hours",)}, "'hours' is not a column"),
        ({"label": ("kind",), "pool": "cls"}, "--pool cls needs cells framed"),
        ({"label": ("kind",), "freeze": 3}, "--freeze 3 of 2 layers"),
        ({"label": ("kind",), "freeze": 2, "lora": 4}, "leave adapters a layer"),
        ({"label": ("kind",), "split_by": "clinic"}, "--split-by 'clinic' is not a column"),
        ({"label": ("kind",), "where": "kind = 'blood'"}, "has only 'blood' as a class"),
        ({"label": ("donor",), "split_by": "donor"}, "class 'd[0-5]' of donor has nothing to learn from"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(inputs, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        finetune(*inputs["v1"], tmp_path / "b", Finetuning(task="cell", **options), **QUIET)
    assert not list(tmp_path.iterdir())
