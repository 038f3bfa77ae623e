"""What the user asks of a study. Options are checked against each other here, against cells and bundle by the plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rankshift.screen.embed.states import check_route
from rankshift.screen.errors import InputError
from rankshift.screen.families.operators import PRECISIONS

ARMS = ("delete", "overexpress")
GOAL_OF = ("training", "donor")
CONTROLS = 100  # matched genes drawn beside a list: 1 of 101 is the smallest share that they can tell


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What the user asks of a study; the fields are the options of `rankshift study`.

    label: obs column of the state. batch: obs columns (study, chemistry) that the audit crosses with it; balance: obs columns
    that folds keep in proportion. cells_per_donor: analysis cells of a donor and label at most; pool_per_donor: the same of
    training cells. genes: as for `rankshift screen`; controls: so many genes are drawn beside a list. goal_of: whose goal
    state a donor's cells are held against: the mean of the training donors, or the same `donor`'s. min_cells: a gene in fewer
    start cells of a donor has no value there. cell_type: obs column for the flag of leaking genes. confounded, despite_gate:
    go on where the study would be refused or would stop. epochs to freeze: of the fine-tuning, None as it has them.
    gene_column, counts_layer: of cells given as counts.
    """

    label: str
    start: str
    goal: str
    donor: str
    alt: Sequence[str] = ()
    batch: Sequence[str] = ()
    balance: Sequence[str] = ()
    folds: int = 5
    cells_per_donor: int = 100
    pool_per_donor: int = 1000
    genes: str | Sequence[str] = "all"
    controls: int | None = None
    arms: Sequence[str] = ARMS
    goal_of: str = "training"
    min_cells: int = 5
    cell_type: str | None = None
    confounded: bool = False
    despite_gate: bool = False
    layer: int = -1
    dtype: str = "auto"
    epochs: int | None = None
    learning_rate: float | None = None
    batch_tokens: int | None = None
    freeze: int = 0
    gene_column: str | None = None
    counts_layer: str | None = None
    seed: int = 0

    @staticmethod
    def of(given: Mapping[str, Any]) -> "Study":
        """The options among named values, as among the arguments of a function: `Study.of(locals())`."""
        return Study(**{field.name: given[field.name] for field in fields(Study) if field.name in given})

    def __post_init__(self) -> None:
        check_route(self.start, self.goal, self.alt)
        if self.folds < 2:
            raise InputError(
                f"--folds is {self.folds}: give at least 2, so that no donor is scored by a model that saw it"
            )
        for name in ("cells_per_donor", "pool_per_donor", "controls", "min_cells"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}: give at least 1")
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms or len(set(self.arms)) < len(self.arms):
            raise InputError(f"--arms {','.join(self.arms)!r}: name one or both of {', '.join(ARMS)}, each once")
        if self.goal_of not in GOAL_OF:
            raise InputError(f"--goal-of {self.goal_of!r} is unknown: use one of {', '.join(GOAL_OF)}")
        if self.controls is not None and self.genes == "all":
            raise InputError("--controls are genes beside a list, with all genes each has the others: leave it out")
        if self.dtype not in ("auto", *PRECISIONS):
            raise InputError(f"dtype {self.dtype!r} is unknown: use one of auto, {', '.join(PRECISIONS)}")
        if self.label == self.donor:
            raise InputError(f"--label and --donor are both {self.label!r}: a donor has a name, its cells have a state")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}: give a number of at least 0")
        for option, names in (("--batch", self.batch), ("--balance", self.balance)):
            for taken in (self.label, self.donor):
                if taken in names:
                    raise InputError(f"{option} names {taken!r}, which is --label or --donor: leave it out there")

    @property
    def states(self) -> list[str]:
        """Start, goal and alternatives."""
        return [self.start, self.goal, *self.alt]

    @property
    def more_columns(self) -> dict[str, Sequence[str]]:
        """Options that name further obs columns, and those columns."""
        return {
            "--batch": self.batch,
            "--balance": self.balance,
            "--cell-type": () if self.cell_type is None else (self.cell_type,),
        }

    @property
    def record(self) -> dict[str, Any]:
        """Plain values, as study.json has them."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
