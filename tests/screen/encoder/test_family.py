"""A second family of encoders, known to nothing but its own file and the registry, screened against plain transformers.

Its lists have two special tokens in front and one behind, so nothing here fits what BERT and Geneformer have in common.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM, RobertaPreLayerNormModel

from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.writer import writing
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.screener import run
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import FAMILIES, measured_layers
from rankshift.screen.genes import framing
from rankshift.screen.genes.vocabulary import make_vocabulary

HEAD, TAIL, FIRST, VOCABULARY, LIMIT, WIDTH = [2, 4], [3], 5, 40, 18, 32
GENES = [np.random.default_rng(n).permutation(np.arange(FIRST, VOCABULARY))[:n].tolist() for n in (15, 9, 6)]


def family():
    """The family from the file beside this one."""
    spec = importlib.util.spec_from_file_location("pre_layer_norm", Path(__file__).with_name("pre_layer_norm.py"))
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PreLayerNorm()


def checkpoint(folder: Path) -> Path:
    """A model with random weights, LayerNorms included."""
    torch.manual_seed(0)
    config = RobertaPreLayerNormConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=LIMIT + 1, pad_token_id=0, hidden_act="gelu", initializer_range=0.2,
    )  # fmt: skip
    model = RobertaPreLayerNormForMaskedLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn(parameter.shape) * 0.3 + name.endswith("LayerNorm.weight"))
    model.save_pretrained(folder / "model")
    special = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, "<species>": 4}
    names = {f"ENSG{t:011d}": t for t in range(FIRST, VOCABULARY)}
    make_vocabulary(special | names).write(folder / "vocabulary.parquet")
    return folder / "model"


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Bundle:
    """The model as a bundle, after its family and the frame of its lists got their lines."""
    monkeypatch.setitem(FAMILIES, "roberta-prelayernorm", family())
    monkeypatch.setattr(framing, "FRAMES", ((("<cls>", "<species>"), ("<eos>",)), *framing.FRAMES))
    return make_bundle(checkpoint(tmp_path), tmp_path / "vocabulary.parquet", tmp_path / "bundle")


def lists_of(kind: str, genes: list[int]) -> dict[int, list[int]]:
    """The perturbed lists of one cell by the gene that is perturbed."""
    others = {gene: [g for g in genes if g != gene] for gene in genes}
    if kind == "delete":
        return others
    return {gene: [gene, *others[gene]] for gene in genes[1:]}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("level", ["cell", "cls"])
@pytest.mark.parametrize("layer", [0, -1])
def test_a_screen_of_another_family(kind, level, layer, bundle, tmp_path):
    lists = [[*HEAD, *genes, *TAIL] for genes in GENES]
    offsets = np.cumsum([0, *(len(x) for x in lists)])
    with writing(tmp_path / "cells.parquet", bundle.vocabulary.tokens_sha256) as write:
        obs = pa.table({"cell_id": [f"c{i}" for i in range(len(lists))]})
        write(np.concatenate(lists).astype(np.int32), offsets, obs, None)
    done = run(
        tmp_path / "cells.parquet", bundle.path, tmp_path / "run", perturb=kind, embedding=level, layer=layer,
        dtype="float32", token_budget=300,
    )  # fmt: skip

    model = RobertaPreLayerNormModel.from_pretrained(bundle.path, add_pooling_layer=False).eval()

    @torch.no_grad()
    def hidden(genes: list[int]) -> np.ndarray:
        made = model(torch.tensor([[*HEAD, *genes, *TAIL]]), output_hidden_states=True)
        return (made.last_hidden_state if layer == 0 else made.hidden_states[-2])[0].numpy()

    query = "SELECT c.cell_id, s.gene_ids, s.similarity, s.cell_cosine FROM shifts s JOIN cells c USING (cell)"
    found = {(r["cell_id"], r["gene_ids"]): (r["similarity"], r["cell_cosine"]) for r in done.sql(query).to_pylist()}
    expected = {}
    for i, genes in enumerate(GENES):
        before = hidden(genes)
        for gene, changed in lists_of(kind, genes).items():
            after = hidden(changed)
            if level == "cls":
                similarity = whole = cosine(before[0], after[0])
            else:
                rows = [(2 + genes.index(g), 2 + changed.index(g)) for g in genes if g != gene]
                similarity = float(np.mean([cosine(before[a], after[b]) for a, b in rows]))
                whole = cosine(before[2:-1].mean(0), after[2:-1].mean(0))
            expected[f"c{i}", f"ENSG{gene:011d}"] = similarity, whole
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, abs=2e-6), key


def test_tokens_by_themselves_are_embedded_as_in_a_list(bundle):
    tokens, places = torch.tensor([5, 17, 30]), torch.tensor([2, 9, 3])
    model = RobertaPreLayerNormModel.from_pretrained(bundle.path, add_pooling_layer=False).eval()
    loaded = Encoder(bundle).model
    with torch.no_grad():
        there = model.embeddings(input_ids=tokens[None], position_ids=places[None] + 1)[0]
        attention = model.encoder.layer[0].attention
        query = attention.self.query(attention.LayerNorm(there))
        found = loaded.qkv(0, loaded.embed_tokens(tokens, places))[:, :WIDTH]
    torch.testing.assert_close(found, query, atol=1e-6, rtol=1e-5)


def test_layers_are_counted_by_the_family(bundle):
    assert [measured_layers(bundle.config, layer) for layer in (0, -1, -3)] == [3, 2, 0]
    with pytest.raises(InputError, match="layer -4 is not measured: the model has 3 layers"):
        measured_layers(bundle.config, -4)


def test_a_family_without_a_line_is_refused(tmp_path):
    made = checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"is 'roberta-prelayernorm', not 'bert': give a Geneformer model"):
        make_bundle(made, tmp_path / "vocabulary.parquet", tmp_path / "bundle")


def test_the_family_says_names_and_sizes(bundle):
    name = "encoder.layer.0.attention.self.query.lora_A.weight"
    assert bundle.family.layer_name(f"base_model.model.roberta_prelayernorm.{name}") == name
    assert bundle.family.layer_name("base_model.model.classifier.lora_A.weight") is None
    assert bundle.input_size == LIMIT  # one place fewer than the table has: places begin behind <pad>'s number
