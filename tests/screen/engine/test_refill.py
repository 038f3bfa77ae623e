"""Refilling deletions from below the input limit: edits against list operations, similarities against plain transformers."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM

from rankshift.kernels.perturbed_lists import PerturbedLists, trace
from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.uncropped import Uncropped, extended
from rankshift.screen.encoder.batches import batches, join
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.genes.vocabulary import make_vocabulary
from rankshift.screen.notebook import run
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import Perturb, edits_of
from rankshift.screen.tokenizer.tokenize import tokenize
from support import GOLDEN

CLS, EOS = 2, 3
LIMIT = 24  # of the input, below what the cells of the golden files express


def delete(
    how: str, genes: tuple[int, ...] | None, framed: bool, limit: int = 64, anchor: int | None = None
) -> Perturb:
    return asked(
        kind="delete", how=how, genes=genes, frame=Frame.of_record(framed), limit=limit, anchor=anchor, refill=True
    )


@st.composite
def cropped_cells(draw):
    framed = draw(st.booleans())
    genes = draw(st.lists(st.integers(10, 60), min_size=2, max_size=30, unique=True))
    kept = draw(st.integers(2, len(genes)))
    cell = [CLS, *genes[:kept], EOS] if framed else genes[:kept]
    wanted = draw(st.none() | st.lists(st.sampled_from(genes[:kept]), min_size=2, max_size=4, unique=True).map(tuple))
    how = "each" if wanted is None else draw(st.sampled_from(["each", "together", "pairs"]))
    anchor = draw(st.sampled_from(genes[:kept])) if wanted is None and draw(st.booleans()) else None
    return cell, genes[kept:], delete("pairs" if anchor else how, wanted, framed, anchor=anchor)


@pytest.mark.slow
@given(cropped_cells(), st.integers(0, 6))
def test_a_list_loses_its_genes_and_takes_the_next_ones_from_below(case, most):
    cell, below, perturb = case
    below = below[:most]
    framed = bool(perturb.frame.head)
    own, ends = (cell[1:-1], cell[-1:]) if framed else (cell, [])
    base = np.array([*cell[: len(cell) - framed], *below, *ends], np.int32)
    edits = edits_of(np.array(cell), perturb, len(below))
    for part in [edits] if edits.alone is None else [edits, edits.alone]:
        for gone, ids in lists_of(base, part):
            genes = ids[1:-1] if framed else ids
            assert genes == [g for g in own + below if g not in gone][: len(own)]
            assert len(ids) == len(cell) - max(len(gone) - len(below), 0)
            assert not framed or (ids[0], ids[-1]) == (CLS, EOS)
        assert (part.base_length == len(cell)).all()


def lists_of(base: np.ndarray, edits) -> list[tuple[set[int], list[int]]]:
    """Of every list the genes that its edits take out, and what is left."""
    if not len(edits):
        return []
    many = len(edits)
    lists = PerturbedLists.pack(
        ids=torch.tensor(base),
        base=torch.zeros(many, dtype=torch.int64),
        base_length=torch.full((many,), len(base)),
        **{n: torch.tensor(getattr(edits, n)) for n in ("length", "source", "destination", "token")},
    )
    index, _, _ = trace(lists)
    kept = [part.tolist() for part in torch.tensor(base)[index].split(edits.length.tolist())]
    gone = [
        {int(base[s]) for s, d in zip(source, goal, strict=True) if d >= len(base) and s < len(base)}
        for source, goal in zip(edits.source.tolist(), edits.destination.tolist(), strict=True)
    ]
    return list(zip(gone, kept, strict=True))


@pytest.fixture(scope="module")
def tables(bundles, tmp_path_factory) -> dict[str, Path]:
    """Token tables of the golden cells, cropped at LIMIT, with the uncropped ranks beside them."""
    out = {}
    for name, bundle in bundles.items():
        out[name] = tmp_path_factory.mktemp(name) / "cells.parquet"
        report = tokenize(
            GOLDEN / name / "cells.h5ad", Bundle.open(bundle), out[name], input_size=LIMIT, keep_uncropped=True
        )
        assert report.cropped > 5
    return out


def states_of(model) -> Callable[[list[int]], torch.Tensor]:
    """Hidden states of a list by the plain model; the same list comes again for every gene of a cell."""

    @cache
    @torch.no_grad()
    def hidden(ids: tuple[int, ...]) -> torch.Tensor:
        return model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-2][0]

    return lambda ids: hidden(tuple(ids))


def plainly(hidden, cell: list[int], below: list[int], gone: list[int], level: str) -> float:
    """Similarity of one cell without `gone`, its list filled up from below; genes matched by token."""
    framed = cell[0] == CLS
    body = cell[1:-1] if framed else cell
    filled = [g for g in body + below if g not in gone][: len(body)]
    perturbed = [CLS, *filled, EOS] if framed else filled

    after, before = hidden(perturbed), hidden(cell)
    if level == "cls":
        return torch.cosine_similarity(after[0], before[0], dim=0).item()
    shared = [g for g in filled if g in body]
    pairs = [(perturbed.index(g), cell.index(g)) for g in shared]
    return float(np.mean([torch.cosine_similarity(after[i], before[j], dim=0).item() for i, j in pairs]))


@pytest.mark.slow
@pytest.mark.parametrize(("generation", "level"), [("v1", "cell"), ("v2", "cell"), ("v2", "cls")])
@pytest.mark.parametrize("how", ["each", "together", "pairs", "anchor"])
def test_similarities_are_those_of_the_edited_lists(generation, level, how, bundles, tables, tmp_path):
    bundle = Bundle.open(bundles[generation])
    cells = Cells.read(tables[generation], bundle, below=True)
    gene = bundle.vocabulary.gene_of
    first = cells.ids_of(0).tolist()
    listed = [gene[t] for t in (first[3], first[8])]
    options = {
        "each": {},
        "together": {"how": "together", "genes": listed},
        "pairs": {"how": "pairs", "genes": listed},
        "anchor": {"how": "pairs", "anchor": listed[0]},
    }[how]
    shown = run(
        tables[generation],
        bundles[generation],
        tmp_path / "run",
        perturb="delete",
        refill=True,
        embedding=level,
        max_cells=4,
        **options,
    )
    assert shown.manifest["perturb"]["refill"] is True
    hidden = states_of(BertForMaskedLM.from_pretrained(bundles[generation]).eval())
    names = cells.obs["cell_id"].to_pylist()
    rows = shown.sql("FROM shifts ORDER BY hash(cell_id, gene_ids)").to_pylist()[:40]
    assert rows
    refilled = 0
    for row in rows:
        at = names.index(row["cell_id"])
        below = cells.below.ids[cells.below.offsets[at] : cells.below.offsets[at + 1]].tolist()
        refilled += bool(below)
        gone = [bundle.vocabulary.token_of(g) for g in row["gene_ids"].split("+")]
        assert row["similarity"] == pytest.approx(
            plainly(hidden, cells.ids_of(at).tolist(), below, gone, level), abs=2e-6
        )
        if "similarity_first" in row:
            for column, token in zip(("similarity_first", "similarity_second"), gone, strict=True):
                alone = plainly(hidden, cells.ids_of(at).tolist(), below, [token], level)
                assert row[column] == pytest.approx(alone, abs=2e-6)
    assert refilled


@pytest.mark.parametrize("framed", [False, True])
def test_a_full_cell_that_refills_shares_its_first_layer(framed, tmp_path):
    """The base list is then longer than the model's positions, the lists themselves are not."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=96, hidden_act="relu", initializer_range=0.2,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "model")
    special = {"<pad>": 0, "<mask>": 1, **({"<cls>": CLS, "<eos>": EOS} if framed else {})}
    make_vocabulary(special | {f"ENSG{i:011d}": i for i in range(len(special), 200)}).write(tmp_path / "v.parquet")
    bundle = make_bundle(tmp_path / "model", tmp_path / "v.parquet", tmp_path / "bundle")
    genes = np.random.default_rng(0).permutation(np.arange(4, 200))[: 96 - 2 * framed].astype(np.int32)
    ids = np.array([CLS, *genes, EOS], np.int32) if framed else genes
    below = Uncropped(np.array([next(t for t in range(4, 200) if t not in genes)], np.int32), np.array([0, 1]))
    cell = Cells(
        ids=ids, offsets=np.array([0, 96]), obs=pa.table({"cell_id": ["a"]}), frame=Frame.of_record(framed), below=below
    )
    base = extended(cell)
    edits = edits_of(ids, delete("each", None, framed, 96), 1)
    arrays = join([edits], base.offsets[:1], base.lengths, [np.zeros(len(edits), np.int64)])
    parts = list(batches(torch.tensor(base.ids), arrays, 4000))
    assert all(part.split is not None for part in parts)
    shared, plain = (
        torch.cat(list(Encoder(bundle, share_first_layer=s).map(parts, lambda _, h: h, layers=2)))
        for s in (True, False)
    )
    torch.testing.assert_close(shared, plain, atol=3e-6, rtol=1e-5)
    assert len(shared) == 96 * len(genes)


def test_genes_that_move_up_are_no_affected_genes(bundles, tables, tmp_path):
    """They stand in no original, so that nothing can be compared: aligned genes only."""
    shown = run(
        tables["v1"], bundles["v1"], tmp_path / "run", perturb="delete", refill=True, gene_shifts=True, per_cell=True
    )
    counts = shown.sql(
        "SELECT c.length AS length, count(*) AS n FROM genes g JOIN cells c USING (cell) GROUP BY c.length, g.cell, gene_ids"
    ).to_pylist()
    assert all(row["n"] == row["length"] - 1 for row in counts)


@pytest.mark.slow
def test_refill_is_off_by_default_and_needs_uncropped_ranks(bundles, tables, tmp_path):
    plain = run(tables["v1"], bundles["v1"], tmp_path / "plain", perturb="delete", max_cells=2)
    assert plain.manifest["perturb"]["refill"] is False
    assert "input_ids_uncropped" not in pq.read_schema(tmp_path / "plain/cells.parquet").names
    refilled = run(tables["v1"], bundles["v1"], tmp_path / "refilled", perturb="delete", max_cells=2, refill=True)
    assert plain.sql("SELECT similarity FROM shifts") != refilled.sql("SELECT similarity FROM shifts")
    assert "input_ids_uncropped" not in refilled.sql("FROM cells").column_names
    with pytest.raises(
        InputError, match=r"--refill needs the genes below the input limit, .* has none: tokenize again"
    ):
        run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "none", perturb="delete", refill=True)
    with pytest.raises(InputError, match="--refill fills what a deletion leaves free, overexpress frees nothing"):
        run(tables["v1"], bundles["v1"], tmp_path / "none", perturb="overexpress", refill=True)
    assert not (tmp_path / "none").exists()


def test_uncropped_ranks_lie_beside_lists_that_stay_as_they_were(bundles, tables, generation, tmp_path):
    bundle = Bundle.open(bundles[generation])
    data = GOLDEN / generation / "cells.h5ad"
    tokenize(data, bundle, tmp_path / "cropped.parquet", input_size=LIMIT)
    tokenize(data, bundle, tmp_path / "long.parquet")
    cropped, long = (Cells.read(tmp_path / f"{name}.parquet", bundle) for name in ("cropped", "long"))
    kept = Cells.read(tables[generation], bundle, below=True)
    assert np.array_equal(kept.ids, cropped.ids)
    assert np.array_equal(kept.offsets, cropped.offsets)
    assert cropped.below is None
    assert Cells.read(tables[generation], bundle).below is None
    whole = extended(kept)
    some = np.minimum(whole.lengths, bundle.input_size)  # the model's limit crops the long ones, too
    for cell in range(len(kept)):
        n = int(some[cell]) - kept.frame.tail
        assert whole.ids_of(cell)[:n].tolist() == long.ids_of(cell)[:n].tolist()
    kept.take([3, 0]).write(tmp_path / "again.parquet", bundle.vocabulary)
    again = Cells.read(tmp_path / "again.parquet", bundle, below=True)
    assert np.array_equal(extended(again).ids, extended(kept.take([3, 0])).ids)


def test_uncropped_ranks_must_go_on_where_the_list_ends(bundles, tmp_path):
    bundle = Bundle.open(bundles["v1"])

    def read(whole: list[list[int]], version: str = "2") -> Cells:
        columns = {"input_ids": [[5, 6], [7]], "input_ids_uncropped": whole}
        table = pa.table(columns).replace_schema_metadata({"rankshift.token_table": version})
        pq.write_table(table, tmp_path / "c.parquet")
        return Cells.read(tmp_path / "c.parquet", bundle, below=True)

    assert read([[5, 6, 9, 8], [7]]).below.ids.tolist() == [9, 8]
    with pytest.raises(InputError, match="input_ids_uncropped of row 1 does not begin with the genes of its list"):
        read([[5, 6, 9], [8]])
    with pytest.raises(InputError, match="input_ids_uncropped of row 0 has 1 genes, its list 2"):
        read([[5], [7]])
    with pytest.raises(InputError, match="tokens that are no genes of the vocabulary"):
        read([[5, 6, 1], [7]])
    with pytest.raises(InputError, match="token table of version 3, this version of rankshift reads up to 2"):
        read([[5, 6], [7]], "3")
