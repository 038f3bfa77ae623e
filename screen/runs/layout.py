"""Names of the files and columns of a run, each once. Who reads or writes a run asks here what things are called.

A column of measured values is `similarity`, `cell_cosine`, or of a state `cos_before_<state>` and `shift_<state>`; of pairs
each measure has three more, `<measure>_first`, `<measure>_second` and `<measure>_interaction`. Nothing is opened here.
"""

from collections.abc import Iterable
from pathlib import Path

MANIFEST = "run.json"
CONFIG = "screen.toml"  # the options of the screen, for `rankshift screen --config`
CELLS = "cells.parquet"
PERTURBATIONS = "perturbations.parquet"
LISTS = "lists.parquet"  # how many perturbed lists each cell has
PLAN = "shards.parquet"  # what each shard holds; rounds of adaptive screens have plans of their own
VOCABULARY = "vocabulary.parquet"  # only beside gene shifts, to name the affected genes
EXPRESSION = "expression.parquet"  # where the token table has cells of both states
STATISTICS = "statistics.parquet"  # the run's own table of statistics, written by `rankshift stats`
SHIFTS, GENES, COMMITS = "shifts", "genes", "commits"  # folders: parts, gene-level parts, markers
BEGUN = "begun"  # folder: what is done of shards that are not committed yet
COMPACTED = "compacted"  # folder: a sorted copy of the parts, and its index, written by `rankshift compact`
ROUNDS, PREDICTED, ANSWERS = "rounds", "predict", "answers.parquet"  # of adaptive screens
VERDICT = "rankshift.verdict"  # metadata of the answers: how the screen ended, in a sentence
EMPTY_PART = "empty"  # every run has a part without rows, so that views exist before the first commit

CELL, PERTURBATION = "cell", "perturbation"
SIMILARITY, CELL_COSINE = "similarity", "cell_cosine"


def shift_column(state: str) -> str:
    """How far a perturbation moves a cell towards `state`: cosine after minus cosine before.

    >>> shift_column("nf"), cos_before_column("nf")
    ('shift_nf', 'cos_before_nf')
    """
    return f"shift_{state}"


def cos_before_column(state: str) -> str:
    """Cosine of the unperturbed cell to `state`."""
    return f"cos_before_{state}"


def state_of(column: str) -> str | None:
    """The state that a column of shifts is about, None of any other column.

    >>> state_of("shift_nf"), state_of("similarity")
    ('nf', None)
    """
    prefix = shift_column("")
    return column.removeprefix(prefix) if column.startswith(prefix) else None


def measures(states: Iterable[str]) -> list[str]:
    """The columns that measure what a perturbation did: similarity, and the shift towards every state.

    >>> measures(["dcm", "nf"])
    ['similarity', 'shift_dcm', 'shift_nf']
    """
    return [SIMILARITY, *map(shift_column, states)]


def pair_columns(measure: str) -> tuple[str, str, str]:
    """Of pairs: the measure of the first gene alone, of the second alone, and their interaction."""
    return f"{measure}_first", f"{measure}_second", f"{measure}_interaction"


def part_path(run: Path, name: str) -> Path:
    """Where the shifts of the shard `name` are."""
    return run / SHIFTS / f"{name}.parquet"


def genes_path(run: Path, name: str) -> Path:
    """Where the gene shifts of the shard `name` are."""
    return run / GENES / f"{name}.parquet"


def marker_path(run: Path, name: str) -> Path:
    """The marker of the shard `name`; what has none does not exist for any reader."""
    return run / COMMITS / f"{name}.json"
