"""Labels of cells: classes or numbers from obs columns, and which cells are used to learn them.

Class ids follow the sorted names. Cells without a label are left out and counted; nothing is guessed or relabelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.cells.select import select
from rankshift.screen.errors import InputError

NONE = -100  # the label of what does not count: torch's cross-entropy ignores it
LEAST = 2  # cells of a class: one to learn from, one to be judged by


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One question. name: the column, or `genes`. classes: sorted names, none where a number is asked for."""

    name: str
    classes: tuple[str, ...] = ()
    weight: float = 1.0  # weight of its loss where there are several tasks

    @property
    def width(self) -> int:
        """Outputs of the model for it."""
        return max(1, len(self.classes))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CellLabels:
    """What n cells are labelled with. rows: int64 (n,), their rows in the token table, rising.

    values: (n, tasks), int64 class ids with NONE where a cell has no label of a task, or float64 numbers.
    notes: what was left out, one sentence each.
    """

    rows: np.ndarray
    tasks: tuple[Task, ...]
    values: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)


def cell_labels(
    cells: Cells,
    columns: Sequence[str],
    *,
    numeric: bool = False,
    weights: Sequence[float] = (),
    where: str | None = None,
    rare: float = 0.0,
    max_cells: int | None = None,
    max_cells_per_class: int | None = None,
    seed: int = 0,
) -> CellLabels:
    """Labels from obs columns, of the cells that `where` keeps; one task a column.

    rare: classes of a smaller share of the labelled cells are dropped. max_cells: a random sample, then at most
    max_cells_per_class of each class (of a single classified column). Raises InputError naming what cannot be learnt.
    """
    for column in columns:
        if column not in cells.obs.column_names:
            raise InputError(f"--label {column!r} is not a column: the columns are {', '.join(cells.obs.column_names)}")
    if max_cells_per_class is not None and (numeric or len(columns) > 1):
        raise InputError(f"--max-cells-per-class {max_cells_per_class} needs one label with classes: leave it out")
    rows = np.sort(select(cells, where=where))
    rng, notes = np.random.default_rng(seed), []
    names = np.stack([(_numbers if numeric else _names)(cells.obs, column, rows) for column in columns], axis=1)
    has = ~np.isnan(names) if numeric else names != None  # noqa: E711 (elementwise)
    for at, column in enumerate([] if numeric else columns):
        dropped = _rare(names[:, at], rare)
        if dropped:
            has[:, at] &= ~np.isin(names[:, at], list(dropped))
            notes.append(f"{column}: rare classes dropped: {', '.join(f'{n} ({k})' for n, k in dropped.items())}")
    kept = np.flatnonzero(has.any(axis=1))
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} cells without a label left out")
    if max_cells is not None:
        kept = np.sort(rng.permutation(kept)[:max_cells])
    if max_cells_per_class is not None:
        kept = _capped(names[:, 0], kept, max_cells_per_class, rng)
    names, has, rows = names[kept], has[kept], rows[kept]
    given = tuple(weights) or (1.0,) * len(columns)
    if numeric:
        _check_numbers(names[:, 0], columns[0])
        return CellLabels(rows=rows, tasks=(Task(name=columns[0]),), values=names, notes=tuple(notes))
    tasks, values = [], np.full(names.shape, NONE, np.int64)
    for at, column in enumerate(columns):
        classes, ids = np.unique(names[has[:, at], at].astype(str), return_inverse=True)
        values[has[:, at], at] = ids
        tasks.append(Task(name=column, classes=tuple(map(str, classes)), weight=given[at]))
        check_classes(tasks[-1], values[:, at])
    return CellLabels(rows=rows, tasks=tuple(tasks), values=values, notes=tuple(notes))


def check_classes(task: Task, ids: np.ndarray, what: str = "cell") -> None:
    """At least two classes, of at least two cells (or genes) each."""
    if len(task.classes) < 2:
        have = f"only {task.classes[0]!r}" if task.classes else "none"
        raise InputError(f"{task.name} has {have} as a class after filtering: at least 2 classes are needed")
    count = np.bincount(ids[ids >= 0], minlength=len(task.classes))
    for name, n in zip(task.classes, count, strict=True):
        if n < LEAST:
            raise InputError(
                f"class {name!r} of {task.name} has {n} {what}, at least {LEAST} are needed: drop it with --rare or --where"
                if what == "cell"
                else f"class {name!r} has {n} {what}, at least {LEAST} are needed: leave the class out"
            )


def _names(obs: pa.Table, column: str, rows: np.ndarray) -> np.ndarray:
    """object (n,): the column as text, None where there is no value."""
    return np.array(labels_of(obs, column, "--label").take(pa.array(rows)).to_pylist(), object)


def _numbers(obs: pa.Table, column: str, rows: np.ndarray) -> np.ndarray:
    """float64 (n,): the column as numbers, NaN where there is no value."""
    values = obs.column(column).take(pa.array(rows))
    try:
        return np.asarray(pc.fill_null(values.cast(pa.string()).cast(pa.float64()), np.nan), np.float64)
    except pa.ArrowException as error:
        raise InputError(
            f"--label {column!r} of --task regression is {values.type}: give a column of numbers"
        ) from error


def _rare(names: np.ndarray, share: float) -> dict[str, int]:
    """{class: cells} of those with less than this share of the labelled cells."""
    classes, count = np.unique(names[names != None].astype(str), return_counts=True)  # noqa: E711 (elementwise)
    few = count < share * count.sum()
    return dict(zip(classes[few].tolist(), count[few].tolist(), strict=True))


def _capped(names: np.ndarray, kept: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """A random `most` of every class among the `kept` rows, rising."""
    order = rng.permutation(kept)
    return np.sort(np.concatenate([order[names[order] == name][:most] for name in sorted(set(names[kept]))]))


def _check_numbers(values: np.ndarray, column: str) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"--label {column!r} has values that are not finite: leave them out with --where")
    if len(np.unique(values)) < 2:
        raise InputError(f"--label {column!r} has one value only: there is nothing to learn")
