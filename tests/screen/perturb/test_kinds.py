"""What every kind of perturbation must hold: passes counted in the encoder, symmetry, and no effect from nothing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rankshift.kernels.perturbed_lists import trace
from rankshift.screen import Bundle, Cells, InputError, Run, run
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.genes.framing import PLAIN
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import edits_of
from rankshift.screen.stats import StatOptions
from rankshift.screen.stats.statistics import statistics
from support import GOLDEN

CELLS = GOLDEN / "v1/cells.parquet"


class Counting(Encoder):
    """An encoder that notes the rank lists it is given, by what stands in them."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, share_first_layer=False)
        self.lists: list[tuple[int, ...]] = []

    def hidden(self, block, *rest):
        lists = block.lists()
        index, token, _ = trace(lists)
        ids = torch.where(token >= 0, token, lists.ids[index.clamp(min=0)])
        self.lists += [tuple(part.tolist()) for part in ids.split(block.arrays.length.tolist())]
        return super().hidden(block, *rest)


@pytest.fixture
def v1(bundles) -> Bundle:
    return Bundle.open(bundles["v1"])


def screened(options: dict, bundle: Bundle, out: Path) -> tuple[Run, list[tuple[int, ...]]]:
    """A whole screen, without its noise floor, and the lists that its encoder ran."""
    prepared = prepare(CELLS, bundle, out, Options(dtype="float32", **options))
    screener = Screener.open(prepared.path, bundle)
    encoder = Counting(bundle)
    for shard in screener.shards:
        screener.compute(shard, encoder)
    return prepared, encoder.lists


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_a_panel_costs_the_cells_that_have_its_genes_and_one_original_each(kind, v1, tmp_path):
    """2,000 genes, of which the vocabulary knows 150 and the cells have some: counted are the lists the encoder ran."""
    names = [v1.vocabulary.gene_of[t] for t in range(2, v1.vocabulary.size)]
    panel = [*names, *(f"ENSG9{i:010d}" for i in range(2000 - len(names)))]
    (tmp_path / "panel.txt").write_text("\n".join(panel))
    _, lists = screened({"perturb": kind, "genes": str(tmp_path / "panel.txt")}, v1, tmp_path / "run")
    cells = Cells.read(CELLS, v1)
    own = [tuple(cells.ids_of(i).tolist()) for i in range(len(cells))]
    if kind == "delete":
        expected = [x for ids in own for x in (ids, *(tuple(t for t in ids if t != gene) for gene in ids))]
        assert sorted(lists) == sorted(expected)
        assert len(lists) == sum(map(len, own)) + len(own)
    else:  # absent genes are put in front, too; where a cell is full the original is cut, which is one more of it
        originals = [x for x in lists if any(x == ids[: len(x)] for ids in own)]
        unchanged = len(own)  # the gene in front, put in front
        full = sum(len(ids) == v1.input_size for ids in own)
        assert len(originals) == len(own) + unchanged + full
        assert len(lists) == len(names) * len(own) + len(own) + full


def test_several_panels_share_genes_and_originals(v1, tmp_path):
    cells = Cells.read(CELLS, v1)
    gene = v1.vocabulary.gene_of
    first, second = ([gene[t] for t in cells.ids_of(0)[part]] for part in (slice(0, 6), slice(4, 9)))
    for name, genes in (("heart", first), ("tfs", second)):
        (tmp_path / f"{name}.txt").write_text("\n".join(genes) + "\n")
    both = f"{tmp_path / 'heart.txt'},{tmp_path / 'tfs.txt'}"
    done, lists = screened({"perturb": "delete", "genes": both}, v1, tmp_path / "run")
    wanted = {v1.vocabulary.token_of(g) for g in {*first, *second}}
    idle = sum(not wanted & set(cells.ids_of(i).tolist()) for i in range(len(cells)))
    have = sum(len(wanted & set(cells.ids_of(i).tolist())) for i in range(len(cells)))
    assert len(lists) == have + len(cells) - idle
    panels = dict(zip(*done.sql("SELECT gene_ids, panels FROM perturbations").to_pydict().values(), strict=True))
    assert panels == {g: [n for n, some in (("heart", first), ("tfs", second)) if g in some] for g in {*first, *second}}
    rows = done.sql(
        "SELECT panel, count(*) AS n FROM shifts JOIN (SELECT perturbation, unnest(panels) AS panel FROM perturbations) "
        "USING (perturbation) GROUP BY 1 ORDER BY 1"
    ).to_pylist()
    assert [r["panel"] for r in rows] == ["heart", "tfs"]
    assert sum(r["n"] for r in rows) > have  # genes of both count in both
    with pytest.raises(InputError, match="2 panels are screened gene by gene, how together joins genes"):
        run(CELLS, v1.path, tmp_path / "no", perturb="delete", how="together", genes=both)
    with pytest.raises(InputError, match="beside ENSG1, which is none: give either files or genes"):
        run(CELLS, v1.path, tmp_path / "no", perturb="delete", genes=f"{tmp_path / 'heart.txt'},ENSG1")


MEASURE = Measure(level="cell", layers=2, states=None, tokens=3000)


def similarity_of(bundle: Bundle, **options) -> dict[tuple[int, tuple[int, ...]], float]:
    """Similarity by cell and genes, in the order of the list given."""
    cells = Cells.read(CELLS, bundle).take(range(4))
    perturb = asked(frame=PLAIN, limit=bundle.input_size, **options)
    found = shifts_of(cells, np.arange(4), Encoder(bundle), perturb, MEASURE)
    groups = perturb.groups
    return {(int(c), groups[p]): float(s) for c, p, s in zip(found.cell, found.key, found.similarity, strict=True)}


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_together_of_one_gene_is_each(kind, v1):
    genes = [int(t) for t in Cells.read(CELLS, v1).ids_of(0)[2:5]]
    each = similarity_of(v1, kind=kind, how="each", genes=tuple(genes))
    for gene in genes:
        alone = similarity_of(v1, kind=kind, how="together", genes=(gene,))
        assert alone == pytest.approx({key: value for key, value in each.items() if key[1] == (gene,)}, abs=1e-6)


def test_deleting_a_pair_has_no_order_and_overexpressing_one_has(v1):
    """A deletion leaves the same list either way; an overexpression puts the first gene named in front of the second."""
    a, b = (int(t) for t in Cells.read(CELLS, v1).ids_of(0)[[4, 11]])
    for how in ("pairs", "together"):
        one, two = (
            {cell: value for (cell, _), value in similarity_of(v1, kind="delete", how=how, genes=genes).items()}
            for genes in ((a, b), (b, a))
        )
        assert one
        assert one == pytest.approx(two, abs=1e-6)
        one, two = (
            {cell: value for (cell, _), value in similarity_of(v1, kind="overexpress", how=how, genes=genes).items()}
            for genes in ((a, b), (b, a))
        )
        assert max(abs(one[cell] - two[cell]) for cell in one) > 1e-5


def test_what_changes_nothing_is_no_effect_and_no_hit(v1, tmp_path):
    """The gene in front, overexpressed, leaves the list as it is: similarity 1 and shift 0 within the noise floor."""
    ids = Cells.read(CELLS, v1).ids_of(0)
    draw = np.random.default_rng(0)
    lists = [np.concatenate([ids[:1], draw.permutation(ids[1:])]) for _ in range(24)]  # one gene in front of all
    obs = pa.table({"cell_id": [f"c{i}" for i in range(24)], "state": ["ill"] * 16 + ["well"] * 8})
    cells = Cells(ids=np.concatenate(lists), offsets=np.arange(25) * len(ids), obs=obs)
    front, *others = (v1.vocabulary.gene_of[t] for t in ids[:24])
    route = {"state_key": "state", "start": "ill", "goal": "well"}
    done = run(cells, v1.path, tmp_path / "run", perturb="overexpress", genes=[front, *others], **route)
    for column, nothing in (("similarity", 1), ("shift_well", 0)):
        floor = max(done.manifest["noise_floor"][column]["max"], 1e-6)
        query = f"SELECT gene_ids, max(abs({column} - {nothing})) AS off FROM shifts GROUP BY 1"
        off = done.frame(query).set_index("gene_ids").off
        assert off[front] <= floor
        assert (off[others] > 10 * floor).all()
    for mode in ("goal", "mixture"):
        table = statistics(done, mode, judging=StatOptions(bootstrap=0)).table().to_pandas().set_index("gene_ids")
        assert not table.hit[front]
    assert table.fdr[front] < 0.05  # it does differ from the others, which all do something


def test_the_gene_in_front_is_not_activated_and_the_last_not_inhibited():
    cell = np.arange(10, 50)
    for kind, gene in (("activate", 10), ("inhibit", 49)):
        for quartiles in (1, 2, 3):
            perturb = asked(kind=kind, how="each", genes=None, frame=PLAIN, limit=64, rank_shift=quartiles)
            labels = edits_of(cell, perturb).key
            assert gene not in labels
            assert len(labels) > 20
