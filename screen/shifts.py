"""Shifts of a group of cells: originals once, perturbed lists in batches, cosines, rows. The loop the project exists for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from rankshift.kernels.cosine_shift import BaseCells, CosineShift, cosine_rows, cosine_shift, prepare_base
from rankshift.screen.batches import Batch, ListArrays, batches, join
from rankshift.screen.cells import Cells
from rankshift.screen.edits import CellEdits, Perturb, edits_of
from rankshift.screen.encoder import Encoder
from rankshift.screen.originals import original_lists

Done = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is measured: `level` cell (mean over genes) or cls; `layers` encoder layers below it; state vectors [S, D].

    `tokens`: rows of a batch at most.
    """

    level: str
    layers: int
    states: np.ndarray | None
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifts:
    """Rows of one or more cells. cell, perturbation int32 [P] (perturbation: token of the gene, or 0 for a joint one);
    similarity, cell_cosine float32 [P]; before, after float32 [P, S]."""

    cell: np.ndarray
    perturbation: np.ndarray
    similarity: np.ndarray
    cell_cosine: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def table(self, states: Sequence[str], perturbation_of: np.ndarray) -> pa.Table:
        """The rows as they are stored; `perturbation_of` [V] turns a token into the run's perturbation number."""
        columns = {
            "cell": pa.array(self.cell, pa.int32()),
            "perturbation": pa.array(perturbation_of[self.perturbation], pa.int32()),
            "similarity": pa.array(self.similarity, pa.float32()),
            "cell_cosine": pa.array(self.cell_cosine, pa.float32()),
        }
        for s, name in enumerate(states):
            columns[f"cos_before_{name}"] = pa.array(self.before[:, s], pa.float32())
            columns[f"shift_{name}"] = pa.array(self.after[:, s] - self.before[:, s], pa.float32())
        return pa.table(columns)


def shifts_of(
    cells: Cells,
    numbers: np.ndarray,
    encoder: Encoder,
    perturb: Perturb,
    measure: Measure,
    some: Mapping[int, slice | np.ndarray] | None = None,
    done: Done = lambda n: None,
) -> Shifts:
    """Shifts of the cells `numbers`; of a cell in `some` only these of its perturbed lists. `done` is told rows as they come.

    On out-of-memory of a GPU the batch is halved and the group begins again; a single list that does not fit is an error.
    """
    rows: list[Shifts] = []
    for group, edits in groups(cells, numbers, perturb, measure.tokens, some or {}):
        tokens = measure.tokens
        while True:
            try:
                found = _group_shifts(cells, group, edits, encoder, perturb.framed, measure, tokens, done)
                break
            except torch.OutOfMemoryError:
                longest = max(int(e.length.max()) for e in edits)
                if tokens <= longest:
                    raise
                torch.cuda.empty_cache()
                tokens = max(tokens // 2, longest)
        rows.append(found)
    return _stack(rows, 0 if measure.states is None else len(measure.states))


def groups(
    cells: Cells, numbers: np.ndarray, perturb: Perturb, tokens: int, some: Mapping[int, slice | np.ndarray]
) -> Iterator[tuple[np.ndarray, list[CellEdits]]]:
    """Neighbouring cells whose perturbed lists fit one batch together; a cell that fills it is a group of its own."""
    group: list[int] = []
    edits: list[CellEdits] = []
    filled = 0
    for number in numbers.tolist():
        lists = edits_of(cells.ids_of(number), perturb)
        if number in some:
            lists = lists.part(some[number])
        if not len(lists):
            continue
        size = int(lists.length.sum())
        if group and filled + size > tokens:
            yield np.array(group), edits
            group, edits, filled = [], [], 0
        group.append(number)
        edits.append(lists)
        filled += size
    if group:
        yield np.array(group), edits


def _group_shifts(
    cells: Cells,
    group: np.ndarray,
    edits: list[CellEdits],
    encoder: Encoder,
    framed: bool,
    measure: Measure,
    tokens: int,
    done: Done,
) -> Shifts:
    some = cells.take(group)
    ids = torch.tensor(some.ids)
    originals, partners = _originals(some, edits, framed)
    lists = join(edits, some.offsets[:-1], some.lengths, partners)
    by_row = measure.level == "cls"
    before = _run_originals(encoder, ids, originals, measure, tokens, framed)
    states = None if measure.states is None else torch.from_numpy(measure.states).to(encoder.device)
    packed = torch.empty(int(originals.length.sum()), dtype=torch.int32)  # partners are found by place, not by id

    @torch.inference_mode()
    def compare(block: Batch, hidden: torch.Tensor) -> CosineShift:
        if isinstance(before, BaseCells):
            return cosine_shift(before, hidden, block.partners(packed).to(encoder.device, non_blocking=True))
        mine = np.searchsorted(originals.partner, block.arrays.partner)
        return cosine_rows(hidden, before[torch.from_numpy(mine).to(encoder.device)], states)

    found: list[CosineShift] = []
    try:
        for block in encoder.map(batches(ids, lists, tokens), compare, layers=measure.layers, first_rows=by_row):
            found.append(block)
            done(len(block.similarity))
    except torch.OutOfMemoryError:
        done(-sum(len(block.similarity) for block in found))
        raise

    def gather(name: str) -> np.ndarray:
        return torch.cat([getattr(f, name) for f in found]).float().cpu().numpy()

    none = np.empty((len(lists), 0), np.float32)
    return Shifts(
        cell=np.repeat(group, [len(e) for e in edits]).astype(np.int32),
        perturbation=np.concatenate([e.perturbation for e in edits]),
        similarity=gather("similarity"),
        cell_cosine=gather("cell_cosine"),
        before=none if states is None else gather("state_before"),
        after=none if states is None else gather("state_after"),
    )


def _originals(some: Cells, edits: list[CellEdits], framed: bool) -> tuple[ListArrays, list[np.ndarray]]:
    """One original per cell and length it is compared at, and for every perturbed list the place of its own."""
    kept = [np.unique(e.base_length, return_inverse=True) for e in edits]
    counts = [len(lengths) for lengths, _ in kept]
    originals = original_lists(
        np.repeat(some.offsets[:-1], counts),
        np.repeat(some.lengths, counts),
        np.concatenate([k for k, _ in kept]),
        framed,
    )
    first = np.concatenate([[0], np.cumsum(counts)])
    return originals, [originals.partner[first[i] + inverse] for i, (_, inverse) in enumerate(kept)]


def _run_originals(
    encoder: Encoder, ids: torch.Tensor, originals: ListArrays, measure: Measure, tokens: int, framed: bool
) -> BaseCells | torch.Tensor:
    """Prepared originals with every row, or their <cls> rows [C, D]."""
    by_row = measure.level == "cls"
    parts = batches(ids, originals, tokens)
    hidden = list(encoder.map(parts, lambda block, rows: rows, layers=measure.layers, first_rows=by_row))
    before = hidden[0] if len(hidden) == 1 else torch.cat(hidden)
    if by_row:
        return before
    return prepare_base(
        before,
        torch.from_numpy(originals.partner),
        torch.from_numpy(originals.partner_length),
        skip_first=int(framed),
        skip_last=int(framed),
        states=None if measure.states is None else torch.from_numpy(measure.states),
    )


def _stack(rows: list[Shifts], states: int) -> Shifts:
    def column(name: str, empty: np.ndarray) -> np.ndarray:
        return np.concatenate([getattr(r, name) for r in rows]) if rows else empty

    none, wide = np.empty(0, np.float32), np.empty((0, states), np.float32)
    return Shifts(
        cell=column("cell", none.astype(np.int32)),
        perturbation=column("perturbation", none.astype(np.int32)),
        similarity=column("similarity", none),
        cell_cosine=column("cell_cosine", none),
        before=column("before", wide),
        after=column("after", wide),
    )
