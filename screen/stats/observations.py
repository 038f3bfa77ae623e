"""What a run measured, as arrays: the values of every perturbation, one after the other, cells in processing order.

Rows come streamed from the committed parts through DuckDB, so a run of 20 million rows costs its three columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import one_line
from rankshift.screen.runs.layout import CELLS, PERTURBATIONS, SIMILARITY, part_path
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sql import limited
from rankshift.screen.runs.views import literal, quoted
from rankshift.screen.stats.arithmetic.grouped import chunks, grouped_counts, grouped_sums, places_by_group

BATCH = 1 << 20  # rows of a streamed batch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observations:
    """N values of G perturbations in C cells, sorted by perturbation (by tokens), then cell.

    perturbations: table of G rows (perturbation, kind, gene_ids, symbols, tokens) of those that have values.
    offsets int64 [G + 1]: perturbation g has the rows offsets[g] to offsets[g + 1]. gene int32 [N]: that g of every row.
    cell int32 [N]; values: float32 [N] by column; cells: C; dropped: rows left out because a value is not a number.
    """

    perturbations: pa.Table
    offsets: np.ndarray
    gene: np.ndarray
    cell: np.ndarray
    values: dict[str, np.ndarray]
    cells: int
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.gene)

    @property
    def count(self) -> np.ndarray:
        """int64 [G]: values per perturbation, N_Detections of the published tables."""
        return np.diff(self.offsets)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """float64 [G]: mean over the rows of each perturbation of `values` [N]; NaN counts for nothing.

        Sums are float64 in row order, as the published means are.
        """
        known = ~np.isnan(values)
        count = self.count
        if not known.all():
            count = self.sums(lambda some: known[some]).astype(np.int64)
        total = self.sums(lambda some: np.where(known[some], values[some], 0.0))
        with np.errstate(invalid="ignore"):
            return total / count

    def sums(self, weights: Callable[[slice], np.ndarray]) -> np.ndarray:
        """float64 [G]: sums over the rows of each perturbation. weights: those of a slice of the N rows."""
        return grouped_sums(self.gene, weights, len(self.count))

    def squares(self, values: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """float64 [G]: summed squares of `values` [N] around the centre [G] of their perturbation."""
        return self.sums(lambda some: (values[some] - centre[self.gene[some]]) ** 2)

    @staticmethod
    def read(run: Run, columns: Sequence[str]) -> "Observations":
        """Read `columns` of the committed rows of a run. Raises InputError when there are none, or only a part by choice."""
        run.check_whole("statistics")
        markers = run.committed
        rows = sum(marker["rows"] for marker in markers.values())
        if not rows:
            raise InputError(f"{run.path} has no committed rows: finish the screen with --resume")
        files = ", ".join(literal(str(part_path(run.path, name).resolve())) for name in markers)
        names = ", ".join(quoted(name) for name in columns)
        perturbation, cell = np.empty(rows, np.int32), np.empty(rows, np.int32)
        values = {name: np.empty(rows, np.float32) for name in columns}
        used = 0
        with limited(preserve_insertion_order=True) as connection:
            query = f"SELECT cell, perturbation, {names} FROM read_parquet([{files}])"
            try:
                for batch in connection.sql(query).to_arrow_reader(BATCH):
                    part = slice(used, used + batch.num_rows)
                    cell[part] = batch.column(0).to_numpy()
                    perturbation[part] = batch.column(1).to_numpy()
                    for i, name in enumerate(columns):
                        values[name][part] = batch.column(i + 2).to_numpy(zero_copy_only=False)
                    used += batch.num_rows
            except (duckdb.Error, pa.ArrowException) as error:
                raise InputError(f"{run.path} cannot be read ({one_line(error)})") from error
        table = pq.read_table(run.path / PERTURBATIONS)
        known = np.ones(rows, bool)
        for column in values.values():
            known &= ~np.isnan(column)
        if dropped := int(rows - known.sum()):
            perturbation, cell = perturbation[known], cell[known]
            values = {name: column[known] for name, column in values.items()}
        return Observations.sort(table, perturbation, cell, values, cells=_cells(run), dropped=dropped)

    @staticmethod
    def sort(
        table: pa.Table,
        perturbation: np.ndarray,
        cell: np.ndarray,
        values: dict[str, np.ndarray],
        *,
        cells: int,
        dropped: int = 0,
    ) -> "Observations":
        """From rows in any order; `table` names the perturbations. Takes the dictionary of values over."""
        if not _rising(cell):  # parts come cell by cell; this is for those that do not
            by_cell = np.argsort(cell, kind="stable")
            perturbation, cell = perturbation[by_cell], cell[by_cell]
            values = {name: column[by_cell] for name, column in values.items()}
        with duckdb.connect(":memory:") as connection:
            connection.register("named", table)
            table = connection.sql("SELECT * FROM named ORDER BY tokens, perturbation").to_arrow_table()
        number = table["perturbation"].to_numpy()
        every = grouped_counts(perturbation, int(number.max(initial=0)) + 1)
        there = every[number] > 0
        table = table.filter(pa.array(there))
        number = number[there]
        gene = np.full(int(number.max(initial=0)) + 1, -1, np.int32)
        gene[number] = np.arange(len(number), dtype=np.int32)
        count = every[number]
        place = places_by_group(gene[perturbation], count)
        del perturbation
        for name in list(values):
            values[name] = _placed(values.pop(name), place)
        return Observations(
            perturbations=table,
            offsets=offsets_of(count),
            gene=np.repeat(np.arange(len(count), dtype=np.int32), count),
            cell=_placed(cell, place),
            values=values,
            cells=cells,
            dropped=dropped,
        )

    @property
    def names(self) -> dict[str, pa.Array]:
        """gene_ids, symbols, kind of the perturbations."""
        return {name: self.perturbations[name].combine_chunks() for name in ("kind", "gene_ids", "symbols")}

    @property
    def tokens(self) -> list[int] | list[str]:
        """What the published tables call a perturbed gene: its token, of several genes the tuple of them."""
        lists = self.perturbations["tokens"]
        if pc.all(pc.equal(pc.list_value_length(lists), 1)).as_py():
            return lists.combine_chunks().flatten().to_pylist()
        return [str(t[0]) if len(t) == 1 else str(tuple(t)) for t in lists.to_pylist()]


def _rising(cell: np.ndarray) -> bool:
    return all((np.diff(cell[max(some.start - 1, 0) : some.stop]) >= 0).all() for some in chunks(len(cell)))


def _placed(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    out = np.empty_like(values)
    for some in chunks(len(values)):
        out[place[some]] = values[some]
    return out


def _cells(run: Run) -> int:
    return pq.read_metadata(run.path / CELLS).num_rows


def route(run: Run) -> tuple[str, list[str]]:
    """Goal state and alternative states of a run; raises InputError when it was screened without."""
    found = run.manifest.route
    if found is None:
        raise InputError(
            f"mode goal needs states, {run.path} has none: screen with --states, --state-key, --start and --goal"
        )
    return found.goal, list(found.alternatives)


def match(test: Observations, other: Observations) -> np.ndarray:
    """int64 [G of other]: the number in `test` of each perturbation of `other`, -1 where it is not there."""
    at = {ids: i for i, ids in enumerate(test.perturbations["gene_ids"].to_pylist())}
    return np.array([at.get(ids, -1) for ids in other.perturbations["gene_ids"].to_pylist()], np.int64)


def null_means(
    test: Observations, other: Observations, same: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per perturbation of `test`: values here, values there, mean similarity here and there (NaN where there is none)."""
    kept = same >= 0
    null_count, null_mean = np.zeros(len(test.count), np.int64), np.full(len(test.count), np.nan)
    null_count[same[kept]] = other.count[kept]
    null_mean[same[kept]] = other.mean(other.values[SIMILARITY])[kept]
    return test.count, null_count, test.mean(test.values[SIMILARITY]), null_mean
