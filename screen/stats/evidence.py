"""What the statistics of a table compute from: values and tests of one run, or of two. Each part is computed when first asked.

Here it is decided which perturbations are tested, and against what. What is written into a table is decided in `measures/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rankshift.screen.cells.ragged import offsets_of, places_of
from rankshift.screen.runs.layout import SIMILARITY
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.empirical_null import null_centre
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.arithmetic.grouped import whole_groups
from rankshift.screen.stats.arithmetic.rank_sum import RankSum, against_rest, between, two_sided
from rankshift.screen.stats.arithmetic.resampling import (
    Interval,
    Stability,
    agreement,
    bootstrap,
    half_means,
    intervals,
    resampled_means,
    stability,
)
from rankshift.screen.stats.donors import Balanced, Donors, Welch, balanced, units_of, welch
from rankshift.screen.stats.observations import Observations, match, null_means
from rankshift.screen.stats.options import StatOptions
from rankshift.screen.stats.ranks_in_cells import InCells, in_cells, single_genes

FEW = 50  # perturbations of a list that say little of what a typical one does


def of_few(run: Run, tested: int) -> bool:
    """Is a short list of genes tested against itself, with no other genes to be held against?"""
    return run.manifest.perturb.genes is not None and tested < FEW


# Without slots: cached_property keeps what it has computed in the instance.
@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """G perturbations of `run`, seen in `seen`, and how they are tested. summary: what holds for the whole table."""

    run: Run
    options: StatOptions
    seen: Observations
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def effect(self) -> np.ndarray:
        """float64 [G]: the mean effect over cells."""
        raise NotImplementedError

    @property
    def tested(self) -> np.ndarray:
        """bool [G]: enough cells to be tested."""
        raise NotImplementedError

    @property
    def values(self) -> np.ndarray:
        """float32 [N]: the values of `seen` that are tested."""
        raise NotImplementedError

    @property
    def rank_sum(self) -> RankSum:
        """The rank-sum test over cells."""
        raise NotImplementedError

    @property
    def resampled(self) -> tuple[Interval | None, Stability | None]:
        """Intervals by the bootstrap (None without), and how random halves agree."""
        raise NotImplementedError

    def where_tested(self, values: np.ndarray) -> np.ndarray:
        """The values [G] of what is tested, NaN elsewhere."""
        return np.where(self.tested, values, np.nan)

    def centre_of(self, result: RankSum) -> float:
        """Superiority of the typical gene: the empirical null that a test is centred on."""
        return null_centre(result.superiority, result.error, self.tested, 0.5)

    @cached_property
    def centre(self) -> float:
        """Superiority of the typical gene in `rank_sum`."""
        return self.centre_of(self.rank_sum)

    @cached_property
    def centred_p(self) -> np.ndarray:
        """float64 [G]: p of `rank_sum` against the typical gene."""
        return self.where_tested(two_sided(self.rank_sum.z_around(self.centre)))

    @cached_property
    def fdr(self) -> np.ndarray:
        """float64 [G]: Benjamini-Hochberg of `centred_p`."""
        return fdr(self.centred_p)

    @cached_property
    def places(self) -> InCells | None:
        """Ranks of the perturbed genes in their cells, and adjusted values; None for joint perturbations: they have no rank."""
        return in_cells(self.run, self.seen, self.values) if single_genes(self.seen) else None

    @cached_property
    def mean_rank(self) -> np.ndarray:
        """float64 [G]: mean rank of the gene in the cells where it was perturbed. Needs `places`."""
        assert self.places is not None
        rank = self.places.rank
        with np.errstate(invalid="ignore"):
            return self.seen.sums(lambda some: rank[some]) / self.seen.sums(lambda some: rank[some] > 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class OneRun(Evidence):
    """Perturbations against the other perturbations of the same run.

    quantity: shift or similarity. column: the run's column of it. others: alternative states, whose shifts `seen` has, too.
    """

    quantity: str
    column: str
    others: Sequence[str] = ()

    @property
    def highest_first(self) -> bool:
        """Is the highest value the strongest effect? The highest shift is, and the lowest similarity."""
        return self.quantity == "shift"

    @property
    def values(self) -> np.ndarray:
        """float32 [N]: shifts or similarities."""
        return self.seen.values[self.column]

    @cached_property
    def tested(self) -> np.ndarray:
        """bool [G]: at least the minimum of cells."""
        return self.seen.count >= self.options.min_cells

    @cached_property
    def effect(self) -> np.ndarray:
        """float64 [G]: mean over cells."""
        return self.seen.mean(self.values)

    @cached_property
    def rank_sum(self) -> RankSum:
        """Values of each perturbation against all values of all others."""
        return against_rest(self.seen.gene, self.values, len(self.effect))

    @cached_property
    def donors(self) -> Balanced | None:
        """Means in which every donor counts once; None without --by."""
        if self.options.by is None:
            return None
        return balanced(self.seen, self.values, Donors.read(self.run, self.options.by))

    @cached_property
    def donor_test(self) -> tuple[np.ndarray, float]:
        """p float64 [G] of the t test over donors, and the difference of the typical gene. Needs `donors`."""
        assert self.donors is not None
        return self.donors.test(self.tested)

    @property
    def ranked(self) -> np.ndarray:
        """float64 [G]: the means that are ranked, over cells, or over donors with --by."""
        return self.effect if self.donors is None else self.donors.mean

    @cached_property
    def resampled(self) -> tuple[Interval | None, Stability | None]:
        """Intervals of the mean and its rank (None without --bootstrap), and how random halves agree."""
        units, options, first = units_of(self.seen, self.values, self.donors), self.options, self.highest_first
        interval = None
        if options.bootstrap:
            interval = bootstrap(units, self.tested, options.bootstrap, options.seed, highest_first=first)
        return interval, stability(units, self.tested, options.seed, highest_first=first)


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoRuns(Evidence):
    """Similarities of the perturbations of `run` against those of the same perturbations in the run `null`, seen in `other`."""

    null: Run
    other: Observations

    @property
    def values(self) -> np.ndarray:
        """float32 [N]: similarities here."""
        return self.seen.values[SIMILARITY]

    @property
    def null_values(self) -> np.ndarray:
        """float32 [M]: similarities there."""
        return self.other.values[SIMILARITY]

    @cached_property
    def same(self) -> np.ndarray:
        """int64: the number here of each perturbation there, -1 where there is none."""
        return match(self.seen, self.other)

    @cached_property
    def back(self) -> np.ndarray:
        """int64 [G]: the number there of each perturbation here, -1 where there is none."""
        out = np.full(len(self.seen.count), -1, np.int64)
        out[self.same[self.same >= 0]] = np.flatnonzero(self.same >= 0)
        return out

    def aligned(self, values: np.ndarray) -> np.ndarray:
        """Values [of there, ...] in the order of here, NaN where a perturbation is not there."""
        known = self.back >= 0
        out = np.full((len(known), *values.shape[1:]), np.nan, values.dtype)
        out[known] = values[self.back[known]]
        return out

    @cached_property
    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Per perturbation: values here and there, mean similarity here and there."""
        return null_means(self.seen, self.other, self.same)

    @cached_property
    def tested(self) -> np.ndarray:
        """bool [G]: at least the minimum of cells in both runs."""
        return np.minimum(self.means[0], self.means[1]) >= self.options.min_cells

    @cached_property
    def effect(self) -> np.ndarray:
        """float64 [G]: mean similarity here minus there."""
        return self.means[2] - self.means[3]

    def rank_sum_of(self, values: np.ndarray, null_values: np.ndarray) -> RankSum:
        """Values [N] of every gene against the null run's values [M] of it, corrected for ties; NaN takes no part."""
        rising = np.argsort(self.same, kind="stable")  # perturbations there in the order of here, behind those not here
        number, there = self.same[rising], self.other.count[rising]
        both = self.seen.count.copy()
        np.add.at(both, number[number >= 0], there[number >= 0])
        found = []
        for first, last in whole_groups(offsets_of(both)):  # so that no key of all rows is made
            here = slice(self.seen.offsets[first], self.seen.offsets[last])
            a, b = np.searchsorted(number, (first, last))
            rows = places_of(there[a:b]) + np.repeat(self.other.offsets[rising[a:b]], there[a:b])
            mine, kept = ~np.isnan(values[here]), ~np.isnan(null_values[rows])
            found.append(
                between(
                    self.seen.gene[here][mine] - first,
                    values[here][mine],
                    np.repeat(number[a:b] - first, there[a:b])[kept],
                    null_values[rows][kept],
                    last - first,
                    ties=True,
                )
            )
        return RankSum(
            superiority=np.concatenate([one.superiority for one in found]),
            error=np.concatenate([one.error for one in found]),
        )

    @cached_property
    def rank_sum(self) -> RankSum:
        """Similarities here against those there."""
        return self.rank_sum_of(self.values, self.null_values)

    @cached_property
    def null_places(self) -> InCells | None:
        """As `places`, of the null run."""
        return in_cells(self.null, self.other, self.null_values) if single_genes(self.other) else None

    @cached_property
    def donors(self) -> tuple[Balanced, Balanced] | None:
        """Means over donors here and there; None without --by."""
        if (by := self.options.by) is None:
            return None
        here = balanced(self.seen, self.values, Donors.read(self.run, by))
        return here, balanced(self.other, self.null_values, Donors.read(self.null, by))

    @cached_property
    def donor_test(self) -> Welch:
        """Welch's t test over donors. Needs `donors`."""
        assert self.donors is not None
        here, there = self.donors
        there_groups = np.where(self.back >= 0, there.groups[self.back], 0)
        mean, difference, error = (self.aligned(v) for v in (there.mean, there.difference, there.error))
        return welch(here, there_groups, mean, difference, error, self.tested)

    @cached_property
    def resampled(self) -> tuple[Interval | None, Stability | None]:
        """Intervals of the difference and its rank, the units of both runs resampled; and how halves of both agree."""
        here, there = (None, None) if self.donors is None else self.donors
        units = units_of(self.seen, self.values, here)
        null_units = units_of(self.other, self.null_values, there)
        rng = np.random.default_rng(self.options.seed)
        halves, null_halves = half_means(units, rng), half_means(null_units, rng)
        found = None
        if halves is not None and null_halves is not None:
            one, two = (h - self.aligned(n) for h, n in zip(halves, null_halves, strict=True))
            found = agreement((one, two), self.tested, highest_first=False)
        if not self.options.bootstrap:
            return None, found
        mean = resampled_means(units, self.options.bootstrap, rng)
        mean -= self.aligned(resampled_means(null_units, self.options.bootstrap, rng))
        return intervals(mean, self.tested, highest_first=False), found
