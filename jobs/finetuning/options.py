"""What to learn, how to split, what of the model learns, and the recipe of the steps."""

import math
from dataclasses import dataclass
from pathlib import Path

from rankshift.jobs.finetuning.adapters import check_adapters
from rankshift.jobs.finetuning.labels.splits import Splitting
from rankshift.jobs.finetuning.models import POOLS
from rankshift.jobs.training.recipe import Recipe
from rankshift.screen.errors import InputError

TASKS = ("cell", "gene", "multitask", "regression")
EPOCHS = {"gene": 1}  # as published: a cell holds many labelled genes
CELL_EPOCHS = 10  # as published


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetuning(Recipe):
    """How to fine-tune. task: cell, gene, multitask or regression; the rest as the options of the command."""

    task: str
    label: tuple[str, ...] = ()  # obs columns
    genes: Path | None = None  # {class: [genes]}
    task_weights: tuple[float, ...] = ()  # one per label; none: all equal
    pool: str = "auto"
    where: str | None = None
    rare: float = 0.0
    max_cells: int | None = None
    max_cells_per_class: int | None = None
    test: float = 0.2
    folds: int = 0
    split_by: str | None = None
    split_column: str | None = None
    freeze: int = 0
    class_weights: str = "none"
    lora: int | None = None  # rank
    quantize: bool = False
    dropout: float | None = None  # None: as the encoder was pretrained
    drop_genes: float = (
        0.0  # share of a cell's genes that is left out anew in every step; small data are learnt by heart
    )
    baseline: bool = False
    epochs: float | None = None  # None: 10, of genes 1, as published; 0.9 is nine tenths of the steps of one
    batch_tokens: int = 24_576  # places of a step, padding included: 12 cells of 2048, the published batch
    learning_rate: float = 5e-5  # as published
    warmup: float = 0.1  # share of the steps; published are 500 steps, which small data never see the end of

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if self.task not in TASKS:
            raise InputError(f"--task {self.task!r} is unknown: use one of {', '.join(TASKS)}")
        self._check_labels()
        if self.pool not in POOLS:
            raise InputError(f"--pool {self.pool!r} is unknown: use one of {', '.join(POOLS)}")
        if self.class_weights not in ("none", "balanced"):
            raise InputError(f"--class-weights {self.class_weights!r} is unknown: use balanced or none")
        if self.class_weights == "balanced" and self.task == "regression":
            raise InputError("--class-weights balanced needs classes: leave it out of a regression")
        for name, least in (("max_cells", 2), ("max_cells_per_class", 2), ("batch_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} is {value}: give at least {least}")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise InputError(f"--epochs is {self.epochs}: give a positive number")
        if not 0 <= self.rare < 1:
            raise InputError(f"--rare is {self.rare}: give a share from 0 to below 1")
        if not 0 <= self.drop_genes < 1:
            raise InputError(f"--drop-genes is {self.drop_genes}: give a share from 0 to below 1")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"--dropout is {self.dropout}: give a share from 0 to below 1")
        check_adapters(self.lora, self.quantize)
        _ = self.splitting

    def _check_labels(self) -> None:
        if self.task == "gene":
            if self.genes is None:
                raise InputError("--task gene needs --genes FILE: {class: [genes]} as .json, or gene,class as .csv")
            if self.label or self.split_by or self.split_column:
                raise InputError(
                    "--task gene splits genes, not cells: leave out --label, --split-by and --split-column"
                )
            if self.pool != "auto":
                raise InputError(f"--pool {self.pool} is of cells: a gene classifier reads every row, leave it out")
            return
        if self.genes is not None:
            raise InputError(f"--genes is of --task gene: leave it out of --task {self.task}")
        if self.task == "multitask" and len(self.label) < 2:
            raise InputError("--task multitask needs at least 2 columns: give --label COLUMN,COLUMN")
        if self.task != "multitask" and len(self.label) != 1:
            raise InputError(f"--task {self.task} needs one column, not {len(self.label)}: give --label COLUMN")
        if len(set(self.label)) < len(self.label):
            raise InputError(f"--label {','.join(self.label)} names a column twice: name it once")
        if self.task_weights and (len(self.task_weights) != len(self.label) or min(self.task_weights) <= 0):
            raise InputError(f"--task-weights needs {len(self.label)} positive numbers, one for each label")

    @property
    def splitting(self) -> Splitting:
        """How to cut."""
        return Splitting(test=self.test, folds=self.folds, seed=self.seed)

    @property
    def passes(self) -> float:
        """Times every cell is seen."""
        return self.epochs or EPOCHS.get(self.task, CELL_EPOCHS)


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers written with commas between them; none for an empty text."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{option} {text!r} is no list of numbers: give them with commas between") from None
