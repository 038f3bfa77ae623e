"""Shifts of a group of cells: originals once, perturbed lists in batches, cosines, rows. The loop the project exists for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import torch

from rankshift.kernels.cosine_shift import BaseCells, CosineShift, cosine_rows, cosine_shift, prepare_base
from rankshift.kernels.perturbed_lists import trace
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.uncropped import extended
from rankshift.screen.embed.cell_embeddings import original_lists
from rankshift.screen.encoder.batches import Batch, ListArrays, batches, join
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.edits import CellEdits, Perturb, edits_of

Done = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is measured: `level` cell (mean over genes) or cls; `layers` encoder layers below it; state vectors [S, D].

    tokens: rows of a batch at most. genes: keep the cosine of every gene that was not perturbed, too.
    """

    level: str
    layers: int
    states: np.ndarray | None
    tokens: int
    genes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifts:
    """Rows of one or more cells.

    cell, perturbation int32 [P] (perturbation: as in `CellEdits`); similarity, cell_cosine float32 [P]; before, after float32
    [P, S]. first, second float32 [P, 1 + S]: of pairs, similarity and shifts of each gene alone, else [P, 0].
    gene_row, gene_token int32 [G], gene_cosine float32 [G]: if measured, how near every gene stayed, by row of the above.
    """

    cell: np.ndarray
    perturbation: np.ndarray
    similarity: np.ndarray
    cell_cosine: np.ndarray
    before: np.ndarray
    after: np.ndarray
    first: np.ndarray
    second: np.ndarray
    gene_row: np.ndarray
    gene_token: np.ndarray
    gene_cosine: np.ndarray

    @staticmethod
    def none(states: int, pairs: bool) -> "Shifts":
        """No rows."""
        whole, real = np.empty(0, np.int32), np.empty(0, np.float32)
        wide, alone = np.empty((0, states), np.float32), np.empty((0, (1 + states) * pairs), np.float32)
        return Shifts(
            cell=whole,
            perturbation=whole,
            similarity=real,
            cell_cosine=real,
            before=wide,
            after=wide,
            first=alone,
            second=alone,
            gene_row=whole,
            gene_token=whole,
            gene_cosine=real,
        )

    @property
    def measured(self) -> np.ndarray:
        """Similarity and the shift towards each state, float32 [P, 1 + S]."""
        return np.column_stack([self.similarity, self.after - self.before])

    def table(self, states: Sequence[str], perturbation_of: np.ndarray) -> pa.Table:
        """The rows as they are stored; `perturbation_of` gives the run's number of a perturbation.

        interaction: what a pair does beyond its genes alone, similarity - (first + second - 1), shift - (first + second).
        """

        def real(column: np.ndarray) -> pa.Array:
            return pa.array(column, pa.float32(), from_pandas=True)  # NaN (no gene left to compare) as null

        columns = {
            "cell": pa.array(self.cell, pa.int32()),
            "perturbation": pa.array(perturbation_of[self.perturbation], pa.int32()),
            "similarity": real(self.similarity),
            "cell_cosine": real(self.cell_cosine),
        }
        for s, name in enumerate(states):
            columns[f"cos_before_{name}"] = real(self.before[:, s])
            columns[f"shift_{name}"] = real(self.after[:, s] - self.before[:, s])
        if self.first.shape[1]:
            both = self.measured
            for i, name in enumerate(["similarity", *(f"shift_{s}" for s in states)]):
                columns[f"{name}_first"], columns[f"{name}_second"] = real(self.first[:, i]), real(self.second[:, i])
                expected = self.first[:, i] + self.second[:, i] - (1 if i == 0 else 0)
                columns[f"{name}_interaction"] = real(both[:, i] - expected)
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

    When memory is out the batch is halved and the group begins again; a single list that does not fit is an error.
    """
    rows: list[Shifts] = []
    for group, edits in groups(cells, numbers, perturb, measure.tokens, some or {}):
        tokens = measure.tokens
        while True:
            try:
                found = _group_shifts(cells, group, edits, encoder, perturb.frame, measure, tokens, done)
                break
            except RuntimeError as error:
                longest = max(int(e.length.max()) for e in edits)
                if not _out_of_memory(error) or tokens <= longest:
                    raise
                torch.cuda.empty_cache()
                tokens = max(min(tokens, longest * sum(len(e) for e in edits)) // 2, longest)
        rows.append(found)
    return _stack(rows, Shifts.none(0 if measure.states is None else len(measure.states), perturb.how == "pairs"))


def _out_of_memory(error: Exception) -> bool:
    """Was it a GPU's memory or, which torch only tells in words, the CPU's?"""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def groups(
    cells: Cells, numbers: np.ndarray, perturb: Perturb, tokens: int, some: Mapping[int, slice | np.ndarray]
) -> Iterator[tuple[np.ndarray, list[CellEdits]]]:
    """Neighbouring cells whose perturbed lists fit one batch together; a cell that fills it is a group of its own."""
    group: list[int] = []
    edits: list[CellEdits] = []
    filled = 0
    for number in numbers.tolist():
        below = 0 if cells.below is None else cells.below.count(number)
        lists = edits_of(cells.ids_of(number), perturb, below)
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


Found = tuple[CosineShift, torch.Tensor | None]  # cosines of a block; with genes, the token of every row or -1


def _group_shifts(
    cells: Cells,
    group: np.ndarray,
    edits: list[CellEdits],
    encoder: Encoder,
    frame: Frame,
    measure: Measure,
    tokens: int,
    done: Done,
) -> Shifts:
    """Shifts of cells that are encoded together: their originals, then their lists (of pairs, also their genes alone)."""
    some = extended(cells.take(group))
    ids = torch.tensor(some.ids)
    runs = [(i, part) for i, e in enumerate(edits) for part in ((e,) if e.alone is None else (e, e.alone))]
    originals, partners = _originals(some, runs, frame)
    owner = np.array([i for i, _ in runs])
    lists = join([part for _, part in runs], some.offsets[:-1][owner], some.lengths[owner], partners)
    before = _run_originals(encoder, ids, originals, measure, tokens, frame)
    compare = _comparison(ids, originals, before, encoder, measure)
    by_row = measure.level == "cls" and not measure.genes
    pairs = len(runs) > len(edits)
    found: list[Found] = []
    try:
        for block in encoder.map(batches(ids, lists, tokens), compare, layers=measure.layers, first_rows=by_row):
            found.append(block)
            done(0 if pairs else len(block[0].similarity))
    except RuntimeError:
        done(0 if pairs else -sum(len(block.similarity) for block, _ in found))
        raise

    def gather(name: str) -> np.ndarray:
        return torch.cat([getattr(block, name) for block, _ in found]).float().cpu().numpy()

    wide = np.empty((len(lists), 0), np.float32)
    shifts = Shifts(
        cell=np.repeat(group[owner], [len(part) for _, part in runs]).astype(np.int32),
        perturbation=np.concatenate([part.perturbation for _, part in runs]),
        similarity=gather("similarity"),
        cell_cosine=gather("cell_cosine"),
        before=wide if measure.states is None else gather("state_before"),
        after=wide if measure.states is None else gather("state_after"),
        first=wide,
        second=wide,
        **_gene_rows(found, lists.length),
    )
    if pairs:
        shifts = _with_alone(shifts, edits)
        done(len(shifts.cell))
    return shifts


def _comparison(
    ids: torch.Tensor,
    originals: ListArrays,
    before: tuple[BaseCells | None, torch.Tensor | None],
    encoder: Encoder,
    measure: Measure,
) -> Callable[[Batch, torch.Tensor], Found]:
    """What is done with a block's hidden states: cosines to the originals, all rows or <cls> rows, and to the states."""
    base, first_rows = before
    states = None if measure.states is None else torch.from_numpy(measure.states).to(encoder.device)
    packed = torch.cat(
        [ids[b : b + n] for b, n in zip(originals.base.tolist(), originals.length.tolist(), strict=True)]
    )

    @torch.inference_mode()
    def compare(block: Batch, hidden: torch.Tensor) -> Found:
        cosines = token = None
        if base is not None:
            partners = block.partners(packed).to(encoder.device, non_blocking=True)
            cosines = cosine_shift(base, hidden, partners, gene_cosines=measure.genes)
            if cosines.gene is not None:
                index, _, _ = trace(partners)
                token = torch.where(cosines.gene.isnan(), -1, partners.ids[index.clamp(0, len(packed) - 1)])
            hidden = hidden[partners.start[:-1]] if first_rows is not None else hidden
        if first_rows is not None:
            mine = torch.from_numpy(np.searchsorted(originals.partner, block.arrays.partner)).to(encoder.device)
            by_row = cosine_rows(hidden, first_rows[mine], states)
            cosines = by_row if cosines is None else replace(by_row, gene=cosines.gene)
        assert cosines is not None
        return cosines, token

    return compare


def _gene_rows(found: list[Found], length: np.ndarray) -> dict[str, np.ndarray]:
    """Cosines of the genes that were not perturbed, with the number of their list and their token."""
    if not found or found[0][1] is None:
        return {
            "gene_row": np.empty(0, np.int32),
            "gene_token": np.empty(0, np.int32),
            "gene_cosine": np.empty(0, np.float32),
        }
    token = torch.cat([t for _, t in found if t is not None]).cpu().numpy()
    cosine = torch.cat([block.gene for block, _ in found if block.gene is not None]).cpu().numpy()
    kept = token >= 0
    row = np.repeat(np.arange(len(length), dtype=np.int32), length)
    return {"gene_row": row[kept], "gene_token": token[kept].astype(np.int32), "gene_cosine": cosine[kept]}


def _with_alone(shifts: Shifts, edits: list[CellEdits]) -> Shifts:
    """Rows of the pairs, with what each gene does alone beside them."""
    values = shifts.measured
    kept, first, second = [], [], []
    begin = 0
    for e in edits:
        assert e.alone is not None
        assert e.members is not None
        alone = begin + len(e) + e.members
        kept.append(np.arange(begin, begin + len(e)))
        first.append(values[alone[:, 0]])
        second.append(values[alone[:, 1]])
        begin += len(e) + len(e.alone)
    rows = np.concatenate(kept)
    number = np.full(len(shifts.cell), -1, np.int32)
    number[rows] = np.arange(len(rows))
    of_pair = number[shifts.gene_row] >= 0
    return replace(
        shifts,
        **{
            n: getattr(shifts, n)[rows]
            for n in ("cell", "perturbation", "similarity", "cell_cosine", "before", "after")
        },
        first=np.concatenate(first),
        second=np.concatenate(second),
        gene_row=number[shifts.gene_row][of_pair],
        gene_token=shifts.gene_token[of_pair],
        gene_cosine=shifts.gene_cosine[of_pair],
    )


def _originals(some: Cells, runs: list[tuple[int, CellEdits]], frame: Frame) -> tuple[ListArrays, list[np.ndarray]]:
    """One original per cell and length it is compared at, and for every run of lists the places of their own."""
    kept = [np.unique(np.concatenate([e.base_length for i, e in runs if i == cell])) for cell in range(len(some))]
    counts = [len(lengths) for lengths in kept]
    originals = original_lists(
        np.repeat(some.offsets[:-1], counts), np.repeat(some.lengths, counts), np.concatenate(kept), frame
    )
    first = np.concatenate([[0], np.cumsum(counts)])
    return originals, [originals.partner[first[i] + np.searchsorted(kept[i], e.base_length)] for i, e in runs]


def _run_originals(
    encoder: Encoder, ids: torch.Tensor, originals: ListArrays, measure: Measure, tokens: int, frame: Frame
) -> tuple[BaseCells | None, torch.Tensor | None]:
    """The originals with every row, where genes or their mean are compared, and their <cls> rows [C, D], where those are."""
    cls = measure.level == "cls"
    by_row = cls and not measure.genes
    parts = batches(ids, originals, tokens)
    hidden = list(encoder.map(parts, lambda block, rows: rows, layers=measure.layers, first_rows=by_row))
    before = hidden[0] if len(hidden) == 1 else torch.cat(hidden)
    if by_row:
        return None, before
    start = torch.from_numpy(originals.partner)
    base = prepare_base(
        before,
        start,
        torch.from_numpy(originals.partner_length),
        skip_first=frame.head,
        skip_last=frame.tail,
        states=None if measure.states is None or cls else torch.from_numpy(measure.states),
    )
    return base, before[start.to(before.device)] if cls else None


def _stack(rows: list[Shifts], none: Shifts) -> Shifts:
    """The rows of several groups; rows of genes count on."""
    if not rows:
        return none
    begin = np.concatenate([[0], np.cumsum([len(r.cell) for r in rows])[:-1]]).astype(np.int32)
    shifted = [replace(r, gene_row=r.gene_row + b) for r, b in zip(rows, begin, strict=True)]
    return Shifts(**{f.name: np.concatenate([getattr(r, f.name) for r in shifted]) for f in fields(Shifts)})
