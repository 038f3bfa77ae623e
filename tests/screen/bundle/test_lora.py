"""LoRA adapters merged into a bundle, against PEFT's own merge; what is more than LoRA is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.bundle.checkpoint import read_tensors
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.families.bert import BERT
from rankshift.screen.genes.vocabulary import make_vocabulary

CONFIG = BertConfig(
    vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    max_position_embeddings=40, hidden_act="relu",
)  # fmt: skip
LINEAR = ["query", "value", "dense"]


def adapter_of(folder: Path, model: torch.nn.Module, **options) -> Path:
    """An adapter as training leaves it: both matrices filled."""
    tuned = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": LINEAR, **options}))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture
def vocabulary(tmp_path) -> Path:
    make_vocabulary({"<pad>": 0, "<mask>": 1, **{f"ENSG{i:011d}": i for i in range(2, 60)}}).write(
        tmp_path / "v.parquet"
    )
    return tmp_path / "v.parquet"


def base_of(folder: Path, kind: type = BertForMaskedLM, **saving) -> Path:
    torch.manual_seed(1)
    kind(CONFIG).save_pretrained(folder, **saving)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"query": 2}}, {"bias": "none", "r": 1}]
)
@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "20KB"}], ids=["whole", "sharded"])
def test_merged_weights_are_those_of_peft(options, saving, vocabulary, tmp_path):
    base = base_of(tmp_path / "base", **saving)
    adapter = adapter_of(tmp_path / "adapter", BertForMaskedLM.from_pretrained(base), **options)
    bundle = make_bundle(adapter, vocabulary, tmp_path / "bundle", base=base)
    merged = PeftModel.from_pretrained(BertForMaskedLM.from_pretrained(base), adapter).merge_and_unload()
    expected = merged.bert.state_dict()
    plain = BERT.encoder_weights(read_tensors(base))
    found = bundle.encoder_weights()
    assert found.keys() == plain.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-6)
    changed = [name for name in found if not torch.equal(found[name], plain[name])]
    assert len(changed) == 2 * 5  # query, value and three dense layers of each layer
    record = json.loads((bundle.path / "bundle.json").read_text())["adapter"]
    assert record["layers"] == 10
    assert bundle.weights_sha256 != record["base_weights_sha256"]
    bundle.verify()
    Encoder(Bundle.open(bundle.path))


def test_an_adapter_of_a_classifier_goes_into_any_base_of_its_encoder(vocabulary, tmp_path):
    """Heads, and what was trained of them, stay aside; the base may be saved with or without a head."""
    base = base_of(tmp_path / "base", BertModel)
    model = BertForSequenceClassification.from_pretrained(base, num_labels=3)
    adapter = adapter_of(tmp_path / "adapter", model, task_type="SEQ_CLS")
    assert any("classifier" in key for key in load_file(adapter / "adapter_model.safetensors"))
    bundle = make_bundle(adapter, vocabulary, tmp_path / "bundle", base=base)
    tuned = BertForSequenceClassification.from_pretrained(base, num_labels=3)
    expected = PeftModel.from_pretrained(tuned, adapter).merge_and_unload().bert.state_dict()
    for name, weight in bundle.encoder_weights().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-6)


def test_what_belongs_to_another_base_is_refused(vocabulary, tmp_path):
    base = base_of(tmp_path / "base")
    adapter = adapter_of(tmp_path / "adapter", BertForMaskedLM.from_pretrained(base))
    small = BertConfig(**{**CONFIG.to_dict(), "num_hidden_layers": 1})
    BertForMaskedLM(small).save_pretrained(tmp_path / "small")
    narrow = BertConfig(**{**CONFIG.to_dict(), "intermediate_size": 16})
    BertForMaskedLM(narrow).save_pretrained(tmp_path / "narrow")
    for name, message in (
        ("small", r"changes encoder\.layer\.1\.\S+, which the base"),
        ("narrow", "the base has"),
    ):
        with pytest.raises(InputError, match=message):
            make_bundle(adapter, vocabulary, tmp_path / "bundle", base=tmp_path / name)
    with pytest.raises(InputError, match="is a LoRA adapter, which changes another model: name that with --base"):
        make_bundle(adapter, vocabulary, tmp_path / "bundle")
    with pytest.raises(InputError, match=r"has no adapter_config\.json: with --base"):
        make_bundle(base, vocabulary, tmp_path / "bundle", base=base)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora is more than plain LoRA"),
        ({"alpha_pattern": {"query": 3}}, "alpha_pattern is more than plain LoRA"),
        ({"lora_bias": True, "target_modules": ["query"]}, "lora_bias is more than plain LoRA"),
        ({"target_modules": ["word_embeddings"]}, "is no matrix of plain LoRA"),
        ({"modules_to_save": ["value"], "target_modules": ["query"]}, "is no matrix of plain LoRA"),
        ({"bias": "all"}, "is no matrix of plain LoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base, too"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_more_than_plain_lora_is_refused_by_name(options, message, vocabulary, tmp_path):
    base = base_of(tmp_path / "base")
    adapter = adapter_of(tmp_path / "adapter", BertForMaskedLM.from_pretrained(base), **options)
    with pytest.raises(InputError, match=message):
        make_bundle(adapter, vocabulary, tmp_path / "bundle", base=base)


def test_damaged_adapters_are_refused(vocabulary, tmp_path):
    base = base_of(tmp_path / "base")
    adapter = adapter_of(tmp_path / "adapter", BertForMaskedLM.from_pretrained(base))
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    tensors, settings = load_file(weights), json.loads(config.read_text())

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            make_bundle(adapter, vocabulary, tmp_path / "bundle", base=base)

    some = next(key for key in tensors if "lora_B" in key)
    save_file({k: v for k, v in tensors.items() if k != some}, weights)
    refused("has no lora_B of rank 4 beside it")
    save_file({k: v for k, v in tensors.items() if "encoder" not in k} | {"classifier.weight": torch.ones(2)}, weights)
    refused("changes no layer of the encoder")
    weights.unlink()
    refused(r"has no adapter_model\.safetensors")
    config.write_text(json.dumps({**settings, "peft_type": "IA3"}))
    refused("peft_type 'IA3' is not merged here")
    config.write_text("{")
    refused("is not the configuration of an adapter")
