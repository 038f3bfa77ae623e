"""Which matrix of an AnnData or of a file holds the counts: .raw, a layer, or X. What was logged or scaled is no count.

A file says nowhere which of its matrices holds counts, so values decide. Counts that were corrected for ambient RNA or divided
by a cell's depth are taken, because ranks need no whole numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from rankshift.screen.errors import InputError

RAW, X = "raw", "X"
COUNT_LAYERS = (
    "counts",
    "raw_counts",
    "count",
    "raw",
    "umi_counts",
    "umis",
)  # names that layers of counts have, lower case
LARGEST_LOG = 20  # ln(1 + x) of every count below 5e8; raw counts of a few hundred cells go beyond
NEAR = 1e-3  # how near to a whole number of steps a value is, as a share of it
STEPS = 0.95  # share of the values above a cell's smallest that are whole numbers of it, where cells were only divided
SCALED = "holds negative values, as scaled data do"

Rows = Callable[[], Iterator[sp.csr_matrix]]  # some cells of a matrix, to judge it by


@dataclass(frozen=True, slots=True)
class Choice:
    """The matrix that was taken, `raw`, `X` or the name of a layer, and a note for the user where there was a choice."""

    layer: str
    note: str | None


def choose(where: str, matrices: Mapping[str, Rows], asked: str | None, logged: bool) -> Choice:
    """Take the matrix that was `asked` for, else the first of raw, layers of counts and X whose values may be counts.

    matrices: some rows of every matrix there is, by name. logged: does uns say that X was logged?
    Raises InputError where `asked` is not there, or where nothing looks like counts.
    """
    if asked is not None:
        if asked not in matrices:
            raise InputError(f"{where} has no layer {asked!r}: give one of {', '.join(matrices)}")
        fault = fault_of(matrices[asked](), logged and asked == X)
        doubt = "" if fault is None else f", although it {fault}"
        return Choice(asked, None if asked == X and not doubt else f"counts are those of {asked}{doubt}")
    faults: dict[str, str] = {}
    candidates = _candidates(matrices)
    for name in candidates:
        fault = fault_of(matrices[name](), logged and name == X)
        if fault is None or (fault == SCALED and len(candidates) == 1):  # the reader names the gene and the cell
            return Choice(name, None if name == X and not faults else _note(name, faults))
        faults[name] = fault
    if not faults:
        raise InputError(f"{where} has no X: put the raw counts there")
    found = "; ".join(f"{name} {fault}" for name, fault in faults.items())
    others = [name for name in matrices if name not in faults]
    say = f"name the matrix with --layer ({', '.join([*others, *faults])})"
    raise InputError(f"{where} holds no counts where they are looked for: {found}: put raw counts into X, or {say}")


def _candidates(matrices: Mapping[str, Rows]) -> list[str]:
    layers = {name.lower(): name for name in matrices if name not in (RAW, X)}
    named = [layers[name] for name in COUNT_LAYERS if name in layers]
    return [*([RAW] if RAW in matrices else []), *named, *([X] if X in matrices else [])]


def _note(name: str, faults: Mapping[str, str]) -> str:
    skipped = "".join(f"; {other} {fault}" for other, fault in faults.items())
    return f"counts are those of {name}{skipped}"


def fault_of(rows: Iterator[sp.csr_matrix], logged: bool) -> str | None:
    """Why these values cannot be counts, or None: as "looks log-normalised (…)". Not-finite values are left out."""
    largest, steps, informative, whole = 0.0, 0, 0, True
    for part in rows:
        data = np.asarray(part.data)
        data = data[np.isfinite(data)] if data.dtype.kind == "f" else data
        if not len(data):
            continue
        if data.min() < 0:
            return SCALED
        largest = max(largest, float(data.max()))
        if largest > LARGEST_LOG:
            return None
        if data.dtype.kind == "f":
            whole = whole and bool((data == np.rint(data)).all())
            good, all_of_them = _steps(part)
            steps, informative = steps + good, informative + all_of_them
    if whole or (informative and steps >= STEPS * informative and not logged) or not (informative or logged):
        return None
    return f"looks log-normalised (no value above {LARGEST_LOG}, and values are no whole numbers of steps)"


def _steps(rows: sp.csr_matrix) -> tuple[int, int]:
    """Of the values above their cell's smallest: how many are whole multiples of it, and how many there are."""
    good = there = 0
    for a, b in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        values = np.asarray(rows.data[a:b], np.float64)
        values = values[(values > 0) & np.isfinite(values)]
        if not len(values):
            continue
        multiple = values / values.min()
        multiple = multiple[multiple > 1 + NEAR]
        there += len(multiple)
        good += int((np.abs(multiple - np.rint(multiple)) <= NEAR * multiple).sum())
    return good, there


def spread(
    cells: int, spots: Sequence[float] = (0.0, 0.13, 0.25, 0.4, 0.5, 0.66, 0.8, 1.0), rows: int = 32
) -> list[slice]:
    """Slices of cells from all over a matrix, to judge it by: `rows` at each of the `spots`, which are fractions of it."""
    starts = sorted({int(spot * max(cells - rows, 0)) for spot in spots})
    return [slice(start, min(start + rows, cells)) for start in starts if start < cells]
