"""A study before its first step: cells read, audited, drawn and cut into folds, and everything refused that can be."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from rankshift.jobs.cohort.cost import Cost, cost
from rankshift.jobs.cohort.folder import Folder, Source
from rankshift.jobs.cohort.genes import genes_of, write_genes
from rankshift.jobs.cohort.models import own_goal, recipe
from rankshift.jobs.cohort.options import Study
from rankshift.jobs.cohort.source import TEST, TRAIN, Cohort, Drawn
from rankshift.jobs.verbs.screen import duration
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import blocks
from rankshift.screen.cells.sql_names import check_names
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.object_store import Mirror, everywhere, fetched
from rankshift.screen.runs.layout import shift_column
from rankshift.screen.study.audit import estimable
from rankshift.screen.study.draw import ANALYSIS
from rankshift.screen.tokenizer.source import CellSource, name_of, places_of


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Plan:
    """A checked study. genes: those screened, with their controls, None for all. notes: to be said of cells and genes."""

    folder: Folder
    bundle: Bundle
    cohort: Cohort
    drawn: Drawn
    genes: pa.Table | None
    notes: tuple[str, ...]

    @staticmethod
    def make(cells: CellSource, bundle: Path | str, out: Path | str, asked: Study) -> "Plan":
        """Read and check everything; nothing is written. Raises InputError on what cannot be studied."""
        if Mirror.of(out) is not None:
            raise InputError(f"--out {redacted(out)} is in an object store: a study is a folder of this machine")
        opened = Bundle.open(fetched(bundle))
        recipe(asked)
        cohort = Cohort.read(cells, opened, asked)
        drawn = Drawn.of(cohort)
        _check_folds(drawn, cohort)
        _check_states(drawn, cohort)
        genes, notes = genes_of(cohort, drawn, opened)
        places = places_of(cells)
        source = Source(
            cells=places[0] if len(places) == 1 else name_of(cells),
            cells_sha256=cohort.digest(),
            bundle=redacted(everywhere(opened.path)),
            weights_sha256=opened.weights_sha256,
        )
        folder = Folder(path=Path(out), study=asked, source=source, made_by=version("rankshift"))
        return Plan(
            folder=folder,
            bundle=opened,
            cohort=cohort,
            drawn=drawn,
            genes=genes,
            notes=(*cohort.notes, *notes),
        )

    @property
    def states(self) -> list[str]:
        """Start, goal, alternatives, as the cells write them."""
        return self.cohort.states

    @property
    def start_rows(self) -> np.ndarray:
        """int64 [n]: rows of the cohort's table that are screened."""
        drawn = self.drawn
        return drawn.row[(drawn.role == ANALYSIS) & (drawn.label == self.cohort.start)]

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """Tokens of the genes that are screened."""
        return None if self.genes is None else tuple(self.genes["token"].to_pylist())

    def cost(self) -> Cost:
        """What it will cost."""
        return cost(self.cohort, self.drawn, self.bundle, self.tokens)

    def lines(self) -> Iterator[str]:
        """What was found and what it will cost, for the terminal and the page."""
        yield from self.notes
        yield from self.cohort.audit.lines()
        seen = self.estimable()
        donors = len(seen) - 1
        some = ", ".join(f"{int(seen[least:].sum()):,} in {least} or more" for least in _steps(donors))
        yield f"genes             in {self.folder.study.min_cells} start cells or more of a donor: {some} of {donors} donors"
        found, study = self.cost(), self.folder.study
        yield f"encoder passes    {found.passes:,} in {study.folds * len(study.arms)} screens"
        yield f"training          {found.learnt:,} cells are learnt from, in {study.folds} trainings"
        yield f"time              about {duration(3600 * found.hours)} on one worker"

    def estimable(self) -> np.ndarray:
        """int64 [D + 1]: genes with `min_cells` analysis start cells in exactly 0, 1, … D donors."""
        drawn, cohort = self.drawn, self.cohort
        some = (drawn.role == ANALYSIS) & (drawn.label == cohort.start)
        who, donor = np.unique(drawn.donor[some].astype(str), return_inverse=True)
        is_gene = self.bundle.vocabulary.is_gene
        cells = np.zeros((len(is_gene), len(who)), np.int64)
        for number in range(len(who)):
            for block in blocks(cohort.table, drawn.row[some][donor == number]):
                cells[:, number] += np.bincount(block.ids, minlength=len(is_gene))
        return estimable(cells[is_gene & (cells.sum(1) > 0)], cohort.study.min_cells)

    def claim(self, resume: bool) -> None:
        """Take the folder for this study, or go on with the same one; raises InputError where it is another or in the way."""
        folder = self.folder
        if not folder.path.exists():
            return
        if not resume:
            raise InputError(f"{folder.path} exists: continue the study with --resume, or give another --out")
        there = Folder.open(folder.path)
        if there.study.record != folder.study.record:
            other = [name for name, value in folder.study.record.items() if there.study.record[name] != value]
            option = other[0].replace("_", "-")
            raise InputError(f"{folder.path} is a study with another --{option}: give the same again, or another --out")
        if there.source.cells_sha256 != folder.source.cells_sha256:
            raise InputError(f"{folder.path} is a study of other cells: give the same again, or another --out")
        if there.source.weights_sha256 != folder.source.weights_sha256:
            raise InputError(f"{folder.path} is a study with another bundle: give the same again, or another --out")

    def write(self, lines: list[str]) -> None:
        """Write down what was asked, found (`lines`) and drawn; what is there is the same."""
        folder = self.folder
        if not (folder.path / "study.json").exists():
            folder.write()
        if not folder.audit.exists():
            record = self.cohort.audit.record | {"estimable": self.estimable().tolist(), "lines": lines}
            with replacing(folder.audit) as temporary:
                temporary.write_text(json.dumps(record, indent=2) + "\n")
        if not folder.cells.exists():
            self.drawn.write(folder.cells, self.cohort)
        if self.genes is not None and not folder.genes.exists():
            write_genes(self.genes, folder.genes)


def _check_folds(drawn: Drawn, cohort: Cohort) -> None:
    """Every state on both sides of every fold, before the first of them is trained."""
    for fold in range(cohort.study.folds):
        split = drawn.split(fold)
        for side, what in ((TRAIN, "to learn from"), (TEST, "to judge by")):
            there = set(drawn.label[split == side])
            lacking = [state for state in cohort.states if state not in there]
            if lacking:
                raise InputError(
                    f"fold {fold} has no cell of {cohort.study.label} = {lacking[0]!r} {what}: lower --folds, or lower "
                    "--cells-per-donor"
                )


def _check_states(drawn: Drawn, cohort: Cohort) -> None:
    """With `goal_of` donor, a column for the goal state of every donor; the audit has seen that each has one."""
    if cohort.study.goal_of == "donor":
        names = [shift_column(own_goal(cohort.goal, donor)) for donor in sorted(set(drawn.donor))]
        check_names([*map(shift_column, cohort.states), *names], "columns of the states", "rename a donor")


def _steps(donors: int) -> list[int]:
    """One, half and all of the donors."""
    return sorted({1, (donors + 1) // 2, donors})
