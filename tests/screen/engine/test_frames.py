"""Lists with two special tokens in front and one behind: every kind of perturbation against plain transformers.

The perturbed lists are built here in Python from the words of docs/perturbations.md, and each is embedded by itself.
"""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.expression import state_scores
from rankshift.screen.cells.writer import writing
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.embed.states import write_states
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.screener import run
from rankshift.screen.errors import InputError
from rankshift.screen.genes import framing
from rankshift.screen.genes.framing import Frame
from rankshift.screen.genes.vocabulary import make_vocabulary
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.ranks_in_cells import in_cells

HEAD, TAIL = [2, 4], [3]  # <cls> and <species>, <eos>
FIRST, VOCABULARY, LIMIT, WIDTH = 5, 60, 20, 32
ROOM = LIMIT - 3
SIZES = (ROOM, ROOM, 12, 7, 5)


@pytest.fixture(autouse=True)
def family(monkeypatch):
    """A family of models with a second special token in front: one line in the list of frames."""
    monkeypatch.setattr(framing, "FRAMES", ((("<cls>", "<species>"), ("<eos>",)), *framing.FRAMES))


@pytest.fixture
def bundle(family, tmp_path) -> Bundle:
    """A model whose vocabulary has the frame's tokens."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=LIMIT, hidden_act="relu", initializer_range=0.2,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "model")
    special = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, "<species>": 4}
    make_vocabulary(special | {name(t): t for t in range(FIRST, VOCABULARY)}).write(tmp_path / "v.parquet")
    return make_bundle(tmp_path / "model", tmp_path / "v.parquet", tmp_path / "bundle")


def name(token: int) -> str:
    """Ensembl id of a token."""
    return f"ENSG{token:011d}"


def ranked() -> list[list[int]]:
    """All genes of each cell by rank; the first cell has two below the limit, the second six."""
    draw = np.random.default_rng(1)
    more = (2, 6, 0, 0, 0)
    return [draw.permutation(np.arange(FIRST, VOCABULARY))[: n + m].tolist() for n, m in zip(SIZES, more, strict=True)]


@pytest.fixture
def table(bundle, tmp_path):
    """The cells as a token table with what lies below the limit."""
    lists = [[*HEAD, *genes[:ROOM], *TAIL] for genes in ranked()]
    obs = pa.table({"cell_id": [f"c{i}" for i in range(5)], "state": ["ill", "well", "ill", "well", "ill"]})
    whole = np.concatenate(ranked()).astype(np.int32), np.array([len(g) for g in ranked()])
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])])
    with writing(tmp_path / "cells.parquet", bundle.vocabulary.tokens_sha256) as write:
        write(np.concatenate(lists).astype(np.int32), offsets, obs, whole)
    return tmp_path / "cells.parquet"


def hidden(model: BertModel, genes: list[int]) -> np.ndarray:
    """The second to last layer's output of one list."""
    ids = torch.tensor([[*HEAD, *genes, *TAIL]])
    with torch.no_grad():
        return model(ids, output_hidden_states=True).hidden_states[-2][0].numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def moved(genes: list[int], gene: int, to: int) -> list[int]:
    """The list with a gene at another rank (from 0)."""
    rest = [g for g in genes if g != gene]
    return [*rest[:to], gene, *rest[to:]]


def quartile_up(genes: list[int], gene: int) -> list[int]:
    """The gene in the middle of the quartile above its own, or in front."""
    n, rank = len(genes), genes.index(gene)
    above = rank * 4 // n - 1
    return moved(genes, gene, 0 if above < 0 else (2 * above + 1) * n // 8)


def overexpressed(genes: list[int], wanted: tuple[int, ...]) -> list[int]:
    """The genes in front, whatever no longer fits cut from the end."""
    return [*wanted, *(g for g in genes if g not in wanted)][:ROOM]


def deleted(genes: list[int], below: list[int], wanted: tuple[int, ...]) -> list[int]:
    """The list without the genes, filled up from below the limit."""
    kept = [g for g in [*genes, *below] if g not in wanted]
    return kept[: len(genes)]


ABSENT = next(t for t in range(FIRST, VOCABULARY) if t not in ranked()[0] and t not in ranked()[2])
TOP = tuple(ranked()[0][i] for i in (0, 5, ROOM - 1))
SCREENS = {
    "delete": {"perturb": "delete"},
    "refill": {"perturb": "delete", "refill": True, "how": "together", "genes": TOP},
    "pairs": {"perturb": "delete", "how": "pairs", "anchor": TOP[1]},
    "overexpress": {"perturb": "overexpress"},
    "overflow": {"perturb": "overexpress", "how": "together", "genes": (TOP[1], ABSENT)},
    "front pairs": {"perturb": "overexpress", "how": "pairs", "genes": (TOP[2], ABSENT, TOP[0])},
    "activate": {"perturb": "activate", "rank_shift": 1},
    "inhibit": {"perturb": "inhibit", "to": 1.0},
}


def expected(which: str, all_genes: list[int]) -> dict[tuple[int, ...], tuple[list[int], list[int]]]:
    """Original and perturbed list of genes by the genes perturbed, of one cell."""
    genes, below = all_genes[:ROOM], all_genes[ROOM:]
    options = SCREENS[which]
    wanted = options.get("genes")
    if which == "delete":
        return {(g,): (genes, deleted(genes, [], (g,))) for g in genes}
    if which == "refill":
        return {wanted: (genes, deleted(genes, below[:3], wanted))} if set(wanted) <= set(genes) else {}
    if which == "pairs":
        pairs = [(options["anchor"], g) for g in genes if g != options["anchor"]]
        return {p: (genes, deleted(genes, [], p)) for p in pairs} if options["anchor"] in genes else {}
    if which == "overexpress":
        return {(g,): (genes, overexpressed(genes, (g,))) for g in genes[1:]}
    if which == "activate":
        return {(g,): (genes, m) for g in genes if (m := quartile_up(genes, g)) != genes}
    if which == "inhibit":
        return {(g,): (genes, moved(genes, g, len(genes) - 1)) for g in genes[:-1]}
    groups = [wanted] if which == "overflow" else list(itertools.combinations(wanted, 2))
    short = {p: max(len(genes) + len(set(p) - set(genes)) - ROOM, 0) for p in groups}  # originals are cut alike
    return {p: (genes[: len(genes) - short[p]], overexpressed(genes, p)) for p in groups}


@pytest.mark.slow
@pytest.mark.parametrize("level", ["cell", "cls"])
@pytest.mark.parametrize("which", SCREENS)
def test_shifts_are_those_of_plain_transformers(which, level, bundle, table, tmp_path):
    states = {s: np.random.default_rng(i).standard_normal(WIDTH).astype(np.float32) for i, s in enumerate("ab")}
    write_states(states, tmp_path / "states.json")
    options = dict(SCREENS[which])
    if "genes" in options:
        options["genes"] = [name(t) for t in options["genes"]]
    if "anchor" in options:
        options["anchor"] = name(options["anchor"])
    done = run(
        table, bundle.path, tmp_path / "run", embedding=level, states=tmp_path / "states.json", dtype="float32",
        token_budget=700, **options,
    )  # fmt: skip
    assert done.manifest["perturb"]["framed"] == [2, 1]
    model = BertModel.from_pretrained(bundle.path, add_pooling_layer=False).eval()
    tokens = pq.read_table(done.path / "perturbations.parquet")["tokens"].to_pylist()
    found = {
        (row["named"], tuple(tokens[row["perturbation"]])): row
        for row in done.sql("SELECT s.*, c.cell_id AS named FROM shifts s JOIN cells c USING (cell)").to_pylist()
    }
    count = 0
    for cell, all_genes in enumerate(ranked()):
        for group, (original, perturbed) in expected(which, all_genes).items():
            row = found[f"c{cell}", group]
            before, after = hidden(model, original), hidden(model, perturbed)
            aligned = [g for g in original if g in perturbed and g not in group]
            if level == "cls":
                similarity, ends = cosine(before[0], after[0]), (before[0], after[0])
            else:
                rows = [cosine(before[2 + original.index(g)], after[2 + perturbed.index(g)]) for g in aligned]
                similarity, ends = np.mean(rows), (before[2:-1].mean(0), after[2:-1].mean(0))
            assert row["similarity"] == pytest.approx(similarity, abs=2e-5), (cell, group)
            for state, vector in states.items():
                shift = cosine(ends[1], vector) - cosine(ends[0], vector)
                assert row[f"shift_{state}"] == pytest.approx(shift, abs=2e-5), (cell, group)
            count += 1
    assert count == len(found) > 0


def test_ranks_and_expression_leave_the_frame_out(bundle, table, tmp_path):
    done = run(table, bundle.path, tmp_path / "run", perturb="delete")
    seen = Observations.read(done, ["similarity"])
    places = in_cells(done, seen, np.zeros(len(seen), np.float32))
    cells = done.sql("SELECT cell_id FROM cells ORDER BY cell")["cell_id"].to_pylist()
    for row, (cell, gene) in enumerate(zip(seen.cell.tolist(), seen.gene.tolist(), strict=True)):
        genes = ranked()[int(cells[cell][1:])][:ROOM]
        assert places.rank[row] == genes.index(int(str(seen.perturbations["tokens"][gene].as_py()[0]))) + 1
    scores = state_scores(
        Cells.read(table, bundle), VOCABULARY, state_key="state", start="ill", goal="well"
    ).to_pylist()
    for row in scores:
        for column, which in (("start_score", (0, 2, 4)), ("goal_score", (1, 3))):
            lists = [ranked()[i][:ROOM] for i in which]
            score = [1 - g.index(row["token"]) / len(g) if row["token"] in g else 0 for g in lists]
            assert row[column] == pytest.approx(np.mean(score))


def test_embeddings_of_cells_leave_the_frame_out(bundle, table):
    cells = Cells.read(table, bundle)
    assert cells.frame == Frame(head=2, tail=1)
    model = BertModel.from_pretrained(bundle.path, add_pooling_layer=False).eval()
    for level, of in (("cell", lambda h: h[2:-1].mean(0)), ("cls", lambda h: h[0])):
        vectors = embed(cells, Encoder(bundle), level=level, layer_count=1, tokens=100)
        wanted = [of(hidden(model, genes[:ROOM])) for genes in ranked()]
        np.testing.assert_allclose(vectors, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[2, 4, 9, 3], [9, 10]], "cell 0 is framed by <cls> <species> and <eos>, cell 1 is not"),
        ([[2, 4, 9, 8]], "cell 0 has only one of <cls> <species> in front and <eos> at the end"),
        ([[2, 9, 8, 3]], "cell 0 has only one of <cls> <species> in front and <eos> at the end"),
        ([[2, 9, 8]], "cell 0 holds a special token inside its list"),
        ([[2, 4, 4, 9, 3]], "cell 0 holds a special token inside its list"),
    ],
)
def test_a_frame_is_whole_and_the_same_in_all_lists(lists, message, bundle):
    ids, ends = np.concatenate(lists).astype(np.int32), np.cumsum([0, *(len(x) for x in lists)])
    with pytest.raises(InputError, match=message):
        Cells(ids=ids, offsets=ends, obs=pa.table({"cell_id": range(len(lists))})).checked(bundle)
