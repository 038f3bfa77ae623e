"""Embeddings of genes against transformers: means, medians, groups, parts, batches, and the limits on what is held."""

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed import gene_embeddings
from rankshift.screen.embed.gene_embeddings import GeneSums, gene_medians, gene_rows, gene_sums, genes_of
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import measured_layers

LAYERS = 2  # hidden states of the second layer: --layer -1 of v1, -2 of v2


@pytest.fixture(scope="module")
def opened(generation, bundles, golden) -> tuple[Bundle, Cells, Encoder]:
    bundle = Bundle.open(bundles[generation])
    return bundle, Cells.read(golden / generation / "cells.parquet", bundle), Encoder(bundle)


@pytest.fixture(scope="module")
def plainly(opened) -> list[tuple[int, int, np.ndarray]]:
    """(cell, token, hidden state) of every place, by transformers, one cell at a time."""
    bundle, cells, _ = opened
    model = BertForMaskedLM.from_pretrained(bundle.path, attn_implementation="eager").eval()
    found = []
    for cell in range(len(cells)):
        ids = torch.tensor(cells.ids_of(cell)).long()
        with torch.no_grad():
            hidden = model(input_ids=ids[None], output_hidden_states=True).hidden_states[LAYERS][0]
        found += [(cell, int(token), row.numpy()) for token, row in zip(ids, hidden, strict=True)]
    return found


def expected(plainly, token: int, cells: set[int] | None, how: str) -> tuple[int, np.ndarray]:
    rows = np.array([row for cell, t, row in plainly if t == token and (cells is None or cell in cells)])
    return len(rows), rows.mean(0) if how == "mean" else np.sort(rows, 0)[(len(rows) - 1) // 2]


@pytest.mark.parametrize("how", ["mean", "median"])
def test_a_gene_is_summarised_over_the_cells_that_have_it(how, opened, plainly):
    bundle, cells, encoder = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    assert bundle.vocabulary.is_gene[genes].all()
    group = np.arange(len(cells)) % 2
    options = {"genes": genes, "layer_count": LAYERS, "tokens": 200, "group": group, "groups": 2}
    found = gene_sums(cells, encoder, **options).means() if how == "mean" else gene_medians(cells, encoder, **options)
    wanted = [
        (token, s, *expected(plainly, token, None if s < 0 else set(np.flatnonzero(group == s)), how))
        for token in genes.tolist()
        for s in (-1, 0, 1)
        if s < 0 or any(t == token and group[cell] == s for cell, t, _ in plainly)
    ]
    assert found.token.tolist() == [token for token, *_ in wanted]
    assert found.group.tolist() == [s for _, s, *_ in wanted]
    assert found.cells.tolist() == [n for *_, n, _ in wanted]
    np.testing.assert_allclose(found.vectors, [vector for *_, vector in wanted], atol=1e-5)


def test_neither_batches_nor_parts_of_the_cells_matter(opened):
    bundle, cells, encoder = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    whole = gene_sums(cells, encoder, genes=genes, layer_count=LAYERS, tokens=10**6)
    small = gene_sums(cells, encoder, genes=genes, layer_count=LAYERS, tokens=1)
    parts = [
        gene_sums(cells.take(rows), encoder, genes=genes, layer_count=LAYERS, tokens=300)
        for rows in np.array_split(np.arange(len(cells))[::-1], 3)
    ]
    for part in parts[1:]:
        parts[0].merge(part)
    for other in (small, parts[0]):
        np.testing.assert_array_equal(whole.count, other.count)
        np.testing.assert_allclose(whole.means().vectors, other.means().vectors, atol=1e-6)


def test_rows_name_their_cell_and_place(opened, plainly):
    _, cells, encoder = opened
    rows = list(gene_rows(cells, encoder, layer_count=LAYERS, tokens=150))
    assert np.concatenate([r.cell for r in rows]).tolist() == [cell for cell, *_ in plainly]
    assert np.concatenate([r.token for r in rows]).tolist() == [token for _, token, _ in plainly]
    place = np.concatenate([np.arange(n) for n in cells.lengths])
    np.testing.assert_array_equal(np.concatenate([r.place for r in rows]), place)
    np.testing.assert_allclose(np.concatenate([r.hidden for r in rows]), [row for *_, row in plainly], atol=1e-5)


def test_done_is_told_of_every_cell(opened):
    bundle, cells, encoder = opened
    told = []
    gene_sums(
        cells, encoder, genes=genes_of(cells, bundle.vocabulary.is_gene), layer_count=1, tokens=100, done=told.append
    )
    assert sum(told) == len(cells)


def test_what_would_be_held_is_limited(opened, monkeypatch):
    bundle, cells, encoder = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    monkeypatch.setattr(gene_embeddings, "HELD_BYTES", 10_000)
    with pytest.raises(InputError, match=r"sums of 40 genes x 3 groups x 32 dimensions are .* GiB, the limit is"):
        GeneSums(np.arange(40), 3, 32)
    with pytest.raises(InputError, match=r"an exact median holds .* use --summary mean, or fewer cells"):
        gene_medians(cells, encoder, genes=genes, layer_count=1, tokens=100)


def test_genes_that_no_cell_has_are_refused(opened):
    bundle, cells, _ = opened
    absent = np.setdiff1d(np.flatnonzero(bundle.vocabulary.is_gene), cells.ids)
    with pytest.raises(InputError, match=r"none of the 1 genes of --genes is in any cell"):
        genes_of(cells, bundle.vocabulary.is_gene, absent[:1].tolist())


@pytest.mark.parametrize("layer", [1, -99])
def test_layers_the_model_does_not_have_are_refused(layer, opened):
    bundle, *_ = opened
    count = bundle.config["num_hidden_layers"]
    assert [measured_layers(bundle.config, i) for i in (0, -1, -count)] == [count, count - 1, 0]
    with pytest.raises(InputError, match=rf"layer {layer} is not measured: .* give 0 \(the last\) down to -{count}"):
        measured_layers(bundle.config, layer)
