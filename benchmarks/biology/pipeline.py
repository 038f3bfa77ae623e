"""From counts to ranked perturbations by rankshift's own functions; what is there and whole is not made again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rankshift.jobs.pretraining.pretrain import Pretraining, pretrain
from rankshift.jobs.verbs.screen import run_screen
from rankshift.screen.engine.options import Options
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.runs.run import Run
from rankshift.screen.stats import StatOptions, statistics
from rankshift.screen.tokenizer.tokenize import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary


def quiet(text: object) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Counts in an h5ad, and the folder of everything made from them.

    keep: obs columns to carry along. input_size: genes of a list at most. state_key, start, goal: the way of the screens.
    layer: measured, as in `rankshift screen`.
    """

    counts: Path
    folder: Path
    keep: Sequence[str]
    input_size: int
    state_key: str
    start: str
    goal: str
    layer: int = 0

    @property
    def vocabulary(self) -> Path:
        """Tokens and medians."""
        return self.folder / "vocabulary.parquet"

    @property
    def cells(self) -> Path:
        """Rank lists."""
        return self.folder / "cells.parquet"

    def tokenize(self) -> None:
        """Make the vocabulary of the counts and rank every cell."""
        if not self.vocabulary.exists():
            build_vocabulary(self.counts, self.vocabulary)
        if not self.cells.exists():
            tokenize(self.counts, VocabularyOnly.open(self.vocabulary, self.input_size), self.cells, keep=self.keep)

    def pretrain(self, training: Pretraining) -> Path:
        """The bundle of an encoder pretrained on the cells, by seed."""
        bundle = self.folder / f"bundle{training.seed}"
        if not bundle.exists():
            pretrain(self.cells, self.vocabulary, bundle, training, resume=True, say=quiet)
        return bundle

    def screen(
        self, bundle: Path, kind: str, *, genes: str | Sequence[str], max_cells: int | None, start: str | None = None
    ) -> Run:
        """Perturb genes of start cells (or those of another `start`, away from it), in float32 and in this process."""
        route = (self.start, self.goal) if start is None else (start, self.start)
        options = Options(
            perturb=kind, genes=genes, state_key=self.state_key, start=route[0], goal=route[1],
            max_cells=max_cells, dtype="float32", layer=self.layer,
        )  # fmt: skip
        name = f"{bundle.name}-{kind}" + ("" if start is None else f"-{start}")
        return run_screen(self.cells, bundle, self.folder / name, options, workers=0, resume=True, say=quiet)


def effects(
    run: Run, mode: str = "goal", *, null: Run | None = None, judging: StatOptions | None = None
) -> pd.DataFrame:
    """`rankshift stats` of a run, by gene id."""
    judging = judging or StatOptions(bootstrap=0)
    return statistics(run, mode, null=null, judging=judging).table().to_pandas().set_index("gene_ids")
