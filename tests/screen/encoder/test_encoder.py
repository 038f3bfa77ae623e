"""The encoder against transformers: prefixes, shards of weights, activations, layers, mixed lengths, first rows, sharing."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.embed.cell_embeddings import original_lists
from rankshift.screen.encoder.batches import batches, join
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.families.bert import BERT
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import edits_of

GENES = 120
SMALL = {
    "vocab_size": GENES,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-12,
}


def bundle_of(folder: Path, model: torch.nn.Module, **saving) -> Bundle:
    """A bundle of a model with random weights, large enough to be told apart."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) * 0.1
            )
    model.eval().save_pretrained(folder / "model", **saving)
    names = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, **{f"ENSG{i:011d}": i for i in range(4, GENES)}}
    (folder / "vocabulary.json").write_text(json.dumps(names))
    return make_bundle(folder / "model", folder / "vocabulary.json", folder / "bundle")


def cells_of(lengths: list[int]) -> tuple[torch.Tensor, np.ndarray]:
    """Random cells framed by <cls> and <eos>: packed ids, and where each begins."""
    draw = np.random.default_rng(0)
    lists = [[2, *(draw.permutation(GENES - 4)[: n - 2] + 4), 3] for n in lengths]
    return torch.tensor([t for x in lists for t in x], dtype=torch.int32), np.concatenate([[0], np.cumsum(lengths)])


def ours(
    encoder: Encoder, ids: torch.Tensor, offsets: np.ndarray, layers: int, first_rows: bool = False
) -> torch.Tensor:
    lengths = np.diff(offsets)
    arrays = original_lists(offsets[:-1], lengths, lengths, Frame(head=1, tail=1))
    return torch.cat(list(encoder.map(batches(ids, arrays, 150), lambda _, h: h, layers=layers, first_rows=first_rows)))


@torch.no_grad()
def theirs(model: torch.nn.Module, ids: torch.Tensor, offsets: np.ndarray, layers: int) -> list[torch.Tensor]:
    bert = getattr(model, "bert", model)
    return [
        bert(input_ids=ids[None, a:b].long(), output_hidden_states=True).hidden_states[layers][0]
        for a, b in pairwise(offsets)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification, BertModel],
    ids=lambda k: k.__name__,
)
@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "20KB"}], ids=["whole", "sharded"])
def test_any_checkpoint_of_the_family(kind, saving, tmp_path):
    model = kind(BertConfig(**SMALL))
    encoder = Encoder(bundle_of(tmp_path, model, **saving))
    ids, offsets = cells_of([20, 20, 3, 17])
    for layers in (0, 1, 3):
        hidden = ours(encoder, ids, offsets, layers)
        torch.testing.assert_close(hidden, torch.cat(theirs(model, ids, offsets, layers)), atol=2e-6, rtol=1e-5)


class MultiTask(torch.nn.Module):
    """The layout of the published multi-task classifiers: an encoder beside a pool and several heads, saved by torch."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = BertModel(BertConfig(**SMALL), add_pooling_layer=False)
        self.attention_pool = torch.nn.Linear(32, 1)
        self.classification_heads = torch.nn.ModuleList([torch.nn.Linear(32, 3), torch.nn.Linear(32, 2)])


def test_a_multi_task_classifier(tmp_path):
    model = MultiTask().eval()
    torch.nn.init.normal_(model.bert.embeddings.word_embeddings.weight)
    model.bert.config.save_pretrained(tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "model/pytorch_model.bin")
    names = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, **{f"ENSG{i:011d}": i for i in range(4, GENES)}}
    (tmp_path / "vocabulary.json").write_text(json.dumps(names))
    encoder = Encoder(make_bundle(tmp_path / "model", tmp_path / "vocabulary.json", tmp_path / "bundle"))
    ids, offsets = cells_of([20, 7])
    expected = torch.cat(theirs(model, ids, offsets, 3))
    torch.testing.assert_close(ours(encoder, ids, offsets, 3), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "gelu"},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "silu"},
        {"num_attention_heads": 8},
        {"layer_norm_eps": 1e-3},
        {"num_hidden_layers": 1},
        {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 10},
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()),
)
def test_the_config_is_honoured(config, tmp_path):
    model = BertForMaskedLM(BertConfig(**{**SMALL, **config}))
    encoder = Encoder(bundle_of(tmp_path, model))
    ids, offsets = cells_of([31, 96])
    layers = model.config.num_hidden_layers
    expected = theirs(model, ids, offsets, layers)
    torch.testing.assert_close(ours(encoder, ids, offsets, layers), torch.cat(expected), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_first_rows_are_the_first_rows_of_all_rows(layers, tmp_path):
    model = BertForMaskedLM(BertConfig(**SMALL))
    encoder = Encoder(bundle_of(tmp_path, model))
    ids, offsets = cells_of([20, 20, 3, 17])
    expected = torch.stack([h[0] for h in theirs(model, ids, offsets, layers)])
    torch.testing.assert_close(ours(encoder, ids, offsets, layers, first_rows=True), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("genes", [None, tuple(range(4, 40))], ids=["all", "list"])
def test_sharing_the_first_layer_changes_nothing(kind, genes, tmp_path):
    bundle = bundle_of(tmp_path, BertForMaskedLM(BertConfig(**SMALL)))
    ids, offsets = cells_of([90])
    perturb = asked(kind=kind, how="each", genes=genes, frame=Frame(head=1, tail=1), limit=96)
    edits = edits_of(ids.numpy(), perturb)
    arrays = join([edits], offsets[:1], np.array([90]), [np.zeros(len(edits), np.int64)])
    shared, plain = (
        torch.cat(list(Encoder(bundle, share_first_layer=s).map(batches(ids, arrays, 2000), lambda _, h: h, layers=3)))
        for s in (True, False)
    )
    torch.testing.assert_close(shared, plain, atol=3e-6, rtol=1e-5)
    assert any(b.split is not None for b in batches(ids, arrays, 2000))


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_sixteen_bit_products_stay_near_float32(dtype, tolerance, tmp_path):
    bundle = bundle_of(tmp_path, BertForMaskedLM(BertConfig(**SMALL)))
    ids, offsets = cells_of([40, 90])
    exact, rough = (ours(Encoder(bundle, dtype=d), ids, offsets, 3) for d in ("float32", dtype))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < tolerance


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_act": "gelu_fancy"}, "hidden_act 'gelu_fancy' is not implemented"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not implemented"),
        ({"is_decoder": True}, "is_decoder is not implemented"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(config, message):
    with pytest.raises(InputError, match=message):
        BERT.check_config({**SMALL, **config})
