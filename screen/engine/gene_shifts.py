"""Gene-level shifts of a shard: how near every other gene's embedding stayed under each perturbation, aggregated over cells.

Partial aggregates only (n, sum, sum of squares, min of the cosine), so that memory and files do not grow with cells within
a shard; readers add the shards up.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankshift.screen.cells.cells import CellTable
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.engine.shift_rows import Shifts
from rankshift.screen.runs.manifest import GenesKept


def gene_table(
    shifts: Shifts, perturbation_of: np.ndarray, cells: CellTable, kept: GenesKept | None
) -> pa.Table | None:
    """Rows (perturbation, affected token[, cells' group | cell]; n, sum, square, min), or None when none are kept.

    kept: `by`, an obs column whose values are aggregated apart (column `cells`), and `per_cell`: a row for every cell.
    """
    if kept is None:
        return None
    row = shifts.gene_row
    cosine = shifts.gene_cosine
    columns: dict[str, Any] = {
        "perturbation": pa.array(perturbation_of[shifts.key[row]].astype(np.int32)),
        "affected": pa.array(shifts.gene_token, pa.int32()),
    }
    if kept.per_cell:
        columns["cell"] = pa.array(shifts.cell[row], pa.int32())
    if kept.by is not None:
        numbers, place = np.unique(shifts.cell[row], return_inverse=True)
        columns["cells"] = labels_of(cells.take(numbers).obs, kept.by, "--by").take(pa.array(place))
    keys = list(columns)
    one = np.ones(len(row), np.int32)
    wide = cosine.astype(np.float64)
    columns |= {
        "n": pa.array(one),
        "sum": pa.array(wide),
        "square": pa.array(wide * wide),
        "min": pa.array(cosine, pa.float32()),
    }
    table = pa.table(columns)
    if kept.per_cell or len(np.unique(shifts.cell)) <= 1:  # every row already belongs to one cell
        return table
    sums = table.group_by(keys, use_threads=False).aggregate(
        [("n", "sum"), ("sum", "sum"), ("square", "sum"), ("min", "min")]
    )
    named = {"n_sum": "n", "sum_sum": "sum", "square_sum": "square", "min_min": "min"}
    sums = sums.rename_columns([named.get(n, n) for n in sums.column_names]).select(table.column_names)
    return sums.set_column(sums.column_names.index("n"), "n", pc.cast(sums["n"], pa.int32()))
