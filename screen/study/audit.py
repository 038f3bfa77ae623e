"""What a cohort allows to be said, found out from the columns of its cells before anything is computed.

It refuses what no computation can mend: too few donors, labels nobody has, labels that are told apart by their batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.study.exact import signed_rank_floor

NAMED = 5  # batches or donors that a line names before it counts the rest
NO_BATCH = "(missing)"  # cells without a value are a batch of their own: they may well be one


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found. labels: start, goal, alternatives, as the cells write them; donors: sorted.

    cells: by donor, then by label, the number of cells. batches: by column, batch and label, the number of cells.
    paired: donors with cells of start and goal. start_donors: donors with start cells, which give a value per gene each.
    smallest_p: of the exact test over them. confounded: a line for each label that only its batches may tell from others.
    """

    labels: tuple[str, ...]
    donors: tuple[str, ...]
    cells: dict[str, dict[str, int]]
    batches: dict[str, dict[str, dict[str, int]]]
    paired: tuple[str, ...]
    start_donors: tuple[str, ...]
    smallest_p: float
    confounded: tuple[str, ...] = field(default=())

    @property
    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The audit in words, for the terminal and the page."""
        start, goal = self.labels[:2]
        yield f"donors            {len(self.donors)}: " + ", ".join(
            f"{sum(label in self.cells[d] for d in self.donors)} with {label}" for label in self.labels
        )
        kind = "all of them" if len(self.paired) == len(self.donors) else f"{len(self.paired)} of them"
        yield f"paired            {kind if self.paired else 'none'} with cells of {start} and of {goal}"
        for label in self.labels:
            held = [self.cells[d][label] for d in self.donors if label in self.cells[d]]
            yield (
                f"cells per donor   {label}: {min(held):,} to {max(held):,}, median {np.median(held):,.0f}; "
                f"the largest donor has {max(held) / sum(held):.0%} of them"
            )
        for column, batches in self.batches.items():
            mixed = sum(len(counts) > 1 for counts in batches.values())
            yield f"batches           {column}: {len(batches)}, of which {mixed} hold more than one label"
        yield f"smallest p        {self.smallest_p:.2g}, by the exact test over {len(self.start_donors)} donors with {start}"
        for line in self.confounded:
            yield f"CONFOUNDED        {line}"


def audit(
    label: Sequence[str | None] | np.ndarray,
    donor: Sequence[str | None] | np.ndarray,
    *,
    start: str,
    goal: str,
    alternatives: Sequence[str] = (),
    batches: Mapping[str, Sequence[str | None] | np.ndarray] | None = None,
    folds: int = 5,
    goal_of: str = "training",
    confounded: bool = False,
    names: tuple[str, str] = ("label", "donor"),
) -> Audit:
    """Audit of cells by their texts of label [n] and donor [n]; cells of other labels than the named ones do not count.

    batches: column name -> text of every cell [n], None where it is missing. goal_of: "training" or "donor". confounded: go on
    with a label that only batches without any other label have; the audit then says so. names: of the two columns, for
    refusals. Raises InputError in one line.
    """
    labels = (start, goal, *alternatives)
    found, column = np.asarray(label, object), f"{names[0]!r}"
    there = set(found.tolist()) - {None}
    for wanted in labels:
        if wanted not in there:
            raise InputError(f"no donor has the label {wanted!r} in {column}: the labels are {_some(there)}")
    kept = np.isin(found.astype(str), labels) & np.array([text is not None for text in found], bool)
    who = np.asarray(donor, object)[kept]
    missing = sum(text is None for text in who)
    if missing:
        raise InputError(
            f"--donor {names[1]!r} is missing in {missing:,} of {len(who):,} cells: fill it in, or leave these cells out"
        )
    found = found[kept]
    cells = _crossed(who, found)
    columns = {name: np.asarray(values, object)[kept] for name, values in (batches or {}).items()}
    crossed = {
        name: _crossed(np.array([NO_BATCH if v is None else v for v in values], object), found)
        for name, values in columns.items()
    }
    paired = tuple(d for d, counts in cells.items() if start in counts and goal in counts)
    starting = tuple(d for d, counts in cells.items() if start in counts)
    _check_donors(cells, labels, folds)
    if goal_of == "donor" and len(paired) < len(starting):
        alone = [d for d in starting if d not in paired]
        raise InputError(
            f"--goal-of donor: {len(alone)} of {len(starting)} donors with {start!r} have no cells of {goal!r} "
            f"({_some(alone)}): use --goal-of training, or leave these donors out"
        )
    lines = tuple(_confounded(crossed, labels, confounded))
    return Audit(
        labels=labels,
        donors=tuple(cells),
        cells=cells,
        batches=crossed,
        paired=paired,
        start_donors=starting,
        smallest_p=signed_rank_floor(len(starting)),
        confounded=lines,
    )


def estimable(cells: np.ndarray, min_cells: int) -> np.ndarray:
    """int64 [D + 1]: number of genes with at least `min_cells` start cells in exactly 0, 1, … D donors; cells int [G, D]."""
    return np.bincount((np.asarray(cells) >= min_cells).sum(1), minlength=cells.shape[1] + 1)


def _check_donors(cells: Mapping[str, Mapping[str, int]], labels: Sequence[str], folds: int) -> None:
    if len(cells) < folds:
        raise InputError(
            f"--folds is {folds}, the cells are of {len(cells)} donors: give at most one fold for each donor"
        )
    for label in labels:
        count = sum(label in counts for counts in cells.values())
        if count < folds:
            raise InputError(
                f"--folds is {folds}, only {count} donors have cells of {label!r}: give at most {count} folds, "
                "so that each fold can judge every label"
                if count > 1
                else f"only one donor has cells of {label!r}: two are needed, one to learn from and one to judge by"
            )


def _confounded(
    crossed: Mapping[str, Mapping[str, Mapping[str, int]]], labels: Sequence[str], go_on: bool
) -> Iterator[str]:
    """A line for every label that a batch column gives away; raises InputError unless told to go on."""
    for column, batches in crossed.items():
        pure = {b: next(iter(counts)) for b, counts in batches.items() if len(counts) == 1}
        if len(pure) == len(batches) == len(labels) == len(set(pure.values())):
            line = f"the batch column {column!r} is the label by another name: no cell can tell the two apart"
            fix = "give another --batch, or go on with --confounded"
            if not go_on:
                raise InputError(f"{line}; {fix}")
            yield line
            continue
        for label in labels:
            own = [b for b, counts in batches.items() if label in counts]
            if all(b in pure for b in own):
                line = f"the label {label!r} is carried only by {column} {_some(own)}, which have no other label"
                if not go_on:
                    raise InputError(
                        f"{line}: a model would learn the batch; add batches that have both, or go on with --confounded"
                    )
                yield line


def _crossed(rows: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, int]]:
    """Cells by row and label, both in sorted order, without zeros."""
    out: dict[str, dict[str, int]] = {}
    names, row = np.unique(rows.astype(str), return_inverse=True)
    kinds, kind = np.unique(labels.astype(str), return_inverse=True)
    table = np.bincount(row * len(kinds) + kind, minlength=len(names) * len(kinds)).reshape(len(names), len(kinds))
    for name, counts in zip(names.tolist(), table.tolist(), strict=True):
        out[name] = {k: n for k, n in zip(kinds.tolist(), counts, strict=True) if n}
    return out


def _some(names: Sequence[str] | set[str]) -> str:
    """A few names, and how many more."""
    every = sorted(map(str, names))
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more
