"""Checkpoints that the encoder would load as something else: refused when a bundle is made, wrappers' prefixes taken off."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.runs.sums import sum_of

QUERY = "bert.encoder.layer.1.attention.self.query.weight"
UP = "bert.encoder.layer.1.intermediate.dense.weight"


@pytest.fixture
def checkpoint(golden, tmp_path):
    return shutil.copytree(golden / "v1/model", tmp_path / "checkpoint")


@pytest.fixture
def vocabulary(golden):
    return golden / "v1/vocabulary.json"


def written(checkpoint, **tensors):
    weights = load_file(checkpoint / "model.safetensors")
    save_file({k: v for k, v in (weights | tensors).items() if v is not None}, checkpoint / "model.safetensors")
    return checkpoint


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("pickled", [True, False])
def test_prefixes_of_wrappers_are_taken_off(prefix, pickled, checkpoint, vocabulary, tmp_path):
    plain = load_file(checkpoint / "model.safetensors")
    wrapped = {prefix + name: tensor for name, tensor in plain.items()}
    if pickled:
        torch.save(wrapped, checkpoint / "pytorch_model.bin")
        (checkpoint / "model.safetensors").unlink()
    else:
        save_file(wrapped, checkpoint / "model.safetensors")
    made = load_file(make_bundle(checkpoint, vocabulary, tmp_path / "b").path / "model.safetensors")
    assert made.keys() == plain.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in plain.items())


def eight_bit(weights):
    """The weight in 8 bits and its scales, as bitsandbytes stores them: w is about q * scale / 127."""
    weight = weights[QUERY]
    scale = weight.abs().amax(1)
    return {QUERY: (weight / scale[:, None] * 127).round().to(torch.int8), QUERY.replace("weight", "SCB"): scale}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (eight_bit, "is stored as I8"),
        (lambda w: {QUERY: w[QUERY].to(torch.float8_e4m3fn)}, "is stored as F8_E4M3"),
        (lambda w: {QUERY.replace("weight", "SCB"): torch.ones(32)}, "which a plain BERT encoder does not have"),
        (lambda w: {QUERY.replace("layer.1", "layer.3"): w[QUERY].clone()}, "which a plain BERT encoder does not have"),
        (lambda w: {QUERY: None}, "weights lack encoder.layer.1.attention.self.query.weight"),
        (lambda w: {QUERY: w[QUERY][:, :-1].contiguous()}, "asks for \\[32, 32\\]"),
        (lambda w: {QUERY.replace("weight", "bias"): torch.zeros(31)}, "asks for \\[32\\]"),
        (lambda w: {QUERY: torch.full_like(w[QUERY], float("nan"))}, "weights are damaged"),
        (lambda w: {QUERY: w[QUERY].index_fill(0, torch.tensor([0]), float("-inf"))}, "weights are damaged"),
        (lambda w: {QUERY: w[QUERY] + 1e30}, "weights are damaged"),
    ],
)
def test_weights_that_are_no_plain_encoder_are_refused(spoil, message, checkpoint, vocabulary, tmp_path):
    written(checkpoint, **spoil(load_file(checkpoint / "model.safetensors")))
    with pytest.raises(InputError, match=message):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_transposed_weights_of_a_pickle_are_refused(checkpoint, vocabulary, tmp_path):
    weights = load_file(checkpoint / "model.safetensors")
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    torch.save({**weights, name: weights[name].T}, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"encoder.layer.0.intermediate.dense.weight is of shape"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


@pytest.mark.parametrize("kind", ["quantized", "sparse", "meta", "complex"])
def test_pickled_tensors_that_are_no_plain_numbers_are_refused(kind, checkpoint, vocabulary, tmp_path):
    weights = load_file(checkpoint / "model.safetensors")
    other = {
        "quantized": lambda w: torch.quantize_per_tensor(w, 0.01, 0, torch.qint8),
        "sparse": lambda w: w.to_sparse(),
        "meta": lambda w: w.to("meta"),
        "complex": lambda w: w.to(torch.complex64),
    }[kind]
    torch.save({**weights, QUERY: other(weights[QUERY])}, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"save the plain weights|holds more than tensors"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


@pytest.mark.parametrize("many", [1, 3])
def test_tensors_that_ask_for_more_than_the_file_holds_are_refused(many, checkpoint, vocabulary, tmp_path):
    stretched = {f"{i}.bias": torch.zeros(1).expand(10**12) for i in range(many)}  # 4 TB each of 4 bytes
    torch.save({**load_file(checkpoint / "model.safetensors"), **stretched}, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"0\.bias is of shape \[1000000000000\], and the tensors up to it have 4,000,"
    ):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_small_view_over_one_number_is_written_out(checkpoint, vocabulary, tmp_path):
    weights = load_file(checkpoint / "model.safetensors")
    bias = QUERY.replace("weight", "bias")
    torch.save({**weights, bias: torch.full((1,), 0.25).expand(32)}, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    made = load_file(make_bundle(checkpoint, vocabulary, tmp_path / "b").path / "model.safetensors")
    assert made[bias].tolist() == [0.25] * 32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_norm_eps", "1e-12"), ("layer_norm_eps", float("nan")), ("layer_norm_eps", -1), ("layer_norm_eps", None),
        ("hidden_act", ["gelu"]), ("hidden_act", "swish7"), ("num_attention_heads", 5), ("num_hidden_layers", True),
        ("intermediate_size", 2.5), ("is_decoder", True), ("position_embedding_type", "relative_key"),
    ],
)  # fmt: skip
def test_what_the_encoder_refuses_is_refused_when_a_bundle_is_made(name, value, checkpoint, vocabulary, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text()) | {name: value}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=name if name != "num_attention_heads" else "no multiple of 5 heads"):
        make_bundle(checkpoint, vocabulary, tmp_path / "b")


def test_one_flipped_bit_of_the_weights_is_found_before_they_are_used(bundles, tmp_path):
    path = shutil.copytree(bundles["v1"], tmp_path / "b")
    raw = bytearray((path / "model.safetensors").read_bytes())
    raw[-100] ^= 1
    (path / "model.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match="does not have its recorded sha256"):
        Encoder(Bundle.open(path))


def recorded(bundle):
    """Put the sums of a bundle's files as they are now into its record, as somebody does who forges them."""
    record = json.loads((bundle / "bundle.json").read_text())
    record["files"] = {name: sum_of(bundle / name) for name in record["files"]}
    (bundle / "bundle.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda w: {UP: w[UP].T.contiguous()}, r"is of shape \[32, 64\], config.json asks for \[64, 32\]"),
        (lambda w: {UP: w[UP].to(torch.int64)}, "is stored as I64"),
        (lambda w: {UP: None}, "weights lack encoder.layer.1.intermediate.dense.weight"),
    ],
)
def test_forged_weights_of_a_bundle_are_refused_when_they_are_loaded(forge, message, bundles, tmp_path):
    folder = shutil.copytree(bundles["v1"], tmp_path / "b")
    written(folder, **forge(load_file(folder / "model.safetensors")))
    recorded(folder)
    with pytest.raises(InputError, match=message):
        Encoder(Bundle.open(folder))


def test_a_forged_configuration_of_a_bundle_is_refused_when_it_is_opened(bundles, tmp_path):
    folder = shutil.copytree(bundles["v1"], tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu6"}))
    recorded(folder)
    with pytest.raises(InputError, match="hidden_act 'relu6' is not implemented"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["config.json", "vocabulary.parquet", "aliases.parquet"])
def test_a_bit_of_a_bundle_that_flips_is_told_when_it_is_opened(name, golden, checkpoint, vocabulary, tmp_path):
    aliases = golden / "v1/ensembl_mapping.json"
    folder = make_bundle(checkpoint, vocabulary, tmp_path / "b", aliases=aliases).path
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(InputError, match=f"{name} was changed after the bundle was made"):
        Bundle.open(folder)
