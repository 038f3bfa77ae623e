"""What a perturbation did to a cell, row by row in memory, and the table that is stored of it. No model computes here."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa

from rankshift.screen.perturb.edits import CellEdits
from rankshift.screen.runs.layout import (
    CELL,
    CELL_COSINE,
    PERTURBATION,
    SIMILARITY,
    cos_before_column,
    measures,
    pair_columns,
    shift_column,
)

BY_ROW = ("cell", "key", "similarity", "cell_cosine", "before", "after", "batch_rows", "wider")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifts:
    """Rows of one or more cells.

    cell, key int32 [P] (key: as in `CellEdits`); similarity, cell_cosine float32 [P]; before, after float32
    [P, S]. first, second float32 [P, 1 + S]: of pairs, similarity and shifts of each gene alone, else [P, 0].
    gene_row, gene_token int32 [G], gene_cosine float32 [G]: if measured, how near every gene stayed, by row of the above.
    batch_rows int32 [P]: rows of a batch at most, when the row was computed. wider bool [P]: was it in float32, because
    fewer bits could not hold it?
    """

    cell: np.ndarray
    key: np.ndarray
    similarity: np.ndarray
    cell_cosine: np.ndarray
    before: np.ndarray
    after: np.ndarray
    first: np.ndarray
    second: np.ndarray
    gene_row: np.ndarray
    gene_token: np.ndarray
    gene_cosine: np.ndarray
    batch_rows: np.ndarray
    wider: np.ndarray

    @staticmethod
    def none(states: int, pairs: bool) -> "Shifts":
        """No rows."""
        whole, real = np.empty(0, np.int32), np.empty(0, np.float32)
        wide, alone = np.empty((0, states), np.float32), np.empty((0, (1 + states) * pairs), np.float32)
        return Shifts(
            cell=whole,
            key=whole,
            similarity=real,
            cell_cosine=real,
            before=wide,
            after=wide,
            first=alone,
            second=alone,
            gene_row=whole,
            gene_token=whole,
            gene_cosine=real,
            batch_rows=whole,
            wider=np.empty(0, bool),
        )

    @property
    def measured(self) -> np.ndarray:
        """Similarity and the shift towards each state, float32 [P, 1 + S]."""
        return np.column_stack([self.similarity, self.after - self.before])

    def table(self, states: Sequence[str], perturbation_of: np.ndarray) -> pa.Table:
        """The rows as they are stored; `perturbation_of` gives the run's number of a key.

        interaction: what a pair does beyond its genes alone, similarity - (first + second - 1), shift - (first + second).
        """

        def real(column: np.ndarray) -> pa.Array:
            return pa.array(column, pa.float32(), from_pandas=True)  # NaN (no gene left to compare) as null

        columns = {
            CELL: pa.array(self.cell, pa.int32()),
            PERTURBATION: pa.array(perturbation_of[self.key], pa.int32()),
            SIMILARITY: real(self.similarity),
            CELL_COSINE: real(self.cell_cosine),
        }
        for s, name in enumerate(states):
            columns[cos_before_column(name)] = real(self.before[:, s])
            columns[shift_column(name)] = real(self.after[:, s] - self.before[:, s])
        if self.first.shape[1]:
            both = self.measured
            for i, name in enumerate(measures(states)):
                first, second, interaction = pair_columns(name)
                columns[first], columns[second] = real(self.first[:, i]), real(self.second[:, i])
                expected = self.first[:, i] + self.second[:, i] - (1 if i == 0 else 0)
                columns[interaction] = real(both[:, i] - expected)
        return pa.table(columns)


def stack(rows: list[Shifts], none: Shifts) -> Shifts:
    """The rows of several groups; rows of genes count on."""
    if not rows:
        return none
    begin = np.concatenate([[0], np.cumsum([len(r.cell) for r in rows])[:-1]]).astype(np.int32)
    shifted = [replace(r, gene_row=r.gene_row + b) for r, b in zip(rows, begin, strict=True)]
    return Shifts(**{f.name: np.concatenate([getattr(r, f.name) for r in shifted]) for f in fields(Shifts)})


def with_alone(shifts: Shifts, edits: list[CellEdits]) -> Shifts:
    """The rows of the pairs, each beside what its genes do alone."""
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
        **{n: getattr(shifts, n)[rows] for n in BY_ROW},
        first=np.concatenate(first),
        second=np.concatenate(second),
        gene_row=number[shifts.gene_row][of_pair],
        gene_token=shifts.gene_token[of_pair],
        gene_cosine=shifts.gene_cosine[of_pair],
    )
