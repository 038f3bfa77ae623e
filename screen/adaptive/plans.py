"""The plan of a round: which lists of which cells it measures, in which shards. It is written before any of its shards.

A plan follows from the manifest and the rows committed before it; the one that was written first holds, for everybody. Shards
of a round are ordinary ones with numbers of their own: round 3 has shard-3000000, shard-3000001, …
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.adaptive.allocation import Round
from rankshift.screen.adaptive.rows_of_run import RowsOfRun
from rankshift.screen.engine.screener import Screener
from rankshift.screen.runs.layout import ROUNDS, part_path
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.shards import Shard
from rankshift.screen.runs.writing import writing

FIRST = 1_000_000  # number of the first shard of round 1; a round has fewer shards than that


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Round `number`, from 1: shard, cell, list int32 [R] of every row, by shard, cell, list."""

    number: int
    shard: np.ndarray
    cell: np.ndarray
    list_: np.ndarray

    @property
    def shards(self) -> list[Shard]:
        """Whole cells with their lists of this round."""
        found = []
        for index in np.unique(self.shard).tolist():
            cells = self.cell[self.shard == index]
            found.append(
                Shard(
                    index=self.number * FIRST + index,
                    first_cell=int(cells[0]),
                    last_cell=int(cells[-1]) + 1,
                    first_list=0,
                    last_list=len(cells),
                    lists=len(cells),
                )
            )
        return found

    def lists_of(self, shard: Shard) -> dict[int, np.ndarray]:
        """The lists of every cell of a shard."""
        mine = self.shard == shard.index - self.number * FIRST
        cells, first = np.unique(self.cell[mine], return_index=True)
        return dict(zip(cells.tolist(), np.split(self.list_[mine].astype(np.int64), first[1:]), strict=True))


def plan_path(run: Run, number: int) -> Path:
    """Where the plan of a round is."""
    return run.path / ROUNDS / f"{number:02d}" / "plan.parquet"


def read_plan(run: Run, number: int) -> Plan:
    """The plan of a round that was written."""
    table = pq.read_table(plan_path(run, number))
    return Plan(number=number, **{name: table[name.rstrip("_")].to_numpy() for name in ("shard", "cell", "list_")})


def planned(screener: Screener, rows: RowsOfRun, asked: Round, number: int) -> Plan:
    """The plan of a round: the one that is there, else that of `asked`, which is written."""
    run, of = screener.run, rows.population
    if not plan_path(run, number).exists():
        cell = of.cell[asked.rows]
        size = np.bincount(cell, minlength=of.cells) * screener.cells.lengths
        shard = (np.cumsum(size) - size) // run.screened.shard_tokens
        _, shard = np.unique(shard[cell], return_inverse=True)
        columns = {"shard": shard, "cell": cell, "list": rows.list_[asked.rows]}
        order = np.lexsort((columns["list"], cell))
        table = pa.table({name: pa.array(column[order].astype(np.int32)) for name, column in columns.items()})
        with writing(run.path, plan_path(run, number)) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    return read_plan(run, number)


def measured(run: Run, rows: RowsOfRun, plan: Plan, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the population that a round measured, and their values float64; all shards must be committed."""
    tables = [pq.read_table(part_path(run.path, s.name), columns=["cell", "perturbation", column]) for s in plan.shards]
    table = pa.concat_tables(tables)
    found = rows.rows(table["cell"].to_numpy(), table["perturbation"].to_numpy())
    order = np.argsort(found)
    values = table[column].to_numpy(zero_copy_only=False).astype(np.float64)
    return found[order], values[order]
