"""Means and tests in which every donor (or sample) counts once, whatever its number of cells.

Cells of one donor are not independent: a gene may act differently in every person, and a donor of most cells then decides
alone. Here a donor gives one number per gene and the test is over donors; one donor is refused.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from scipy.special import stdtr

from rankshift.screen.cells.labels import label_texts
from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import CELLS
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.empirical_null import null_centre
from rankshift.screen.stats.arithmetic.resampling import Units
from rankshift.screen.stats.observations import Observations

MOST = 2000  # groups: genes x groups numbers are held


@dataclass(frozen=True, slots=True, kw_only=True)
class Donors:
    """The groups of an obs column: names [D], and the number of the group of every cell, int32 [C], -1 where it is empty."""

    names: list[str]
    of_cell: np.ndarray

    @staticmethod
    def read(run: Run, column: str) -> "Donors":
        """Donors of the cells of a run by `column`; raises InputError when there is no such column or one group."""
        there = [n for n in pq.read_schema(run.path / CELLS).names if n not in ("input_ids", "length")]
        if column not in there:
            raise InputError(f"--by {column!r} is not a column: the columns are {', '.join(there)}")
        labels = pq.read_table(run.path / CELLS, columns=[column])[column]
        coded = label_texts(labels, f"--by {column!r}").dictionary_encode()
        names = coded.dictionary.to_pylist()
        if not 2 <= len(names) <= MOST:
            raise InputError(f"--by {column!r} has {len(names)} values, 2 to {MOST} are needed: give another column")
        return Donors(names=names, of_cell=coded.indices.fill_null(-1).to_numpy().astype(np.int32))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Balanced:
    """Per gene [G]: groups with the gene, mean over groups of the values and of the differences, standard error of the latter.

    by_group: means of the values, float64 [G, D], NaN where a group has none. error is NaN for fewer than two groups.
    """

    groups: np.ndarray
    mean: np.ndarray
    difference: np.ndarray
    error: np.ndarray
    by_group: np.ndarray

    def test(self, among: np.ndarray) -> tuple[np.ndarray, float]:
        """p float64 [G] that the difference is that of the typical gene, and that difference; genes `among`, bool [G].

        A t test over groups, groups - 1 degrees of freedom. With groups of unequal precision it errs on the safe side at
        the usual levels (Bakirov and Szekely, 2006; Ibragimov and Mueller, 2010).
        """
        centre = null_centre(self.difference, self.error, among, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            t = (self.difference - centre) / self.error
        freedom = np.maximum(self.groups - 1, 1)
        return np.where(among & (self.error > 0), 2 * stdtr(freedom, -np.abs(t)), np.nan), centre


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Welch:
    """Two runs over donors, per gene [G]: donors there, here minus there, and p. centre: the typical `difference`."""

    null_groups: np.ndarray
    mean: np.ndarray
    difference: np.ndarray
    p: np.ndarray
    centre: float


def welch(
    here: Balanced,
    null_groups: np.ndarray,
    null_mean: np.ndarray,
    null_difference: np.ndarray,
    null_error: np.ndarray,
    among: np.ndarray,
) -> Welch:
    """Welch's t test over donors of two runs against the typical gene; what is of the null run, [G], is in the order of here.

    Donors of both runs count as different ones, which errs on the safe side where they are the same. Degrees of freedom by
    Satterthwaite. among, bool [G]: the genes that are tested.
    """
    difference = here.difference - null_difference
    a, b = here.error**2, null_error**2
    error = np.sqrt(a + b)
    centre = null_centre(difference, error, among, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = (a + b) ** 2 / (a**2 / (here.groups - 1) + b**2 / (null_groups - 1))
        p = np.where(among & (error > 0), 2 * stdtr(freedom, -np.abs((difference - centre) / error)), np.nan)
    mean = here.mean - null_mean
    return Welch(null_groups=null_groups, mean=mean, difference=difference, p=p, centre=centre)


def difference_in_cell(cell: np.ndarray, values: np.ndarray, cells: int) -> np.ndarray:
    """float32 [N]: every value minus the mean of the other values of its cell; NaN where there is no other."""
    total = np.bincount(cell, weights=values, minlength=cells)
    others = np.bincount(cell, minlength=cells)[cell] - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return (values - (total[cell] - values) / others).astype(np.float32)


def balanced(seen: Observations, values: np.ndarray, groups: Donors) -> Balanced:
    """Means of `values` float32 [N] over groups, and of their differences to the other genes of the same cells.

    The difference of a group is the mean over its cells of `difference_in_cell`.
    """
    difference = difference_in_cell(seen.cell, values, seen.cells)
    raw, apart = (_by_group(seen, v, groups) for v in (values, difference))
    there, known = ~np.isnan(apart), ~np.isnan(raw)
    count = there.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, raw, 0).sum(1) / known.sum(1)
        centre = np.where(there, apart, 0).sum(1) / count
        squares = (np.where(there, apart - centre[:, None], 0) ** 2).sum(1)
        error = np.where(count > 1, np.sqrt(squares / (count - 1) / count), np.nan)
    return Balanced(groups=known.sum(1), mean=mean, difference=centre, error=error, by_group=raw)


def _by_group(seen: Observations, values: np.ndarray, groups: Donors) -> np.ndarray:
    """Means float64 [G, D] of `values` [N], NaN counting for nothing; NaN where a group has none."""
    group = groups.of_cell[seen.cell]
    known = (group >= 0) & ~np.isnan(values)
    shape = (len(seen.count), len(groups.names))
    key = seen.gene[known].astype(np.int64) * shape[1] + group[known]
    n = np.bincount(key, minlength=shape[0] * shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.bincount(key, weights=values[known], minlength=len(n)) / n).reshape(shape)


def units_of(seen: Observations, values: np.ndarray, groups: Balanced | None) -> Units:
    """What is resampled: the cells, or the groups."""
    if groups is not None:
        return Units.of_groups(groups.by_group)
    return Units.of_rows(values, seen.cell, seen.offsets, seen.cells)
