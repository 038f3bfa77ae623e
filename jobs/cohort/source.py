"""The cells of a cohort with their labels and donors, and the drawn table that says which cell does what in which fold.

What the audit refuses is refused here. Roles: `analysis` cells are judged and screened, by the
model of their donor's fold; `pool` cells are learnt from, by the models of all other folds.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.jobs.cohort.options import Study
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells, CellTable
from rankshift.screen.cells.labels import label_meant, label_texts, labels_of
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.study.audit import Audit, audit
from rankshift.screen.study.draw import ANALYSIS, draw
from rankshift.screen.study.folds import donor_folds
from rankshift.screen.tokenizer.source import CellSource, cells_of

SPLIT, FOLD = "study_split", "study_fold"  # columns of a fold's token table
TRAIN, TEST, OTHER = "train", "test", "state"  # values of SPLIT; state: analysis cells of the training donors


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Cohort:
    """Cells whose label is of the study. rows: int64 [n] of the table; label, donor: str [n]; columns: str [n] of other obs
    columns that the study names, where empty values are None.
    """

    study: Study
    table: CellTable
    audit: Audit
    rows: np.ndarray
    label: np.ndarray
    donor: np.ndarray
    columns: dict[str, np.ndarray]
    notes: tuple[str, ...]

    @staticmethod
    def read(cells: CellSource, bundle: Bundle, study: Study) -> "Cohort":
        """Read the cells and audit them; raises InputError on what does not fit or cannot be studied."""
        table = cells_of(cells, bundle, gene_column=study.gene_column, layer=study.counts_layer)
        for taken in (SPLIT, FOLD):
            if taken in table.obs.column_names:
                raise InputError(f"the cells have a column {taken!r}, which a study makes: rename it")
        label, donor = (
            _objects(labels_of(table.obs, name, option))
            for name, option in ((study.label, "--label"), (study.donor, "--donor"))
        )
        named = {name: option for option, names in study.more_columns.items() for name in names}
        columns = {name: _objects(labels_of(table.obs, name, option)) for name, option in named.items()}
        states = [label_meant(table.obs.column(study.label), state) for state in study.states]
        found = audit(
            label,
            donor,
            start=states[0],
            goal=states[1],
            alternatives=states[2:],
            batches={name: columns[name] for name in study.batch},
            folds=study.folds,
            goal_of=study.goal_of,
            confounded=study.confounded,
            names=(study.label, study.donor),
        )
        rows = np.flatnonzero(np.isin(label.astype(str), states))
        return Cohort(
            study=study,
            table=table,
            audit=found,
            rows=rows,
            label=label[rows],
            donor=donor[rows],
            columns={name: values[rows] for name, values in columns.items()},
            notes=tuple(table.notes),
        )

    @property
    def states(self) -> list[str]:
        """Start, goal, alternatives as the cells write them."""
        return list(self.audit.labels)

    @property
    def start(self) -> str:
        """The start state as the cells write it."""
        return self.states[0]

    @property
    def goal(self) -> str:
        """The goal state as the cells write it."""
        return self.states[1]

    def digest(self) -> str:
        """sha256 of the cells' ids, lengths, labels and donors."""
        found = hashlib.sha256(self.table.lengths.tobytes())
        for texts in (self.label, self.donor, *self.columns.values()):
            found.update("\n".join(map(str, texts)).encode())
        found.update("\n".join(map(str, self.table.obs.column("cell_id").to_pylist())).encode())
        return found.hexdigest()


def _objects(texts: pa.Array) -> np.ndarray:
    return np.array(texts.to_pylist(), dtype=object)


def write_table(table: pa.Table, path: Path) -> None:
    """A table of a study, whole or not at all; the same rows give the same bytes."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Drawn:
    """The cells of a study: row int64 [m] of the cohort's table, donor, label, role str [m], fold int [m] of the donor."""

    row: np.ndarray
    donor: np.ndarray
    label: np.ndarray
    role: np.ndarray
    fold: np.ndarray

    @staticmethod
    def of(cohort: Cohort) -> "Drawn":
        """Draw the cells, and deal their donors to folds; all by the seed. Raises InputError where a fold lacks a label."""
        study = cohort.study
        made = draw(
            cohort.label,
            cohort.donor,
            cells_per_donor=study.cells_per_donor,
            pool_per_donor=study.pool_per_donor,
            seed=study.seed,
        )
        label, donor = cohort.label[made.row], cohort.donor[made.row]
        balance = [cohort.columns[name][made.row] for name in study.balance]
        fold = donor_folds(label, donor, folds=study.folds, seed=study.seed, balance=balance)
        return Drawn(
            row=cohort.rows[made.row],
            donor=donor,
            label=label,
            role=made.role,
            fold=np.array([fold[one] for one in donor], np.int32),
        )

    def write(self, path: Path, cohort: Cohort) -> None:
        """Write cells.parquet."""
        ids = cohort.table.obs.column("cell_id").take(pa.array(self.row))
        table = pa.table(
            {
                "cell": pa.array(self.row, pa.int64()),
                "cell_id": ids,
                "donor": pa.array(self.donor.tolist(), pa.string()),
                "label": pa.array(self.label.tolist(), pa.string()),
                "fold": pa.array(self.fold, pa.int32()),
                "role": pa.array(self.role.tolist(), pa.string()),
            }
        )
        write_table(table, path)

    @staticmethod
    def read(path: Path) -> "Drawn":
        """Read cells.parquet."""
        found = pq.read_table(path)
        texts = {
            name: np.array(label_texts(found[name], name).to_pylist(), dtype=object)
            for name in ("donor", "label", "role")
        }
        return Drawn(row=found["cell"].to_numpy(), fold=found["fold"].to_numpy(), **texts)

    def split(self, fold: int) -> np.ndarray:
        """What every drawn cell is to the model of a fold: TRAIN, TEST or OTHER, None of those it must not use."""
        held, analysis = self.fold == fold, self.role == ANALYSIS
        out = np.full(len(self.row), None, dtype=object)
        out[~held & ~analysis] = TRAIN
        out[held & analysis] = TEST
        out[~held & analysis] = OTHER
        return out

    def tokens(self, cohort: Cohort, fold: int) -> Cells:
        """The token table of a fold: cells with their annotations, SPLIT and FOLD."""
        split = self.split(fold)
        used = np.flatnonzero(split != None)  # noqa: E711 (of an array of objects)
        cells = cohort.table.take(self.row[used])
        obs = cells.obs.append_column(SPLIT, pa.array(split[used].tolist(), pa.string()))
        obs = obs.append_column(FOLD, pa.array(self.fold[used], pa.int32()))
        return Cells(ids=cells.ids, offsets=cells.offsets, obs=obs, frame=cells.frame)
