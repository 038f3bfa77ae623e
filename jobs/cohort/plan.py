"""A study before its first step: cells read, audited, drawn and cut into folds, and everything refused that can be."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

from rankshift.jobs.cohort.cost import Cost, cost
from rankshift.jobs.cohort.drawing import drawn_of
from rankshift.jobs.cohort.folder import Folder, Source
from rankshift.jobs.cohort.genes import genes_of, write_genes
from rankshift.jobs.cohort.models import own_goal, recipe
from rankshift.jobs.cohort.options import Study
from rankshift.jobs.cohort.source import TEST, TRAIN, Cohort, Drawn
from rankshift.jobs.verbs.screen import duration
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.sql_names import check_names
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.files.object_store import Mirror, everywhere, fetched
from rankshift.screen.runs.layout import shift_column
from rankshift.screen.tokenizer.source import CellSource, name_of, places_of

Say = Callable[[str], None]


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
        drawn = drawn_of(cohort)
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
    def tokens(self) -> tuple[int, ...] | None:
        """Tokens of the genes that are screened."""
        return None if self.genes is None else tuple(self.genes["token"].to_pylist())

    def cost(self) -> Cost:
        """What it will cost."""
        return cost(self.cohort, self.drawn, self.bundle, self.tokens)

    def tell(self, say: Say) -> None:
        """Say what was found and what it will cost."""
        for note in self.notes:
            say(note)
        found = self.cost()
        say(f"encoder passes    {found.passes:,} in {self.folder.study.folds * len(self.folder.study.arms)} screens")
        say(f"training          {found.learnt:,} cells are learnt from, in {self.folder.study.folds} trainings")
        say(f"time              about {duration(3600 * found.hours)} on one worker")

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

    def write(self) -> None:
        """Write down what was asked and drawn; what is there is the same."""
        folder = self.folder
        if not (folder.path / "study.json").exists():
            folder.write()
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
    """With `goal_of` donor, every donor with start cells needs goal cells, and a column for its state."""
    study = cohort.study
    if study.goal_of != "donor":
        return
    has = {state: set(drawn.donor[drawn.label == state]) for state in (cohort.start, cohort.goal)}
    alone = sorted(has[cohort.start] - has[cohort.goal])
    if alone:
        raise InputError(
            f"--goal-of donor: donor {alone[0]!r} has no cell of {study.label} = {cohort.goal!r} ({len(alone)} such donors): "
            "use --goal-of training"
        )
    names = [shift_column(own_goal(cohort.goal, donor)) for donor in sorted(has[cohort.goal])]
    check_names([*map(shift_column, cohort.states), *names], "columns of the states", "rename a donor")
