"""The rows of a run that an adaptive screen chooses among, with their predictions, which are files of the run.

Predictions are computed for some cells at a time; a file of them appears whole, and so needs no marker.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rankshift.screen.adaptive.population import Population, keys_of, sorted_rows
from rankshift.screen.encoder.encoder import Encoder, one_thread
from rankshift.screen.engine.adjoint import predict
from rankshift.screen.engine.screener import Screener
from rankshift.screen.engine.shifts import Measure
from rankshift.screen.errors import InputError
from rankshift.screen.perturb.perturbation import edits_of
from rankshift.screen.runs.layout import PREDICTED, SIMILARITY
from rankshift.screen.runs.manifest import AdaptiveAsked
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.writing import writing

CELLS_OF_PART = 16  # cells whose predictions are a file: some 150 passes, small beside a shard


def asked_of(run: Run) -> AdaptiveAsked:
    """What an adaptive run was asked; raises InputError of a full one."""
    if run.manifest.adaptive is None:
        raise InputError(f"{run.path} is no adaptive screen: it was started without --top")
    return run.manifest.adaptive


def parts(screener: Screener) -> int:
    """How many files of predictions there are to be."""
    return -(-len(screener.cells) // CELLS_OF_PART)


def predicted_path(run: Run, part: int) -> Path:
    """Where the predictions of a part of the cells are."""
    return run.path / PREDICTED / f"part-{part:06d}.npy"


def ranked(measure: Measure, state: int | None) -> Measure:
    """The measure of one state alone, None: of the similarity. Every state is a way back of its own, most of the cost."""
    one = None if state is None or measure.states is None else measure.states[state : state + 1]
    return replace(measure, states=one)


def unpredicted(screener: Screener) -> list[int]:
    """The parts whose predictions a run lacks."""
    screener.run.fetch(PREDICTED)
    return [part for part in range(parts(screener)) if not predicted_path(screener.run, part).exists()]


def predict_part(screener: Screener, part: int, encoder: Encoder) -> int:
    """Predict the wanted quantity of all rows of a part of the cells, in the order of their lists; returns how many."""
    run = screener.run
    column = asked_of(run).column
    measure = ranked(screener.measure, None if column == SIMILARITY else run.manifest.measures[1:].index(column))
    numbers = range(part * CELLS_OF_PART, min((part + 1) * CELLS_OF_PART, len(screener.cells)))
    cells = [screener.cells.ids_of(number) for number in numbers]

    def of_cell(ids: np.ndarray) -> np.ndarray:
        return predict(ids, encoder, screener.perturb, measure)[:, -1]

    with one_thread():
        values = np.concatenate([np.empty(0, np.float32), *encoder.each(of_cell, cells)])
    with writing(run.path, predicted_path(run, part)) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)
    run.share(f"{PREDICTED}/{predicted_path(run, part).name}")
    return len(values)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowsOfRun:
    """The population of a run, and where its rows and genes are in the run.

    list_ int32 [N]: number of the row's list among those of its cell. perturbation int32 [G]: number of a gene in the run.
    lists: rows of the full screen.
    """

    population: Population
    list_: np.ndarray
    perturbation: np.ndarray
    lists: int

    def rows(self, cell: np.ndarray, perturbation: np.ndarray) -> np.ndarray:
        """int64: the rows of the population for pairs of cells and perturbations of the run, all of which it has."""
        of = self.population
        gene = np.searchsorted(self.perturbation, perturbation)
        known = of.cell.astype(np.int64) * of.genes + of.gene
        return np.searchsorted(known, cell.astype(np.int64) * of.genes + gene)


def rows_of_run(screener: Screener, *, predicted: bool = True) -> RowsOfRun:
    """All rows of genes in enough cells; with `predicted`, their predictions, which must be there."""
    asked, cells = asked_of(screener.run), screener.cells
    cell, number, perturbation, rank, absent = [], [], [], [], []
    for c in range(len(cells)):
        ids = cells.ids_of(c)
        lists = edits_of(ids, screener.perturb)
        source = lists.source[:, 0].astype(np.int64)
        lacks = lists.token[:, 0] >= 0
        cell.append(np.full(len(lists), c, np.int32))
        number.append(np.arange(len(lists), dtype=np.int32))
        perturbation.append(screener.perturbation_of[lists.key])
        rank.append(np.log2(np.where(lacks, len(ids), source) + 1) / np.log2(len(ids) + 1))
        absent.append(lacks)
    all_cells, all_numbers = np.concatenate(cell), np.concatenate(perturbation)
    kept = np.bincount(all_numbers)[all_numbers] >= asked.min_cells
    m = None
    if predicted:
        screener.run.fetch(PREDICTED)
        m = np.concatenate(
            [np.load(predicted_path(screener.run, part), allow_pickle=False) for part in range(parts(screener))]
        ).astype(np.float64)[kept]
    genes, gene = np.unique(all_numbers[kept], return_inverse=True)
    names = screener.run.sql("SELECT gene_ids FROM perturbations ORDER BY perturbation")["gene_ids"].to_pylist()
    population, order = sorted_rows(
        {
            "cell": all_cells[kept],
            "gene": gene.astype(np.int32),
            "rank": np.concatenate(rank)[kept],
            "absent": np.concatenate(absent)[kept],
            "predicted": m,
            "cell_key": keys_of(cells.obs["cell_id"].to_pylist()),
            "gene_key": keys_of([names[n] for n in genes.tolist()]),
            "stratum": _strata(screener, asked.strata),
        }
    )
    return RowsOfRun(
        population=population,
        list_=np.concatenate(number)[kept][order],
        perturbation=genes.astype(np.int32),
        lists=len(all_cells),
    )


def _strata(screener: Screener, column: str | None) -> np.ndarray:
    """A number for the donor of every cell, int64 [C]."""
    if column is None:
        return np.zeros(len(screener.cells), np.int64)
    values = [str(v) for v in screener.cells.obs[column].to_pylist()]
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
