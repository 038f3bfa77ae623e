"""The screens of a study, a run for every fold and arm, and the values they give: a mean shift per gene, arm and donor.

Sums are taken in the order of rows, so that a study that was stopped gives the same bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.jobs.cohort.folder import Folder
from rankshift.jobs.cohort.models import own_goal
from rankshift.jobs.cohort.source import SPLIT, TEST
from rankshift.jobs.verbs.screen import run_screen
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.engine.options import Options
from rankshift.screen.files.json_file import read_object
from rankshift.screen.runs.layout import CELLS, SIMILARITY, shift_column
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.observations import Observations

Say = Callable[[str], None]


def options_of(folder: Folder, fold: int, arm: str, states: list[str]) -> Options:
    """The screen of a fold and an arm. states: start, goal, alternatives; of a list of genes its controls come along."""
    study, vectors = folder.study, folder.states(fold)
    own = [name for name in read_object(vectors) if name not in states]
    genes = "all" if study.genes == "all" else pq.read_table(folder.genes)["gene_id"].to_pylist()
    return Options(
        perturb=arm,
        genes=genes,
        states=vectors,
        state_key=study.label,
        start=states[0],
        goal=states[1],
        alt=(*states[2:], *own),
        where=f"{SPLIT} = '{TEST}'",
        layer=study.layer,
        dtype=study.dtype,
    )


def screen(folder: Folder, fold: int, arm: str, states: list[str], workers: int | None, say: Say) -> None:
    """Screen the start cells of the fold's donors; a run that was stopped goes on."""
    options = options_of(folder, fold, arm, states)
    place = folder.run(fold, arm)
    run_screen(folder.tokens(fold), folder.bundle(fold), place, options, workers=workers, resume=True, say=say)


def screened(folder: Folder, fold: int, arm: str) -> bool:
    """Is the run complete, its noise floor measured?"""
    place = folder.run(fold, arm)
    if not place.exists():
        return False
    run = Run.open(place)
    return run.complete and run.manifest.noise_floor is not None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Values:
    """What the screens measured. gene_ids, symbols [G]; donors [D] with their fold, int [D]; by arm: mean shift towards the
    goal, float64 [G, D], NaN where the donor has no cell with the gene; cells int64 [G, D]; mean similarity float64 [G, D].
    """

    gene_ids: list[str]
    symbols: list[str]
    donors: list[str]
    fold: np.ndarray
    shift: dict[str, np.ndarray]
    cells: dict[str, np.ndarray]
    similarity: dict[str, np.ndarray]

    def table(self) -> pa.Table:
        """donors.parquet: a row per gene, arm and donor that has cells."""
        parts = []
        for arm in self.shift:
            gene, donor = np.nonzero(self.cells[arm])
            parts.append(
                pa.table(
                    {
                        "gene_id": pa.array([self.gene_ids[i] for i in gene], pa.string()),
                        "symbol": pa.array([self.symbols[i] for i in gene], pa.string()),
                        "arm": pa.array([arm] * len(gene), pa.string()),
                        "donor": pa.array([self.donors[i] for i in donor], pa.string()),
                        "fold": pa.array(self.fold[donor], pa.int32()),
                        "cells": pa.array(self.cells[arm][gene, donor], pa.int64()),
                        "shift": pa.array(self.shift[arm][gene, donor], pa.float64()),
                        "similarity": pa.array(self.similarity[arm][gene, donor], pa.float64()),
                    }
                )
            )
        return pa.concat_tables(parts)


def values(folder: Folder, states: list[str]) -> Values:
    """Collect the means of all runs."""
    read = [(fold, arm, *_of_run(Run.open(place), folder, states)) for fold, arm, place in folder.runs()]
    names = sorted({key for _, _, _, genes, *_ in read for key in genes})
    donors = sorted({(donor, fold) for fold, _, who, *_ in read for donor in who})
    at = {key: i for i, key in enumerate(names)}
    column = {donor: i for i, (donor, _) in enumerate(donors)}
    shape = len(names), len(donors)
    out = {
        arm: (np.full(shape, np.nan), np.zeros(shape, np.int64), np.full(shape, np.nan)) for arm in folder.study.arms
    }
    for _, arm, who, genes, *found in read:
        place = np.ix_([at[key] for key in genes], [column[donor] for donor in who])
        for whole, part in zip(out[arm], found, strict=True):
            whole[place] = part
    return Values(
        gene_ids=[gene for gene, _ in names],
        symbols=[symbol for _, symbol in names],
        donors=[donor for donor, _ in donors],
        fold=np.array([fold for _, fold in donors], np.int32),
        shift={arm: parts[0] for arm, parts in out.items()},
        cells={arm: parts[1] for arm, parts in out.items()},
        similarity={arm: parts[2] for arm, parts in out.items()},
    )


def _of_run(run: Run, folder: Folder, states: list[str]) -> tuple[list, list, np.ndarray, np.ndarray, np.ndarray]:
    """Donors, genes as (id, symbol), then mean shift, number of cells and mean similarity [genes, donors] of a run."""
    study = folder.study
    column = labels_of(pq.read_table(run.path / CELLS, columns=[study.donor]), study.donor, "--donor")
    of_cell = np.array(column.to_pylist(), dtype=object)
    who = sorted(set(of_cell))
    number = np.searchsorted(who, of_cell)
    own = study.goal_of == "donor"
    goals = [shift_column(own_goal(states[1], donor) if own else states[1]) for donor in who]
    seen = Observations.read(run, list(dict.fromkeys([SIMILARITY, *goals])))
    donor = number[seen.cell]
    shift = np.empty(len(seen), np.float64)
    for i, name in enumerate(goals):
        shift[donor == i] = seen.values[name][donor == i]
    shape = len(seen.count), len(who)
    key = seen.gene.astype(np.int64) * len(who) + donor
    cells = np.bincount(key, minlength=shape[0] * shape[1])
    with np.errstate(invalid="ignore"):
        means = [
            (np.bincount(key, x.astype(np.float64), len(cells)) / cells).reshape(shape)
            for x in (shift, seen.values[SIMILARITY])
        ]
    ids, symbols = (seen.perturbations[name].to_pylist() for name in ("gene_ids", "symbols"))
    return who, list(zip(ids, symbols, strict=True)), means[0], cells.reshape(shape), means[1]
