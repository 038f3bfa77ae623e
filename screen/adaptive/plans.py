"""The plan of a round: which lists of which cells it measures, in which shards. It is written before any of its shards.

A plan follows from the manifest and the rows committed before it; the one that was written first holds, for everybody. Shards
of a round are ordinary ones with numbers of their own: round 3 has shard-3000000, shard-3000001, …
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.adaptive.rows_of_run import RowsOfRun, asked_of
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.engine.screener import Screener
from rankshift.screen.runs.layout import ROUNDS, SHIFTS, part_path
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.shards import Shard, plan
from rankshift.screen.runs.writing import writing

FIRST = 1_000_000  # number of the first shard of round 1; a round has fewer shards than that
PLAN = "plan.parquet"
REST = 999  # number of the round that measures all that no other has


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Round `number`, from 1: shard, cell, list int32 [R] of every row, by shard, cell, list."""

    number: int
    shard: np.ndarray
    cell: np.ndarray
    list_: np.ndarray

    @property
    def shards(self) -> list[Shard]:
        """Cells with their lists of this round; a cell is whole, but for those that fill more than a shard."""
        found = []
        numbers, first, count = np.unique(self.shard, return_index=True, return_counts=True)
        for index, begin, lists in zip(numbers.tolist(), first.tolist(), count.tolist(), strict=True):
            found.append(
                Shard(
                    index=self.number * FIRST + index,
                    first_cell=int(self.cell[begin]),
                    last_cell=int(self.cell[begin + lists - 1]) + 1,
                    first_list=0,
                    last_list=lists,
                    lists=lists,
                )
            )
        return found

    @property
    def passes(self) -> int:
        """Encoder passes: a list each, and the original of every cell that a shard visits."""
        visits = np.unique(np.stack([self.shard, self.cell]), axis=1).shape[1]
        return len(self.cell) + visits

    def lists_of(self, shard: Shard) -> dict[int, np.ndarray]:
        """The lists of every cell of a shard."""
        first, last = np.searchsorted(self.shard, shard.index - self.number * FIRST + np.arange(2))
        cells, edges = np.unique(self.cell[first:last], return_index=True)
        parts = np.split(self.list_[first:last].astype(np.int64), edges[1:])
        return dict(zip(cells.tolist(), parts, strict=True))


def _folder(number: int) -> str:
    return f"{ROUNDS}/{number:02d}"


def plan_path(run: Run, number: int) -> Path:
    """Where the plan of a round is."""
    return run.path / _folder(number) / PLAN


def read_plan(run: Run, number: int) -> Plan:
    """The plan of a round that was written."""
    run.fetch(_folder(number))
    table = pq.read_table(plan_path(run, number))
    return Plan(number=number, **{name: table[name.rstrip("_")].to_numpy() for name in ("shard", "cell", "list_")})


def plans_there(run: Run) -> int:
    """How many rounds have a plan; they are planned one after the other."""
    run.fetch(ROUNDS)
    number = 0
    while plan_path(run, number + 1).exists():
        number += 1
    return number


def planned(screener: Screener, rows: RowsOfRun, asked: np.ndarray, number: int) -> Plan:
    """The plan of a round: the one that is there, else that of the rows `asked` int64 [R], which is written."""
    run, of = screener.run, rows.population
    run.fetch(_folder(number))
    if not plan_path(run, number).exists():
        cell = of.cell[asked]
        size = np.bincount(cell, minlength=of.cells) * screener.cells.lengths
        shard = (np.cumsum(size) - size) // run.screened.shard_tokens
        _, shard = np.unique(shard[cell], return_inverse=True)
        _write(run, number, shard, cell, rows.list_[asked])
    return read_plan(run, number)


def planned_rest(screener: Screener, earlier: int) -> Plan:
    """Write the plan of all lists that the first `earlier` rounds do not have, in shards of the size of a full screen's."""
    counts, first = screener.counts, offsets_of(screener.counts)
    left = np.ones(int(first[-1]), bool)
    for number in range(1, earlier + 1):
        there = read_plan(screener.run, number)
        left[first[there.cell] + there.list_] = False
    rows = np.flatnonzero(left)
    cell = np.searchsorted(first, rows, side="right") - 1
    lists = np.bincount(cell, minlength=len(counts))
    shard = np.empty(len(rows), np.int32)
    begin = offsets_of(lists)
    for one in plan(lists, screener.cells.lengths, screener.run.screened.shard_tokens):
        at = int(begin[one.first_cell]) + one.first_list
        shard[at : at + one.lists] = one.index
    _write(screener.run, REST, shard, cell, rows - first[cell])
    return read_plan(screener.run, REST)


def _write(run: Run, number: int, shard: np.ndarray, cell: np.ndarray, list_: np.ndarray) -> None:
    columns = {"shard": shard, "cell": cell, "list": list_}
    order = np.lexsort((list_, cell, shard))
    table = pa.table({name: pa.array(column[order].astype(np.int32)) for name, column in columns.items()})
    with writing(run.path, plan_path(run, number)) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    run.share(f"{_folder(number)}/{PLAN}")


def in_order_of_lists(run: Run) -> pa.Table:
    """All rows of an adaptive run that was continued to the full one, by cell and list, as a full screen has them."""
    tables, lists = [], []
    for number in (*range(1, asked_of(run).earlier + 1), REST):
        there = read_plan(run, number)
        tables += [pq.read_table(part_path(run.path, shard.name)) for shard in there.shards]
        lists.append(there.list_)
    table = pa.concat_tables(tables)
    return table.take(np.lexsort((np.concatenate(lists), table["cell"].to_numpy())))


def measured(run: Run, rows: RowsOfRun, plan: Plan, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the population that a round measured, and their values float64; all shards must be committed."""
    run.fetch(SHIFTS)
    found, values = [np.empty(0, np.int64)], [np.empty(0)]
    for shard in plan.shards:
        table = pq.read_table(part_path(run.path, shard.name), columns=["cell", "perturbation", column])
        found.append(rows.rows(table["cell"].to_numpy(), table["perturbation"].to_numpy()))
        values.append(table[column].to_numpy(zero_copy_only=False).astype(np.float64))
    rows_, numbers = np.concatenate(found), np.concatenate(values)
    order = np.argsort(rows_)
    return rows_[order], numbers[order]
