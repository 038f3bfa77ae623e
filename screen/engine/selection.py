"""The cells that a screen takes, and what they come to: lists, their lengths, operations. Nothing is computed by a model."""

import json
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from rankshift.screen.cells.cells import Cells, CellTable, blocks
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.cells.select import SEED, select
from rankshift.screen.cells.stored import ChosenCells
from rankshift.screen.encoder.cost import Extent, list_flops
from rankshift.screen.engine.ask import Asked, Say
from rankshift.screen.engine.options import Adaptive
from rankshift.screen.errors import InputError
from rankshift.screen.perturb.background import background
from rankshift.screen.perturb.perturbation import edits_of, eligible
from rankshift.screen.runs.shards import Shards, plan

LEAST_GENES, MOST_SHARE = 200, 0.05  # fewer genes, or more of them wanted: a full screen costs little more than --top
LISTED, BACKGROUND = "list", "background"  # panels of a screen with genes drawn beside a list
STATE_CELLS = 1000  # cells per state embedding at most, as the published code's default (PS 3.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Cells in the order in which they are screened, and the number of perturbed lists of each, int64 [n].

    present: bool by token, what is in their lists. digest: sha256 of their lists and ids. state_cells, state_labels: cells to
    make state vectors from, and the state of each, where no file gives the vectors.
    """

    asked: Asked
    cells: CellTable
    counts: np.ndarray
    present: np.ndarray
    digest: str
    state_cells: Cells | None
    state_labels: tuple[str, ...]

    @property
    def lists(self) -> int:
        """Perturbed lists, and so rows of the complete run."""
        return int(self.counts.sum())

    @property
    def longest(self) -> int:
        """Rows of the longest list."""
        return int(self.cells.lengths.max())

    @property
    def extent(self) -> Extent:
        """What of it decides the size of a shard."""
        lengths = self.cells.lengths
        return Extent(
            rows=int(self.counts.astype(np.int64) @ lengths), mean_length=float(lengths.mean()), longest=self.longest
        )

    @property
    def flops(self) -> float:
        """Operations of all lists and the originals."""
        each = list_flops(self.asked.bundle.sizes, self.asked.layers, self.cells.lengths)
        return float((each * (self.counts + 1)).sum())

    def shards(self, tokens: int) -> Shards:
        """The shards of about `tokens` rows they are cut into."""
        return Shards.of(plan(self.counts, self.cells.lengths, tokens))


def select_cells(asked: Asked, say: Say) -> Selected:
    """Choose the cells and count their lists; raises InputError when there are none."""
    options, perturb = asked.options, asked.perturb
    rows = select(
        asked.table,
        where=options.where,
        state_key=options.state_key,
        start=options.start,
        contains=perturb.required or None,
        max_cells=options.max_cells,
    )
    if perturb.refill and not asked.table.refillable:
        raise InputError(
            f"--refill needs the genes below the input limit, {asked.source} has none: "
            "tokenize again with --keep-uncropped"
        )
    # Genes that may move up into a list: no more of them than a perturbation deletes.
    cells = ChosenCells(table=asked.table, rows=rows, refill=perturb.most if perturb.refill else None)
    if options.background is not None:
        asked = _with_background(asked, cells, options.background)
    counts, present, digest, refilled = _surveyed(cells, asked)
    if perturb.refill:
        say(f"{refilled} of {len(cells)} cells refill from below the input limit")
    idle = int((counts == 0).sum())
    if idle and counts.sum():
        say(f"{idle} of {len(cells)} cells have nothing to {perturb.kind.name} and get no row")
    if not counts.sum():
        raise InputError(
            f"none of the {len(cells)} cells has a gene to {perturb.kind.name}: choose other genes or cells"
        )
    over = int((cells.lengths < asked.bundle.input_size).sum()) if perturb.reference_overflow else 0
    if over:
        say(
            f"--reference-overflow: originals among {over} cells below the input limit may be cut as the published code does"
        )
    state_cells, labels = _of_states(asked)
    return Selected(
        asked=asked,
        cells=cells,
        counts=counts,
        present=present,
        digest=digest,
        state_cells=state_cells,
        state_labels=labels,
    )


def _with_background(asked: Asked, cells: CellTable, count: int) -> Asked:
    """The list, and as a panel of their own genes that are drawn beside it."""
    bundle, perturb, listed = asked.bundle, asked.perturb, asked.perturb.genes
    assert listed is not None
    if BACKGROUND in asked.panels:
        raise InputError(f"a list is called {BACKGROUND}, as the genes of --background are: rename the file")
    drawn = background(cells, listed, bundle.vocabulary.is_gene, count, SEED)
    gene = bundle.vocabulary.gene_of
    panels = asked.panels or {LISTED: [gene[token] for token in listed]}
    return replace(
        asked,
        perturb=replace(perturb, genes=(*listed, *drawn)),
        panels={**panels, BACKGROUND: [gene[token] for token in drawn]},
    )


def _surveyed(cells: CellTable, asked: Asked) -> tuple[np.ndarray, np.ndarray, str, int]:
    """`counts`, `present` and `digest` of `Selected`, and how many cells have genes to refill from: read once, in blocks."""
    counts, refilled = [], 0
    present = np.zeros(asked.bundle.vocabulary.size, bool)
    digest, below = sha256(), 0
    for some in blocks(cells):
        counts.append(eligible(some.ids, some.offsets, asked.perturb))
        present[some.ids] = True
        digest.update(some.ids.data)
        if some.below is not None:
            refilled += int((some.below.counts > 0).sum())
            below += len(some.below.ids)
    digest.update(offsets_of(cells.lengths).data)
    if below:
        for some in blocks(cells):
            digest.update(b"" if some.below is None else some.below.ids.data)
    digest.update(json.dumps(cells.obs.column("cell_id").to_pylist()).encode())
    return np.concatenate(counts), present, digest.hexdigest(), refilled


def check_top(selected: Selected, adaptive: Adaptive) -> None:
    """Refuse an adaptive screen where it cannot do what is asked, or where a full one costs little more."""
    cells, top, least = selected.cells, adaptive.top, adaptive.min_cells
    if adaptive.strata is not None and adaptive.strata not in cells.obs.column_names:
        raise InputError(
            f"--strata {adaptive.strata!r} is not a column: the columns are {', '.join(cells.obs.column_names)}"
        )
    count = np.zeros(selected.asked.bundle.vocabulary.size, np.int64)
    for some in blocks(cells):
        keys = [edits_of(some.ids_of(number), selected.asked.perturb).key for number in range(len(some))]
        count += np.bincount(np.concatenate(keys), minlength=len(count))
    check_share(int((count >= least).sum()), top, least)


def check_share(genes: int, top: int, least: int) -> None:
    """Refuse to look for the `top` of so many genes in at least `least` cells: they are too few, or a full screen is better."""
    if top > genes:
        raise InputError(f"--top is {top}, {genes} genes are in {least} cells: ask for fewer, or lower --min-cells")
    if genes < LEAST_GENES:
        raise InputError(f"{genes} genes are in {least} cells, --top pays from {LEAST_GENES}: leave it out")
    if top > MOST_SHARE * genes:
        raise InputError(
            f"--top is {top} of {genes} genes, it pays up to {MOST_SHARE:.0%} of them: leave it out for the full screen"
        )


def _of_states(asked: Asked) -> tuple[Cells | None, tuple[str, ...]]:
    """Cells of every state of the route, one state after the other."""
    options, route = asked.options, asked.options.route
    if route is None or options.states is not None:
        return None, ()
    rows = [
        select(asked.table, where=options.where, state_key=options.state_key, start=state, max_cells=STATE_CELLS)
        for state in route
    ]
    return asked.table.take(np.concatenate(rows)), tuple(np.repeat(route, [len(r) for r in rows]).tolist())
