"""Embeddings for the state map: some cells of every state, and the screened cells after the strongest perturbations.

A run stores cosines, not embeddings, so these are computed when a report is made, with the bundle the run was screened with
and no other, for as few cells as a map needs. What that would cost is known first, and too much is refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run

if TYPE_CHECKING:
    from rankshift.screen.bundle.bundle import Bundle
    from rankshift.screen.cells.cells import Cells
    from rankshift.screen.encoder.encoder import Encoder
    from rankshift.screen.engine.screener import Screener
    from rankshift.screen.families.sizes import Sizes

BUDGET = {"cpu": 1e13, "cuda": 1e15}  # FLOP: a minute or two
PER_STATE = 250  # cells drawn
PERTURBED = 24  # cells whose perturbed lists make an arrow
FEWEST = 5  # points shown where the budget is short; fewer say too little
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedded:
    """Embeddings float32 [cells, D]: `states` by name (start first), the run's own cells as "screened" without a route.

    moved: by perturbation, the mean over cells of the embedding after minus before, float32 [D], and over how many cells.
    """

    states: dict[str, np.ndarray]
    moved: dict[int, tuple[np.ndarray, int]]
    notes: tuple[str, ...] = ()


def embed_states(run: Run, perturbations: list[int], bundle: Path | None = None, cells: Path | None = None) -> Embedded:
    """Embed cells of the states of a run and what `perturbations` (numbers) make of the screened ones.

    bundle, cells: where they are now, by default where the run was screened from. Raises InputError when the bundle is not
    there or another one, or when it would cost more than BUDGET; without the cells only the screened ones are embedded.
    """
    # start-up time: torch and the encoder are loaded only when a map embeds cells
    from rankshift.screen.bundle.bundle import Bundle
    from rankshift.screen.embed.cell_embeddings import embed
    from rankshift.screen.encoder.device import default_device
    from rankshift.screen.encoder.encoder import Encoder, one_thread
    from rankshift.screen.engine.screener import Screener

    if run.manifest.screened is None:
        raise InputError(f"{run.path} was made without a model: there is nothing to embed with")
    recorded = run.manifest.screened.bundle
    opened = Bundle.open(Path(bundle or recorded.path))
    opened.check(recorded.weights_sha256, "give its bundle with --bundle")
    screener = Screener.open(run.path, opened)
    measure, device = screener.measure, default_device()
    budget = _Budget.of(opened.sizes, measure.layers, float(screener.cells.lengths.mean()), BUDGET[device])
    route = run.manifest.route
    drawn = budget.cells(PER_STATE, len(route.states) if route else 1)
    random = np.random.default_rng(SEED)
    own = np.sort(random.permutation(len(screener.cells))[:drawn])
    groups = {route.start if route else "screened": screener.cells.take(own)}
    notes: tuple[str, ...] = ()
    if route:
        others, notes = _other_states(run, cells, opened, drawn)
        groups |= others
    encoder = Encoder(opened, device=device, dtype="float32")
    with one_thread():
        states = {
            name: embed(some, encoder, level=measure.level, layer_count=measure.layers, tokens=measure.tokens)
            for name, some in groups.items()
        }
        per_gene = budget.lists(PERTURBED, len(perturbations)) if perturbations else 0
        moved = _moved(screener, encoder, perturbations, per_gene)
    return Embedded(states=states, moved=moved, notes=notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Budget:
    """How many lists of the run's mean length may be encoded: half for cells, half for perturbed lists."""

    most: int

    @staticmethod
    def of(sizes: "Sizes", layers: int, length: float, flops: float) -> "_Budget":
        # start-up time: torch and the encoder are loaded only when a map embeds cells
        from rankshift.screen.encoder.cost import list_flops

        return _Budget(most=int(flops / float(list_flops(sizes, max(layers, 1), np.array([length]))[0])))

    def cells(self, wanted: int, states: int) -> int:
        return self._share(wanted, states, 20)

    def lists(self, wanted: int, genes: int) -> int:
        return self._share(wanted, genes, FEWEST)

    def _share(self, wanted: int, parts: int, least: int) -> int:
        found = min(wanted, self.most // 2 // parts)
        if found < least:
            raise InputError(
                f"embedding {least} cells for each of {parts} takes too long on this processor: make the report on a GPU"
            )
        return found


def _other_states(
    run: Run, path: Path | None, bundle: "Bundle", drawn: int
) -> tuple[dict[str, "Cells"], tuple[str, ...]]:
    """Cells of the states beside the start, from the table that was screened; what is missing is said."""
    # start-up time: torch and the encoder are loaded only when a map embeds cells
    from rankshift.screen.cells.select import select
    from rankshift.screen.cells.stored import SpooledCells

    route, screened = run.manifest.route, run.screened
    assert route is not None
    others = route.states[1:]
    where = Path(path or screened.cells.path)
    try:
        table = SpooledCells.read(where, bundle)
    except (InputError, OSError):
        return {}, (
            f"the cells of {', '.join(others)} are not drawn: {where.name} is not there (give it with --cells)",
        )
    found, notes = {}, []
    for state in others:
        try:
            rows = select(table, where=screened.cells.where, state_key=route.key, start=state, max_cells=drawn)
            found[state] = table.take(rows)
        except InputError:
            notes.append(f"{where.name} has no cells of {state}")
    return found, tuple(notes)


def _moved(
    screener: "Screener", encoder: "Encoder", perturbations: list[int], per_gene: int
) -> dict[int, tuple[np.ndarray, int]]:
    """Mean displacement of the embedding by each perturbation, over the first `per_gene` cells drawn that have it."""
    # start-up time: torch and the encoder are loaded only when a map embeds cells
    import torch

    # start-up time: torch and the encoder are loaded only when a map embeds cells
    from rankshift.screen.embed.cell_embeddings import original_lists
    from rankshift.screen.encoder.batches import join
    from rankshift.screen.encoder.pooling import Pooling
    from rankshift.screen.perturb.perturbation import edits_of

    cells, perturb, measure = screener.cells, screener.perturb, screener.measure
    wanted = dict.fromkeys(perturbations, per_gene)
    sums = {n: np.zeros(encoder.hidden_size) for n in perturbations}
    used = dict.fromkeys(perturbations, 0)
    pooling = Pooling(first_row=measure.level == "cls", frame=cells.frame)
    for cell in np.random.default_rng(SEED).permutation(len(cells)).tolist():
        if not any(wanted.values()):
            break
        edits = edits_of(cells.ids_of(cell), perturb)
        numbers = screener.perturbation_of[edits.key]
        rows = np.flatnonzero([wanted.get(int(n), 0) > 0 for n in numbers])
        if not len(rows):
            continue
        part = edits.part(rows)
        one = cells.take([cell])
        ids, length = torch.tensor(one.ids), one.lengths
        kept = part.base_length
        nothing = np.zeros(len(part), np.int64)
        lists = join([part], one.offsets[:1], length, [nothing])
        originals = original_lists(nothing, np.repeat(length, len(part)), kept, cells.frame)
        after, before = (
            np.concatenate(list(encoder.embed(ids, a, pooling, layers=measure.layers, tokens=measure.tokens)))
            for a in (lists, originals)
        )
        for i, n in enumerate(numbers[rows].tolist()):
            sums[n] += after[i].astype(np.float64) - before[i]
            used[n] += 1
            wanted[n] -= 1
    return {n: ((sums[n] / used[n]).astype(np.float32), used[n]) for n in perturbations if used[n]}
