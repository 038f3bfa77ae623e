"""Drawn tables of an adaptive screen: rows with known effects of genes, for tests and for benchmarks/adaptive.py.

A value is the sum of effects of its cell, of the cell's trend over rank, of its gene, and a rest of which a prediction knows a
share. Nothing is encoded: they say how the method behaves on values like these, not what a model finds.
"""

from dataclasses import dataclass

import numpy as np

from rankshift.screen.adaptive.allocation import Verdict, Wanted, rounds
from rankshift.screen.adaptive.population import Population, sorted_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """What to draw: `cells` with `per_cell` of `genes` genes, detected at very different rates.

    cell, trend, gene: shares of the variance of a value; the rest is of the row. known: share of rest and gene effects that the
    prediction knows, 0 for none. tail: normal, t3, or sparse (3 in 100 genes have an effect to speak of).
    """

    genes: int = 4000
    cells: int = 400
    per_cell: int = 560
    cell: float = 0.65
    trend: float = 0.26
    gene: float = 0.0
    known: float = 0.9
    tail: str = "normal"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A population of the genes in enough cells, values float64 [N] of its rows, and the true effect float64 [G] of genes."""

    population: Population
    values: np.ndarray
    truth: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """float64 [G]: what the full screen reports."""
        of = self.population
        return np.bincount(of.gene, self.values, of.genes) / of.count


def draw(regime: Regime, seed: int, min_cells: int = 10) -> Table:
    """Draw a table."""
    rng = np.random.default_rng(seed)
    genes, cells, per_cell = regime.genes, regime.cells, regime.per_cell
    detected = rng.normal(0, 1.6, genes) + rng.gumbel(size=(cells, genes))
    part = np.argpartition(-detected, per_cell - 1, axis=1)[:, :per_cell]
    level = np.sqrt(0.5) * (rng.normal(0, 1, genes)[part] + rng.normal(size=part.shape))
    place = np.argsort(np.argsort(-level, axis=1), axis=1)
    rank = (np.log2(place + 1) / np.log2(per_cell + 1)).ravel()
    cell, gene = np.repeat(np.arange(cells), per_cell), part.ravel()
    powers = np.column_stack([rank, rank**2, rank**3])
    powers = (powers - powers.mean(0)) / powers.std(0)
    mixing = np.array([[1, 0, 0], [-0.9, 0.5, 0], [0.5, -0.6, 0.4]])
    trend = (powers * (rng.normal(size=(cells, 3)) @ mixing.T)[cell]).sum(1)
    effect = _tail(regime.tail, genes, rng)
    rest = 1 - regime.cell - regime.trend - regime.gene
    louder = np.exp(0.8 * (0.7 - rank))  # the rest is larger at the front
    louder /= np.sqrt((louder**2).mean())
    seen, unseen = rng.normal(size=len(cell)) * louder, rng.normal(size=len(cell)) * louder
    values = np.sqrt(regime.cell) * rng.normal(size=cells)[cell] + np.sqrt(regime.trend) * trend / trend.std()
    values += np.sqrt(regime.gene) * effect[gene]
    values += np.sqrt(rest) * (np.sqrt(regime.known) * seen + np.sqrt(1 - regime.known) * unseen)
    predicted = None
    if regime.known:
        of_gene = np.sqrt(regime.known) * effect + np.sqrt(1 - regime.known) * rng.normal(size=genes)
        predicted = np.sqrt(rest * regime.known) * seen + np.sqrt(regime.gene * regime.known) * of_gene[gene]
        predicted += 0.3 * np.sqrt(regime.trend) * trend / trend.std()
    return table_of(cell, gene, rank, values, predicted, min_cells, np.sqrt(regime.gene) * effect)


def table_of(
    cell: np.ndarray,
    gene: np.ndarray,
    rank: np.ndarray,
    values: np.ndarray,
    predicted: np.ndarray | None,
    min_cells: int,
    truth: np.ndarray,
) -> Table:
    """A table of the rows whose genes are in `min_cells` cells; truth: by the number of a gene in `gene`."""
    kept = np.bincount(gene)[gene] >= min_cells
    number, gene = np.unique(gene[kept], return_inverse=True)
    which, cell = np.unique(cell[kept], return_inverse=True)
    population, order = sorted_rows(
        {
            "cell": cell,
            "gene": gene,
            "rank": rank[kept],
            "absent": np.zeros(len(cell), bool),
            "predicted": None if predicted is None else predicted[kept],
            "cell_key": which.astype(np.uint64),
            "gene_key": number.astype(np.uint64) + np.uint64(1),
            "stratum": np.zeros(len(which), np.int64),
        }
    )
    return Table(population=population, values=values[kept][order], truth=truth[number])


def _tail(tail: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Effects of genes of variance 1, float64 [count]."""
    if tail == "normal":
        return rng.normal(size=count)
    if tail == "t3":
        found = rng.standard_t(3, count)
    else:
        found = np.where(rng.random(count) < 0.03, rng.normal(0, 5, count), rng.normal(0, 0.3, count))
    return found / found.std()


def played(
    of: Population, values: np.ndarray, wanted: Wanted, budget: int | None = None
) -> tuple[list[tuple[str, tuple[int, ...]]], Verdict]:
    """Play the rounds with these values: kind and rows of each, and what may be said in the end."""
    plan = rounds(of, wanted, budget)
    said = []
    asked = next(plan)
    while True:
        said.append((asked.kind, tuple(asked.rows.tolist())))
        try:
            asked = plan.send((asked.rows, values[asked.rows]))
        except StopIteration as end:
            return said, end.value
