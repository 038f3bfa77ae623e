"""Random models and cells of the published shapes, as bundles and token tables: the benchmark needs no other data."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging

from benchmarks.roofline import SHAPES, Shape
from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.genes.vocabulary import make_vocabulary

SPECIALS = {"<pad>": 0, "<mask>": 1}
FRAME = {"<cls>": 2, "<eos>": 3}


def config_of(shape: Shape) -> BertConfig:
    """The published configuration of that shape."""
    return BertConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=shape.positions,
        hidden_act="relu",
        layer_norm_eps=1e-12,
        pad_token_id=0,
    )


def bundle_of(name: str, folder: Path) -> Bundle:
    """The bundle of the model `name` in `folder`, made on the first call. Weights are drawn wide, so that genes matter:
    with those of a fresh model all shifts would be alike."""
    path = folder / name
    if path.exists():
        return Bundle.open(path)
    shape = SHAPES[name]
    torch.manual_seed(0)
    model = BertForMaskedLM(config_of(shape))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.3 if "embeddings" in key else 0.08)
    logging.disable_progress_bar()
    model.save_pretrained(folder / "checkpoint")
    tokens = SPECIALS | (FRAME if shape.framed else {})
    tokens |= {f"ENSG{i:011d}": i for i in range(len(tokens), shape.vocab)}
    make_vocabulary(tokens).write(folder / "vocabulary.parquet")
    bundle = make_bundle(folder / "checkpoint", folder / "vocabulary.parquet", path)
    shutil.rmtree(folder / "checkpoint")
    return bundle


def draw_cells(bundle: Bundle, tokens: int, count: int, path: Path) -> Path:
    """A token table of `count` cells of `tokens` tokens each, specials included: genes in random order, no gene twice."""
    random = np.random.default_rng(0)
    genes = np.flatnonzero(bundle.vocabulary.is_gene)
    around = bundle.frame_tokens
    ids = np.empty((count, tokens), np.int32)
    for row in ids:
        row[:] = random.choice(genes, tokens, replace=False)
    ids[:, : len(around.head)] = around.head
    ids[:, tokens - len(around.tail) :] = around.tail
    obs = pa.table({"cell_id": [f"cell-{i}" for i in range(count)]})
    offsets = np.arange(count + 1, dtype=np.int64) * tokens
    Cells(ids=ids.ravel(), offsets=offsets, obs=obs, frame=around.frame).write(path, bundle.vocabulary)
    return path
