"""Shifts of a group of cells: originals once, perturbed lists in batches, cosines, rows. The loop the project exists for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from rankshift.kernels.cosine_shift import BaseCells, CosineShift, cosine_rows, cosine_shift, prepare_base
from rankshift.kernels.perturbed_lists import sent, trace
from rankshift.screen.cells.cells import Cells, CellTable
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.cells.uncropped import extended
from rankshift.screen.embed.cell_embeddings import original_lists
from rankshift.screen.encoder.batches import Batch, ListArrays, batches, groups, join
from rankshift.screen.encoder.beside import Beside
from rankshift.screen.encoder.device import out_of_memory
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.shift_rows import Shifts, stack, with_alone
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.edits import CellEdits
from rankshift.screen.perturb.perturbation import Perturb
from rankshift.screen.runs.begun import Begun, Block

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


def shifts_of(
    cells: CellTable,
    numbers: np.ndarray,
    encoder: Encoder,
    perturb: Perturb,
    measure: Measure,
    some: Mapping[int, slice | np.ndarray] | None = None,
    done: Done = lambda n: None,
    *,
    apart: bool = False,
    begun: Begun | None = None,
) -> Shifts:
    """Shifts of the cells `numbers`; a cell in `some` gets only these of its lists. `done` is told of rows as they come.

    begun: blocks of these cells that are there already, and where those that come are kept.

    apart: on a CPU every cell has batches of its own: a dozen lists of a cell share the first layer, which those of several
    cells cannot. A GPU needs larger batches than that.
    When memory is out the batch is halved and the group begins again; a single list that does not fit is an error. What
    fewer bits than float32 cannot hold is computed again in float32, with its group, and marked in the rows.
    """
    rows: list[Shifts] = []
    kept_rows = encoder.kept_rows(measure.layers)
    for number, (group, edits) in enumerate(groups(cells, numbers, perturb, measure.tokens, some or {}, kept_rows)):
        tokens, kept = measure.tokens, None if begun is None else GroupBegun(begun, number)
        while True:
            try:
                rows.append(
                    _group_shifts(cells, group, edits, encoder, perturb.frame, measure, tokens, done, apart, kept)
                )
                break
            except RuntimeError as error:
                longest = max(int(e.length.max()) for e in edits)
                if not out_of_memory(error) or tokens <= longest:
                    raise
                tokens = max(min(tokens, longest * sum(len(e) for e in edits)) // 2, longest)
            torch.cuda.empty_cache()  # here, where the error and the tensors that its frames hold are gone
    return stack(rows, Shifts.none(0 if measure.states is None else len(measure.states), perturb.how == "pairs"))


# Cosines of a block; with genes, the token of every row or -1; for <cls> with genes, the cosines of the genes too.
Found = tuple[CosineShift, torch.Tensor | None, CosineShift | None]


def _group_shifts(
    cells: CellTable,
    group: np.ndarray,
    edits: list[CellEdits],
    encoder: Encoder,
    frame: Frame,
    measure: Measure,
    tokens: int,
    done: Done,
    apart: bool,
    kept: "GroupBegun | None",
) -> Shifts:
    """Shifts of cells that are encoded together: their originals, then their lists (of pairs, also their genes alone)."""
    some = extended(cells.take(group))
    ids = torch.tensor(some.ids)
    runs = [(i, part) for i, e in enumerate(edits) for part in ((e,) if e.alone is None else (e, e.alone))]
    originals, partners = _originals(some, runs, frame)
    owner = np.array([i for i, _ in runs])
    lists = join([part for _, part in runs], some.offsets[:-1][owner], some.lengths[owner], partners)
    by_row = measure.level == "cls" and not measure.genes
    apart = apart and encoder.device.type == "cpu"
    run, parts, cells_first = encoder.map, batches(ids, lists, tokens, apart=apart), None
    shares = measure.layers > (1 if by_row else 0)
    if apart and shares and lists.length.sum() <= tokens:
        ready, cells_first = encoder.ahead(parts)
        run, parts = encoder.map_ahead, iter(ready)
    beside = encoder.beside(originals)
    before = _run_originals(encoder, ids, originals, measure, tokens, frame, cells_first, beside)
    beside = None if beside is None else beside.of_lists
    compare = _comparison(ids, originals, before, encoder, measure)
    pairs = len(runs) > len(edits)
    found = [] if kept is None else kept.blocks(tokens, encoder)
    done(0 if pairs else sum(len(block[0].similarity) for block in found))
    try:
        for block in run(parts, compare, layers=measure.layers, first_rows=by_row, after=len(found), beside=beside):
            if kept is not None:
                kept.add(tokens, encoder, len(found), block)
            found.append(block)
            done(0 if pairs else len(block[0].similarity))
    except RuntimeError:
        done(0 if pairs else -sum(len(block[0].similarity) for block in found))
        raise
    columns = _gathered(found)
    lost = _not_finite(columns, lists, frame, measure)
    wider = encoder.wider if lost else None
    if lost and wider is None:
        raise InputError(
            f"{lost} perturbed lists have no finite value in float32: make the bundle of weights that are not damaged"
        )
    if wider is not None:
        done(0 if pairs else -len(lists))
        found.clear()
        again = _group_shifts(cells, group, edits, wider, frame, measure, tokens, done, apart, kept)
        return replace(again, wider=np.ones(len(again.cell), bool))

    wide = np.empty((len(lists), 0), np.float32)
    shifts = Shifts(
        cell=np.repeat(group[owner], [len(part) for _, part in runs]).astype(np.int32),
        key=np.concatenate([part.key for _, part in runs]),
        similarity=columns["similarity"][:, 0],
        cell_cosine=columns["cell_cosine"][:, 0],
        before=columns.get("state_before", wide),
        after=columns.get("state_after", wide),
        first=wide,
        second=wide,
        batch_rows=np.full(len(lists), tokens, np.int32),
        wider=np.zeros(len(lists), bool),
        **_gene_rows(found, lists.length),
    )
    if pairs:
        shifts = with_alone(shifts, edits)
        done(len(shifts.cell))
    return shifts


@dataclass(frozen=True, slots=True)
class GroupBegun:
    """The blocks of one group of cells that are kept, under what their bits depend on: rows of a batch, precision."""

    begun: Begun
    group: int

    def blocks(self, tokens: int, encoder: Encoder) -> list[Found]:
        """The first blocks, as `compare` gave them."""
        return [_found(block, encoder.device) for block in self.begun.blocks(self._key(tokens, encoder))]

    def add(self, tokens: int, encoder: Encoder, number: int, found: Found) -> None:
        """Keep a block."""
        self.begun.add(self._key(tokens, encoder), number, lambda: _arrays(found))

    def _key(self, tokens: int, encoder: Encoder) -> str:
        return f"{self.group}-{tokens}-{encoder.precision}"


def _arrays(found: Found) -> dict[str, np.ndarray]:
    cosines, token, genes = found
    tensors = {"token": token}
    for name, part in (("cosines", cosines), ("genes", genes)):
        if part is not None:
            tensors |= {f"{name}.{field.name}": getattr(part, field.name) for field in fields(part)}
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items() if tensor is not None}


def _found(block: Block, device: torch.device) -> Found:
    """What `_arrays` took apart."""

    def tensor(name: str) -> Any:
        return torch.from_numpy(block[name]).to(device) if name in block else None

    def part(name: str) -> CosineShift:
        return CosineShift(**{field.name: tensor(f"{name}.{field.name}") for field in fields(CosineShift)})

    return part("cosines"), tensor("token"), part("genes") if "genes.similarity" in block else None


def _gathered(found: list[Found]) -> dict[str, np.ndarray]:
    """Columns of all blocks on the host, float32 [P, *]: they come in one copy, the only one a group waits for."""
    names = ["similarity", "cell_cosine", "pairs"]
    names += [] if found[0][0].state_after is None else ["state_before", "state_after"]
    parts = [torch.cat([getattr(block[0], name) for block in found]).float() for name in names]
    if found[0][2] is not None:
        names += ["gene_similarity", "gene_pairs"]
        parts += [torch.cat([getattr(block[2], name) for block in found]).float() for name in ("similarity", "pairs")]
    parts = [part if part.dim() == 2 else part[:, None] for part in parts]
    edges = np.cumsum([part.shape[1] for part in parts])[:-1]
    whole = torch.cat(parts, 1).cpu().numpy()
    return {name: np.ascontiguousarray(part) for name, part in zip(names, np.split(whole, edges, 1), strict=True)}


def _not_finite(columns: Mapping[str, np.ndarray], lists: ListArrays, frame: Frame, measure: Measure) -> int:
    """Lists with a value that is not finite although there is something to compare: bits overflowed, no gene was missing."""
    gene = measure.level == "cls" or np.minimum(lists.length, lists.partner_length) > frame.head + frame.tail
    bad = (columns["pairs"][:, 0] > 0) & ~np.isfinite(columns["similarity"][:, 0])
    for name in ("cell_cosine", "state_before", "state_after"):
        if name in columns:
            bad |= gene & ~np.isfinite(columns[name]).all(1)
    if "gene_pairs" in columns:
        bad |= (columns["gene_pairs"][:, 0] > 0) & ~np.isfinite(columns["gene_similarity"][:, 0])
    return int(bad.sum())


def _comparison(
    ids: torch.Tensor,
    originals: ListArrays,
    before: tuple[BaseCells | None, torch.Tensor | None],
    encoder: Encoder,
    measure: Measure,
) -> Callable[[Batch, torch.Tensor], Found]:
    """What is done with a block's hidden states: cosines to the originals, all rows or <cls> rows, and to the states."""
    base, first_rows = before
    states = None if measure.states is None else sent(torch.from_numpy(measure.states), encoder.device)
    packed = torch.cat(
        [ids[b : b + n] for b, n in zip(originals.base.tolist(), originals.length.tolist(), strict=True)]
    )

    @torch.inference_mode()
    def compare(block: Batch, hidden: torch.Tensor) -> Found:
        cosines = token = genes = None
        if base is not None:
            partners = block.partners(packed).to(encoder.device)
            cosines = cosine_shift(base, hidden, partners, gene_cosines=measure.genes)
            if cosines.gene is not None:
                index, _, _ = trace(partners)
                token = torch.where(cosines.gene.isnan(), -1, partners.ids[index.clamp(0, len(packed) - 1)])
            hidden = hidden[partners.start[:-1]] if first_rows is not None else hidden
        if first_rows is not None:
            mine = torch.from_numpy(np.searchsorted(originals.partner, block.arrays.partner))
            by_row = cosine_rows(hidden, first_rows, states, sent(mine, encoder.device))
            genes, cosines = cosines, by_row if cosines is None else replace(by_row, gene=cosines.gene)
        assert cosines is not None
        return cosines, token, genes

    return compare


def _gene_rows(found: list[Found], length: np.ndarray) -> dict[str, np.ndarray]:
    """Cosines of the genes that were not perturbed, with the number of their list and their token."""
    if not found or found[0][1] is None:
        return {
            "gene_row": np.empty(0, np.int32),
            "gene_token": np.empty(0, np.int32),
            "gene_cosine": np.empty(0, np.float32),
        }
    token = torch.cat([t for _, t, _ in found if t is not None]).cpu().numpy()
    cosine = torch.cat([block.gene for block, _, _ in found if block.gene is not None]).cpu().numpy()
    kept = token >= 0
    row = np.repeat(np.arange(len(length), dtype=np.int32), length)
    return {"gene_row": row[kept], "gene_token": token[kept].astype(np.int32), "gene_cosine": cosine[kept]}


def _originals(some: Cells, runs: list[tuple[int, CellEdits]], frame: Frame) -> tuple[ListArrays, list[np.ndarray]]:
    """One original per cell and length it is compared at, and for every run of lists the places of their own."""
    kept = [np.unique(np.concatenate([e.base_length for i, e in runs if i == cell])) for cell in range(len(some))]
    counts = [len(lengths) for lengths in kept]
    originals = original_lists(
        np.repeat(some.offsets[:-1], counts), np.repeat(some.lengths, counts), np.concatenate(kept), frame
    )
    first = offsets_of(np.array(counts))
    return originals, [originals.partner[first[i] + np.searchsorted(kept[i], e.base_length)] for i, e in runs]


def _run_originals(
    encoder: Encoder,
    ids: torch.Tensor,
    originals: ListArrays,
    measure: Measure,
    tokens: int,
    frame: Frame,
    first: Mapping[int, torch.Tensor] | None,
    beside: Beside | None,
) -> tuple[BaseCells | None, torch.Tensor | None]:
    """The originals with every row, where genes or their mean are compared, and their <cls> rows [C, D], where those are.

    first: of cells by where they begin in `ids`, what their first layer attends to; None where nobody looked for it.
    beside: keeps what the products of their lists are taken beside, where those are on differences.
    """
    cls = measure.level == "cls"
    by_row = cls and not measure.genes
    parts = batches(ids, originals, tokens, apart=first is not None)
    run = encoder.map
    if first is not None:
        known = first
        parts = (replace(part, attended=known.get(_cell_start(part.arrays))) for part in parts)
        run = encoder.map_ahead
    hidden = list(run(parts, lambda block, rows: rows, layers=measure.layers, first_rows=by_row, beside=beside))
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
    return base, before[sent(start, before.device)] if cls else None


def _cell_start(original: ListArrays) -> int:
    """Where the cell of one original begins in the packed ids; -1 where the original is shorter than it."""
    whole = (original.length == original.base_length).all()
    return int(original.base[0]) if whole else -1
