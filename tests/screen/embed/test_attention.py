"""Attention networks against sums made in the open from transformers' attentions, one cell, head and pair at a time."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.attention import Choice, Heads, PairSums, check_size, edges, frequent, pair_sums
from rankshift.screen.embed.cell_embeddings import original_lists
from rankshift.screen.embed.gene_embeddings import genes_of
from rankshift.screen.encoder.batches import batches
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError

Key = tuple[int, int | None, int, int]


@pytest.fixture(scope="module")
def opened(generation, bundles, golden) -> tuple[Bundle, Cells, Encoder]:
    bundle = Bundle.open(bundles[generation])
    return bundle, Cells.read(golden / generation / "cells.parquet", bundle), Encoder(bundle)


@pytest.fixture(scope="module")
def attentions(opened) -> list[np.ndarray]:
    """Of every cell, by transformers: [layers, heads, N, N]."""
    bundle, cells, _ = opened
    model = BertForMaskedLM.from_pretrained(bundle.path, attn_implementation="eager").eval()
    with torch.no_grad():
        runs = (
            model(input_ids=torch.tensor(cells.ids_of(i)).long()[None], output_attentions=True)
            for i in range(len(cells))
        )
        return [torch.cat(run.attentions).numpy() for run in runs]


def in_the_open(cells: Cells, attentions: list[np.ndarray], full_length: int | None) -> dict[Key, list[float]]:
    """(layer, head or None, source, target) -> [sum, sum of squares, max, cells]."""
    found: dict[Key, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0])
    for i, weights in enumerate(attentions):
        ids = cells.ids_of(i).tolist()
        scale = len(ids) / full_length if full_length else 1.0
        for layer, heads in enumerate(weights * scale):
            for p, source in enumerate(ids):
                for q, target in enumerate(ids):
                    per_head = heads[:, p, q].tolist()
                    for head, value, top in [
                        (None, sum(per_head) / len(per_head), max(per_head)),
                        *((h, value, value) for h, value in enumerate(per_head)),
                    ]:
                        sums = found[layer, head, source, target]
                        sums[0] += value
                        sums[1] += value**2
                        sums[2] = max(sums[2], top)
                        sums[3] += 1
    return found


def test_attention_is_that_of_transformers(opened, attentions):
    _, cells, encoder = opened
    arrays = original_lists(cells.offsets[:-1], cells.lengths, cells.lengths, cells.frame)
    cell = 0
    for block in batches(torch.tensor(cells.ids), arrays, 150):
        for layer, x_TD in enumerate(encoder.layer_inputs(block, encoder.sizes.layers)):
            for i, rows_ND in enumerate(x_TD.split(block.arrays.length.tolist())):
                ours = torch.stack(list(encoder.attention(layer, rows_ND)))
                np.testing.assert_allclose(ours, attentions[cell + i][layer], atol=1e-6, rtol=1e-5)
        cell += len(block.arrays)
    assert cell == len(cells)


@pytest.mark.slow
@pytest.mark.parametrize("full_length", [None, 64])
def test_sums_over_cells(full_length, opened, attentions):
    bundle, cells, encoder = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    layers = tuple(range(encoder.sizes.layers))
    sums = pair_sums(cells, encoder, Heads(layers=layers, per_head=True, full_length=full_length), genes)
    assert sums.channels[: encoder.heads + 1] == [(0, None), *((0, h) for h in range(encoder.heads))]
    wanted = in_the_open(cells, attentions, full_length)
    for at, (layer, head) in enumerate(sums.channels):
        plain = np.zeros((len(genes), len(genes), 4))
        for i, source in enumerate(genes.tolist()):
            for j, target in enumerate(genes.tolist()):
                if (layer, head, source, target) in wanted:
                    plain[i, j] = wanted[layer, head, source, target]
        np.testing.assert_allclose(sums.total[at], plain[..., 0], atol=5e-6)
        np.testing.assert_allclose(sums.squares[at], plain[..., 1], atol=5e-6)
        np.testing.assert_allclose(sums.largest[at], plain[..., 2], atol=1e-6, rtol=1e-5)
        np.testing.assert_array_equal(sums.together, plain[..., 3])


def test_every_weight_is_in_the_sums_or_on_a_special(opened):
    bundle, cells, encoder = opened
    sums = pair_sums(cells, encoder, Heads(layers=(1,)), np.unique(cells.ids))
    np.testing.assert_allclose(sums.total.sum(), cells.lengths.sum(), rtol=1e-6)  # each place spreads 1
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    fewer = pair_sums(cells, encoder, Heads(layers=(1,)), genes)
    assert (fewer.total.sum() < sums.total.sum()) == bool(cells.frame.size)


def test_neither_order_nor_parts_of_the_cells_matter(opened):
    bundle, cells, encoder = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    heads = Heads(layers=(0, 2), per_head=True)
    whole = pair_sums(cells, encoder, heads, genes)
    parts = [
        pair_sums(cells.take(rows), encoder, heads, genes) for rows in np.array_split(np.arange(len(cells))[::-1], 4)
    ]
    for part in parts[1:]:
        parts[0].merge(part)
    np.testing.assert_array_equal(whole.together, parts[0].together)
    for name in ("total", "squares", "largest"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts[0], name), atol=1e-6)


def test_genes_that_are_left_out_take_nothing_with_them(opened):
    bundle, cells, encoder = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    some = np.arange(len(genes))[::3]
    whole, part = (pair_sums(cells, encoder, Heads(layers=(1,)), g) for g in (genes, genes[some]))
    np.testing.assert_array_equal(whole.total[0][np.ix_(some, some)], part.total[0])
    np.testing.assert_array_equal(whole.together[np.ix_(some, some)], part.together)


def test_edges_are_the_best_of_every_source(opened):
    bundle, cells, encoder = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    sums = pair_sums(cells, encoder, Heads(layers=(0, 1)), genes)
    (_, table) = edges(sums, Choice(min_cells=3, top=2), bundle.vocabulary, 2)
    assert set(table["layer"].to_pylist()) == {-1}
    assert table["head"].null_count == len(table)
    ids = bundle.vocabulary.ensembl_id
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.total[1] / sums.together
    wanted = []
    for i in range(len(genes)):
        others = [j for j in range(len(genes)) if j != i and sums.together[i, j] >= 3]
        wanted += [(ids[genes[i]], ids[genes[j]]) for j in sorted(others, key=lambda j: -mean[i, j])[:2]]
    assert list(zip(table["source"].to_pylist(), table["target"].to_pylist(), strict=True)) == wanted


@pytest.mark.parametrize("rank_by", ["mean", "max", "mean_both", "max_both"])
def test_the_columns_of_an_edge(rank_by, opened):
    bundle, cells, encoder = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    sums = pair_sums(cells, encoder, Heads(layers=(1,), per_head=True), genes)
    tables = list(edges(sums, Choice(min_cells=2, top=7, overall=True, rank_by=rank_by), bundle.vocabulary, 1))
    assert [table["head"][0].as_py() for table in tables] == [None, *range(encoder.heads)]
    for at, table in enumerate(tables):
        rows = table.to_pylist()
        assert len(rows) == 7
        assert [row[rank_by] for row in rows] == sorted((row[rank_by] for row in rows), reverse=True)
        for row in rows:
            i, j = (int(np.searchsorted(genes, bundle.vocabulary.token_of(row[x]))) for x in ("source", "target"))
            n = row["cells"]
            assert n == sums.together[i, j] >= 2
            assert row["sum"] == sums.total[at, i, j]
            assert row["sum_squares"] == sums.squares[at, i, j]
            assert row["mean"] == pytest.approx(row["sum"] / n)
            assert row["sd"] == pytest.approx(
                np.sqrt((row["sum_squares"] - row["sum"] ** 2 / n) / (n - 1)), rel=1e-3, abs=1e-7
            )
            assert row["mean_both"] == pytest.approx((row["sum"] + sums.total[at, j, i]) / (2 * n))
            assert row["max_both"] == max(sums.largest[at, i, j], sums.largest[at, j, i])
            assert row["source_symbol"] == bundle.vocabulary.symbol[genes[i]]


def test_a_gene_twice_in_a_list_counts_at_its_first_place(bundles):
    import pyarrow as pa

    bundle = Bundle.open(bundles["v1"])
    encoder = Encoder(bundle)
    twice = np.array([5, 6, 7, 5], np.int32)
    cells = Cells(ids=twice, offsets=np.array([0, 4]), obs=pa.table({"cell_id": ["a"]}))
    sums = pair_sums(cells, encoder, Heads(layers=(0,)), np.array([5, 6]))
    assert sums.together.tolist() == [[1, 1], [1, 1]]
    arrays = original_lists(cells.offsets[:-1], cells.lengths, cells.lengths, cells.frame)
    (block,) = batches(torch.tensor(cells.ids), arrays, 100)
    (x_ND,) = encoder.layer_inputs(block, 1)
    mean = torch.stack(list(encoder.attention(0, x_ND))).mean(0)
    np.testing.assert_allclose(sums.total[0], mean[:2, :2], atol=1e-7)


def test_rare_genes_can_have_no_edge(opened):
    bundle, cells, _ = opened
    genes = genes_of(cells, bundle.vocabulary.is_gene)
    kept = frequent(cells, genes, 4)
    have = {token: sum(token in cells.ids_of(i) for i in range(len(cells))) for token in genes.tolist()}
    assert kept.tolist() == [token for token, n in have.items() if n >= 4]
    with pytest.raises(InputError, match=r"no two of the \d+ genes are in 99 of the 12 cells: lower --min-cells"):
        frequent(cells, genes, 99)


def test_sums_that_would_not_fit_are_refused():
    assert PairSums(np.arange(10), [(0, None), (0, 1)]).total.nbytes * 2.5 + 400 == 10**2 * 44
    check_size(10, 2, 4400)
    with pytest.raises(InputError, match=r"pairs of 10 genes in 2 layers and heads take .* \(9 genes\): name fewer"):
        check_size(10, 2, 4399)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top": 0}, "--top is 0"), ({"min_cells": 0}, "--min-cells is 0"), ({"rank_by": "sum"}, "--rank-by 'sum'")],
)
def test_choices_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Choice(**options)
