"""The adjoint prediction: one forward and one backward pass of a cell predict all its single perturbations at once.

A perturbation moves rows: a deletion moves all behind it up by one, a gene put at the front moves those it jumps over down.
Row j alone at place p, the other rows as they are, has the hidden rows h'_j(p) (its keys and values in every layer follow), and
what the embedding e moves along a direction g (the derivative of cos(e, state) by e) is

    G_j(p) = g . (h'_j - h_j) / n + sum_layers sum_{i != j} a_i . [w' (v'_j - o_i) - w (v_j - o_i)] / (1 - w + w')

a_i: derivative of g . e by the attention output o_i of row i in the layer (the adjoint, from the backward pass); w, w': softmax
weight of the old and of the new key of j for query i, in units of the old denominator; summed over heads. The moved row itself
is exact, the direct answer of another row is exact for one key, and what follows from it is first order. Moves add up:

    delete r          sum_{j > r} G_j(j - 1) + R_r,   R_r = -g . (h_r - e) / (n - 1) - sum sum_i a_i . w (v_r - o_i) / (1 - w)
    move r up to p    sum_{p <= j < r} G_j(j + 1) + G_r(p)             (overexpress: p is the front)
    move r down to p  sum_{r < j <= p} G_j(j - 1) + G_r(p)
    insert at p       sum_{j >= p} G_j(j + 1) + G(p) with w = 0, g . (h' - e) / (n + 1); over the original as the list keeps it
    similarity        1 - sum over moved rows of (1 - cos(h'_j, h_j)) / genes compared

Of <cls> the terms with n are left out, since it never moves. Pairs, joint perturbations and refilled deletions are refused.

Legend: P lists, S states, N rows of the cell, M rows that stand elsewhere, n genes, D dims.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rankshift.kernels.cosine_shift import TINY
from rankshift.kernels.perturbed_lists import NOWHERE
from rankshift.screen.embed.cell_embeddings import check_level
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.adjoint_rows import Forward, backward, first_row_changes, forward
from rankshift.screen.engine.shifts import Measure
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.edits import CellEdits
from rankshift.screen.perturb.perturbation import Perturb, edits_of

CLS_AXES = (
    4  # directions in which the similarity of <cls> is followed through the layers; each is a way back of its own
)
MOST_LISTS = 8192  # that share one pair of passes: each holds a row in every layer


def predict(ids: np.ndarray, encoder: Encoder, perturb: Perturb, measure: Measure) -> np.ndarray:
    """What the single perturbations of one cell are predicted to do: float32 [P, 1 + S], in the order of `edits_of`.

    ids [N]: the cell with its specials. Column 0 is the similarity of `measure.level`, then the shifts of the cosine to each
    state, as in `Shifts.measured`. Memory: N + M rows of D in every layer, and the attention of one block of queries.
    """
    check(perturb, encoder, measure)
    lists = edits_of(ids, perturb)
    if (lists.length > lists.base_length + 1).any():
        raise InputError(
            "the prediction compares a list with its own genes, --reference-overflow with fewer: leave it out"
        )
    states = 0 if measure.states is None else len(measure.states)
    out = np.empty((len(lists), 1 + states), np.float32)
    ups = lists.destination[:, 0] > lists.source[:, 0]  # the rows between move up, by one; a deletion goes to NOWHERE
    for kept, up in sorted(set(zip(lists.base_length.tolist(), ups.tolist(), strict=True))):
        same = np.flatnonzero((lists.base_length == kept) & (ups == up))
        original = np.concatenate([ids[: kept - perturb.frame.tail], ids[len(ids) - perturb.frame.tail :]])
        for some in np.split(same, range(MOST_LISTS, len(same), MOST_LISTS)):
            out[some] = _Cell(original, lists.part(some), up, encoder, perturb.frame, measure).predicted()
    return out


def check(perturb: Perturb, encoder: Encoder, measure: Measure) -> None:
    """Refuse what is not predicted."""
    if perturb.how != "each":
        raise InputError(f"--how {perturb.how} is not predicted, one gene at a time is: use --how each")
    if perturb.refill:
        raise InputError("--refill is not predicted, deletions that leave a shorter list are: leave it out")
    if encoder.precision != "float32":
        raise InputError(
            f"predictions are computed in float32, the encoder in {encoder.precision}: use --dtype float32"
        )
    check_level(measure.level, perturb.frame)


class _Cell:
    """Lists of one cell that share their original. In each, a run of rows moves by one and one row moves far or leaves."""

    def __init__(
        self, ids: np.ndarray, lists: CellEdits, up: bool, encoder: Encoder, frame: Frame, measure: Measure
    ) -> None:
        self.encoder, self.measure = encoder, measure
        self.front, self.stop = frame.head, len(ids) - frame.tail  # rows of genes
        source, target, token = (x[:, 0].astype(np.int64) for x in (lists.source, lists.destination, lists.token))
        self.inserts = token >= 0  # genes that the cell lacks
        gone = target == NOWHERE
        if gone.any() and not gone.all():
            raise ValueError("deletions and moves in one list of perturbations")
        self.deletes = bool(gone.all())
        self.first = source + 1 if up else target  # the rows first..last-1 move up, or else down, by one
        self.last = np.where(self.inserts | gone, len(ids), target + 1 if up else source)
        self.source = np.where(self.inserts, len(ids), source)
        self.low = int(self.first.min(initial=len(ids)))
        rows = np.arange(self.low, max(int(self.last.max(initial=0)), self.low))
        alone = slice(0, 0) if self.deletes else slice(None)
        own = np.where(self.inserts, token, ids[np.minimum(source, len(ids) - 1)])[alone]
        self.moving = len(rows)
        self.ids = self._tensor(ids)
        self.token = self._tensor(np.concatenate([ids[rows], own]))
        self.place = self._tensor(np.concatenate([rows + (-1 if up else 1), target[alone]]))
        self.slot = self._tensor(np.concatenate([rows, self.source[alone]]))

    def _tensor(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64)).to(self.encoder.device)

    def _over_rows(self, values: Tensor) -> np.ndarray:
        """Sums of `values` [*, moving rows] over the rows that every list moves, float64 [*, P]."""
        sums = np.zeros((len(values), self.moving + 1))
        np.cumsum(values.double().cpu().numpy(), axis=1, out=sums[:, 1:])
        return sums[:, np.maximum(self.last, self.first) - self.low] - sums[:, self.first - self.low]

    def predicted(self) -> np.ndarray:
        """float64 [P, 1 + S]."""
        cls = self.measure.level == "cls"
        cell = forward(self.encoder, self.ids, self.token, self.place, self.slot, self.measure.layers, cls)
        similarity = self._cls_similarity(cell) if cls else self._gene_similarity(cell)
        if self.measure.states is None:
            return similarity[:, None]
        states = torch.from_numpy(self.measure.states).to(self.encoder.device)
        genes = slice(0, 1) if cls else slice(self.front, self.stop)
        return np.column_stack([similarity, self._read(cell, _slopes(cell.hidden[genes].mean(0), states)).T])

    def _read(self, cell: Forward, slope_SD: Tensor) -> np.ndarray:
        """First-order change of slope . embedding by every list, float64 [S, P]."""
        cls, n = self.measure.level == "cls", len(self.ids)
        count = self.stop - self.front
        if cls:
            read = slope_SD[:, None]
        else:
            read = torch.zeros(len(slope_SD), n, self.encoder.hidden_size, device=self.encoder.device)
            read[:, self.front : self.stop] = slope_SD[:, None] / count
        found = backward(self.encoder, cell, read, self.deletes)
        moved, removed = found.moved, found.removed
        if not cls:
            height = slope_SD @ cell.hidden.T  # of each row along the slope
            mean = height[:, self.front : self.stop].mean(1, keepdim=True)
            old = torch.cat([height[:, :n], mean], 1)[:, self.slot]
            share = torch.where(self.slot < n, 1 / count, 1 / (count + 1)) * (
                (self.slot < self.stop) | (self.slot == n)
            )
            moved = moved + (height[:, n:] - old) * share
            removed = removed - (height[:, :n] - mean) / max(count - 1, 1)
        change = self._over_rows(moved[:, : self.moving])
        alone = removed[:, self._tensor(self.source)] if self.deletes else moved[:, self.moving :]
        return change + alone.double().cpu().numpy()

    def _gene_similarity(self, cell: Forward) -> np.ndarray:
        """Mean cosine of the genes that are in both lists, float64 [P]; NaN where none is."""
        n, some = len(self.ids), slice(0, self.moving)
        away = 1.0 - F.cosine_similarity(cell.hidden[n:][some], cell.hidden[self.slot[some]], dim=1, eps=TINY)
        away[self.slot[some] >= self.stop] = 0.0  # the specials at the end are no genes
        compared = self.stop - self.front - ~self.inserts
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(compared > 0, 1.0 - self._over_rows(away[None])[0] / compared, np.nan)

    def _cls_similarity(self, cell: Forward) -> np.ndarray:
        """Cosine of <cls> before and after, float64 [P]: first order along the few directions in which it moves most.

        1 - cos is a square of the move, which no single slope shows. The directions are the principal ones of what the keys do
        to <cls> in the last layer, which is cheap to have for every list.
        """
        if not cell.kept:  # <cls> itself, which no perturbation changes
            return np.ones(len(self.first))
        moved, removed, behind = first_row_changes(self.encoder, cell)
        change = self._over_rows(moved[: self.moving].T)
        change += (
            (removed[self._tensor(self.source)] if self.deletes else moved[self.moving :]).T.double().cpu().numpy()
        )
        here = cell.hidden[0]
        direct = behind(torch.from_numpy(change.T.astype(np.float32)).to(here.device)) - here
        size = torch.linalg.vector_norm(here).clamp(min=TINY)
        across = direct - (direct @ here / size**2)[:, None] * here
        axes = torch.linalg.svd(across, full_matrices=False).Vh[:CLS_AXES]
        along = self._read(cell, axes)
        beside = (across - across @ axes.T @ axes).square().sum(1).double().cpu().numpy()
        return 1.0 / np.sqrt(1.0 + ((along**2).sum(0) + beside) / size.item() ** 2)


def _slopes(embedding_D: Tensor, states_SD: Tensor) -> Tensor:
    """Derivative of the cosine to each state by the embedding, [S, D]."""
    length = torch.linalg.vector_norm(embedding_D).clamp(min=TINY)
    unit, goals = embedding_D / length, F.normalize(states_SD, dim=1, eps=TINY)
    return (goals - (goals @ unit)[:, None] * unit) / length
