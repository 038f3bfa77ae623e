"""Making and opening bundles: what belongs together is tied together, and anything else is refused."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.errors import InputError


@pytest.fixture
def checkpoint(golden, tmp_path) -> Path:
    """A copy of the v1 checkpoint that a test may spoil."""
    return Path(shutil.copytree(golden / "v1" / "model", tmp_path / "checkpoint"))


@pytest.fixture
def vocabulary(golden) -> Path:
    return golden / "v1" / "vocabulary.json"


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_bundle_knows_its_generation_size_and_specials(bundles, generation):
    bundle = Bundle.open(bundles[generation])
    want = {"v1": ("v1", 64, None, 152), "v2": ("v2", 72, 2, 164)}[generation]
    assert (bundle.generation, bundle.input_size, bundle.special.cls, bundle.vocabulary.size) == want
    assert bundle.config["num_hidden_layers"] == {"v1": 3, "v2": 4}[generation]
    assert len(bundle.aliases) == 5
    assert all(bundle.vocabulary.token_of(gene) is not None for gene in bundle.aliases.values())
    bundle.verify()


def test_a_bundle_holds_the_checkpoint_and_nothing_that_runs(bundles):
    names = {path.name for path in bundles["v1"].iterdir()}
    assert names == {"aliases.parquet", "bundle.json", "config.json", "model.safetensors", "vocabulary.parquet"}


def test_making_the_same_bundle_again_returns_the_one_there(checkpoint, vocabulary, golden, tmp_path):
    first = make_bundle(checkpoint, vocabulary, tmp_path / "b")
    before = os.stat(tmp_path / "b" / "model.safetensors").st_mtime_ns
    second = make_bundle(checkpoint, golden / "v1" / "token_dictionary.pkl", tmp_path / "b")
    assert second.weights_sha256 == first.weights_sha256
    assert os.stat(tmp_path / "b" / "model.safetensors").st_mtime_ns == before
    assert leftovers(tmp_path) == []


def test_another_bundle_or_folder_is_never_replaced(checkpoint, vocabulary, golden, tmp_path):
    make_bundle(checkpoint, vocabulary, tmp_path / "b")
    with pytest.raises(InputError, match="another bundle"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b", medians=golden / "v1" / "medians.json")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        make_bundle(checkpoint, vocabulary, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert leftovers(tmp_path) == []


def test_an_empty_folder_may_become_a_bundle(checkpoint, vocabulary, tmp_path):
    (tmp_path / "b").mkdir()
    assert make_bundle(checkpoint, vocabulary, tmp_path / "b").generation == "v1"


def test_a_vocabulary_of_the_other_generation_is_refused(checkpoint, golden, tmp_path):
    with pytest.raises(
        InputError, match="vocabulary has 164 tokens, the model 152: use the bundle of the same generation"
    ):
        make_bundle(checkpoint, golden / "v2" / "vocabulary.json", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_pickled_weights_become_safetensors_with_tied_weights_once(checkpoint, vocabulary, tmp_path):
    weights = load_file(checkpoint / "model.safetensors")
    word = "bert.embeddings.word_embeddings.weight"
    pickled = {**weights, "cls.predictions.decoder.weight": weights[word]}
    torch.save(pickled, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    bundle = make_bundle(checkpoint, vocabulary, tmp_path / "b")
    made = load_file(bundle.path / "model.safetensors")
    assert "cls.predictions.decoder.weight" not in made
    assert all(torch.equal(made[name], tensor) for name, tensor in weights.items() if name in made)
    assert word in made


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_pickled_weights_are_read(checkpoint, vocabulary, tmp_path, zipped):
    weights = load_file(checkpoint / "model.safetensors")
    torch.save(weights, checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (checkpoint / "model.safetensors").unlink()
    make_bundle(checkpoint, vocabulary, tmp_path / "b")
    assert load_file(tmp_path / "b" / "model.safetensors").keys() == weights.keys()


def shard(checkpoint: Path, kind: str) -> list[str]:
    """Split model.safetensors into two shards with an index, as transformers does."""
    weights = load_file(checkpoint / "model.safetensors")
    names, where = sorted(weights), {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        stem, end = kind.rsplit(".", 1)
        file = f"{stem}-0000{i}-of-00002.{end}"
        tensors = {name: weights[name] for name in part}
        save_file(tensors, checkpoint / file) if end == "safetensors" else torch.save(tensors, checkpoint / file)
        where |= dict.fromkeys(part, file)
    (checkpoint / f"{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (checkpoint / "model.safetensors").unlink()
    return sorted(set(where.values()))


def test_sharded_safetensors_are_kept_as_they_are(checkpoint, vocabulary, tmp_path):
    shards = shard(checkpoint, "model.safetensors")
    bundle = make_bundle(checkpoint, vocabulary, tmp_path / "b")
    assert {"model.safetensors.index.json", *shards} < set(bundle.files)
    bundle.verify()


def test_sharded_pickles_become_one_file(checkpoint, vocabulary, tmp_path):
    before = load_file(checkpoint / "model.safetensors")
    shard(checkpoint, "pytorch_model.bin")
    make_bundle(checkpoint, vocabulary, tmp_path / "b")
    assert load_file(tmp_path / "b" / "model.safetensors").keys() == before.keys()


def test_a_missing_shard_is_named(checkpoint, vocabulary, tmp_path):
    (checkpoint / shard(checkpoint, "model.safetensors")[1]).unlink()
    with pytest.raises(InputError, match="00002-of-00002"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


@pytest.mark.parametrize("place", ["../elsewhere.safetensors", "", 3, None, ["model.safetensors"]])
def test_an_index_that_names_no_file_of_its_folder_is_refused(place, checkpoint, vocabulary, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"a": place}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"no weight file of its own folder|not an index of weights"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


@pytest.mark.parametrize(
    ("keep", "message"),
    [(-4, "truncated or damaged"), (200, "truncated: its header alone"), (3, "truncated"), (0, "truncated")],
)
def test_truncated_weights_are_refused(checkpoint, vocabulary, tmp_path, keep, message):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(InputError, match=message):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert leftovers(tmp_path) == []


def test_weights_whose_header_lies_are_refused(checkpoint, vocabulary, tmp_path):
    weights = checkpoint / "model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw.replace(b"[152,32]", b"[153,32]", 1))
    with pytest.raises(InputError, match="not those of its shape"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")
    weights.write_bytes(raw[:8] + b"\x00" * 40 + raw[48:])
    with pytest.raises(InputError, match="not a safetensors file"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


def test_pickled_weights_that_hold_code_or_rubbish_are_refused(checkpoint, vocabulary, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    for content, message in (
        ({"a": Path("x")}, "more than tensors"),
        ([torch.zeros(1)], "not a state_dict"),
        ({"a": "text"}, "a is a str"),
    ):
        torch.save(content, checkpoint / "pytorch_model.bin")
        with pytest.raises(InputError, match=message):
            make_bundle(checkpoint, vocabulary, tmp_path / "b")
    (checkpoint / "pytorch_model.bin").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(InputError, match=r"not a readable torch file|more than tensors"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


def test_weights_that_do_not_fit_the_configuration_are_refused(checkpoint, vocabulary, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    with pytest.raises(InputError, match=r"position embeddings are \[64, 32\], config.json says \[128, 32\]"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")
    save_file({"some.weight": torch.zeros(2)}, checkpoint / "model.safetensors")
    with pytest.raises(InputError, match="no word embeddings"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type of .* is 'gpt2', not 'bert'"),
        ({"vocab_size": None}, "vocab_size .* is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers .* is 0"),
    ],
)
def test_configurations_of_other_models_are_refused(checkpoint, vocabulary, tmp_path, change, message):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


def test_folders_that_are_no_checkpoint_are_refused(checkpoint, vocabulary, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"neither model.safetensors nor pytorch_model.bin"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")
    (checkpoint / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config.json"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


def test_aliases_that_lead_nowhere_are_refused(checkpoint, vocabulary, tmp_path):
    (tmp_path / "a.json").write_text('{"ENSG00000000001": "ENSG00000000002"}')
    with pytest.raises(InputError, match="no alias leads to a gene"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b", aliases=tmp_path / "a.json")


def test_opening_something_else_says_what_to_do(checkpoint, tmp_path):
    with pytest.raises(InputError, match="make one with `rankshift bundle`"):
        Bundle.open(checkpoint)
    with pytest.raises(InputError, match="check the path"):
        Bundle.open(tmp_path / "nowhere")


@pytest.fixture
def bundle(bundles, tmp_path) -> Path:
    return Path(shutil.copytree(bundles["v1"], tmp_path / "bundle"))


def test_a_bundle_whose_files_changed_size_does_not_open(bundle):
    (bundle / "model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match=r"model.safetensors is 5 bytes, recorded are \d+"):
        Bundle.open(bundle)
    (bundle / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors is missing"):
        Bundle.open(bundle)


def test_a_changed_vocabulary_is_noticed_on_opening_and_changed_weights_on_verifying(bundle):
    weights = bytearray((bundle / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (bundle / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"model.safetensors does not have its recorded sha256"):
        Bundle.open(bundle).verify()
    table = bytearray((bundle / "vocabulary.parquet").read_bytes())
    table[len(table) // 2] ^= 1
    (bundle / "vocabulary.parquet").write_bytes(table)
    with pytest.raises(InputError, match=r"vocabulary.parquet was changed"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99, this version reads 1"),
        ({"files": None}, "damaged"),
        ({"input_size": float("inf")}, "damaged"),
        ({"input_size": 10**9}, "has input size 1000000000, its model 64 positions"),
        ({"input_size": 63}, "has input size 63, its model 64 positions"),
        ({"special": {"pad": 0}}, "damaged"),
        ({"special": {"pad": 1, "mask": 0}}, "disagree"),
    ],
)
def test_a_damaged_record_is_refused(bundle, change, message):
    record = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(record | change))
    with pytest.raises(InputError, match=message):
        Bundle.open(bundle)


def test_a_damaged_bundle_is_not_taken_for_the_same_one(checkpoint, vocabulary, tmp_path):
    made = make_bundle(checkpoint, vocabulary, tmp_path / "b")
    weights = bytearray((made.path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (made.path / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="sha256"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


def test_aliases_are_a_table_of_their_own(bundles):
    table = pq.read_table(bundles["v2"] / "aliases.parquet")
    assert table.schema.field("alias").type == pa.string()
    assert dict(zip(*(table.column(c).to_pylist() for c in ("alias", "ensembl_id")), strict=True)) == {
        f"ENSG800000000{n}": f"ENSG900000000{n}" for n in (12, 19, 26, 33, 40)
    }
