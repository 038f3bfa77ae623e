"""All rows that an adaptive screen could measure: a gene's perturbation in a cell, with what is known before it is measured.

Rows are held in the order of cells, then genes, so that nothing depends on the order in which they were given.
"""

from dataclasses import dataclass, fields, replace
from hashlib import blake2b

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Population:
    """N rows of C cells and G genes; every gene is in enough cells to be tested.

    cell, gene int32 [N], sorted by cell, then gene. rank float64 [N]: logarithm of the gene's place in its cell, 0 the front, 1
    the end of the list (and of genes that the cell lacks). absent bool [N]: does the cell lack the gene? predicted float64 [N]:
    what the adjoint says of the row, or None. cell_key uint64 [C], gene_key uint64 [G]: names for hashing. stratum int64 [C]:
    the donor or state of a cell.
    """

    cell: np.ndarray
    gene: np.ndarray
    rank: np.ndarray
    absent: np.ndarray
    predicted: np.ndarray | None
    cell_key: np.ndarray
    gene_key: np.ndarray
    stratum: np.ndarray

    def __post_init__(self) -> None:
        step = np.diff(self.cell.astype(np.int64)) * (len(self.gene_key) + 1) + np.diff(self.gene.astype(np.int64))
        if (step <= 0).any():
            raise ValueError(
                "rows of a population are sorted by cell, then gene, each once: make it with `sorted_rows`"
            )

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return len(self.cell_key)

    @property
    def genes(self) -> int:
        """How many genes can be tested."""
        return len(self.gene_key)

    @property
    def count(self) -> np.ndarray:
        """int64 [G]: the cells of every gene."""
        return np.bincount(self.gene, minlength=self.genes)

    def with_prediction(self, predicted: np.ndarray | None) -> "Population":
        """The same rows with other predictions [N]."""
        return replace(self, predicted=predicted)

    def sums(self, rows: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """float64 [G]: sums of `values` [rows] (without: counts) over some rows of every gene."""
        return np.bincount(self.gene[rows], None if values is None else values, self.genes).astype(np.float64)


def sorted_rows(population: dict[str, np.ndarray | None]) -> tuple[Population, np.ndarray]:
    """A population from its fields with rows in any order; and int64 [N], the given row of every row in it."""
    cell, gene = population["cell"], population["gene"]
    assert cell is not None
    assert gene is not None
    order = np.lexsort((gene, cell))
    by_row = {"cell", "gene", "rank", "absent", "predicted"}
    taken = {
        f.name: value[order] if value is not None and f.name in by_row else value
        for f in fields(Population)
        for value in (population[f.name],)
    }
    return Population(**taken), order  # type: ignore[arg-type]  # only predicted may be None


def keys_of(names: list[str]) -> np.ndarray:
    """uint64: a number of every name, which is the same wherever and whenever it is made.

    >>> keys_of(["ENSG00000136574", "ENSG00000164093"]).tolist()
    [16914533668812756069, 1305151550265525]
    """
    return np.array([int.from_bytes(blake2b(n.encode(), digest_size=8).digest(), "big") for n in names], np.uint64)
