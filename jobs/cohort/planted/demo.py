"""`rankshift demo --study`: a cohort of ten donors with a planted network, from counts to verdicts and the page.

The truth is known here: which genes hold the start state and which the goal state. It shows the tool at work, not biology.
"""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from rankshift.jobs.cohort.folder import Folder
from rankshift.jobs.cohort.options import Study
from rankshift.jobs.cohort.planted.network import GOAL, MASTER, START, TARGET, Network
from rankshift.jobs.cohort.study import run_study
from rankshift.jobs.cohort.truth.validate import validate
from rankshift.jobs.executor.registry import launcher
from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.pretrain import pretrain
from rankshift.jobs.show.claim import claim
from rankshift.jobs.show.steps import Steps
from rankshift.screen.files.atomic import replacing
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.tokenizer.tokenize import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

# Ten donors, of which one holds a third of the cells, and a tenth of every cell's counts is not its own. Most genes follow
# nothing, as in tissue: where most of them answer to the masters, matched genes move as much as what is looked for.
COHORT = Network(
    targets=60, medium=6, others=328, donors=10, cells=4500, sizes=(30, 15, 10, 8, 7, 6, 6, 6, 6, 6), ambient=0.1
)
INPUT_SIZE = 128
TRAINING = Pretraining(
    layers=1,  # learns in a minute what two learn in three
    width=64,
    heads=4,
    inner=128,
    epochs=5,
    dropout=0.0,  # minutes are too few to overfit
    hidden_share=0.4,  # more to learn from every pass than at the published 0.15
    initializer=0.07,  # a narrow model at the published 0.02 spends the time on growing its weights
    batch_tokens=2048,
    learning_rate=5e-3,
    warmup=0.05,
    held_out=0.1,
)
# Ten donors allow a list of 25: the smallest p is 2 in 1,024, and Holm asks the first of 25 genes for 0.05 / 25.
CANDIDATES = 6  # of each kind of gene, as many as there are masters
STUDY = Study(
    label="state",
    start=START,
    goal=GOAL,
    donor="donor",
    batch=("batch",),
    genes=tuple(f"{kind}{i}" for kind, first in COHORT.first.items() for i in range(first, first + CANDIDATES)),
    cells_per_donor=30,
    pool_per_donor=100,  # of the largest donor: 475 cells of each state are there
    layer=0,  # of a single layer, the last is the only one
    epochs=3,
    learning_rate=1e-3,
    batch_tokens=4096,
)
Say = Callable[[str], None]


def demo_study(
    out: Path | str = Path("demo-study"),
    *,
    workers: int = 2,
    cohort: Network = COHORT,
    asked: Study = STUDY,
    training: Pretraining = TRAINING,
    say: Say = print,
) -> Folder:
    """Draw the cohort, pretrain an encoder on it, and study it; what is there is not made again."""
    out, began = Path(out), perf_counter()
    claim(out, {"cohort": asdict(cohort), "training": asdict(training), "study": asked.record})
    counts, vocabulary, table, bundle = (
        out / name for name in ("counts.h5ad", "vocabulary.parquet", "cells.parquet", "bundle")
    )
    step = Steps(say, 4)
    say(f"{cohort.donors} donors drawn from a network of {cohort.masters} master regulators, {START} to {GOAL}.")
    step("counts", counts, lambda: _write_counts(cohort, counts))
    step("tokens and medians of the genes", vocabulary, lambda: step.tell(build_vocabulary(counts, vocabulary)))
    draft = VocabularyOnly.open(vocabulary, INPUT_SIZE)
    keep = ["state", "donor", "batch"]
    step("rank lists", table, lambda: step.tell(tokenize(counts, draft, table, keep=keep)))
    launch = launcher(workers, say=step.tell)
    step(
        "pretraining",
        bundle,
        lambda: pretrain(table, vocabulary, bundle, training, resume=True, say=step.tell, launch=launch),
    )
    folder = run_study(table, bundle, out / "study", asked, workers=workers, resume=True, say=say)
    if folder.verdicts.exists() and cohort.drives:
        say("Beside what is known of the network:")
        _write_truth(cohort, out / "truth.csv")
        validate(folder.path, out / "truth.csv", page=out / "validation.html", say=step.tell)
    here = shlex.quote(str(out))
    say(f"""
To go on:
  rankshift query {here}/study "SELECT symbol, verdict, effect, why FROM verdicts"
  rankshift query {here}/study "SELECT fold, arm, donor, avg(shift_{GOAL}) FROM shifts GROUP BY ALL"
  rankshift report {here}/study/runs/fold0_delete --out fold0.html
  rankshift study {here}/cells.parquet --bundle {here}/bundle --label state --start {START} --goal {GOAL} --donor donor \\
      --out study --dry-run
all done in {perf_counter() - began:.0f} s; the pages are {folder.report} and {out / "validation.html"}""")
    return folder


def _write_truth(cohort: Network, path: Path) -> None:
    """Masters are hits: to delete one that holds the start moves towards the goal. Genes that follow nothing are none.

    What answers to the masters is left out: it is neither a cause nor without effect.
    """
    program = cohort.program
    lines = ["symbol,hit,direction"]
    for i, kind in enumerate(cohort.kinds):
        if kind == MASTER:
            lines.append(f"{kind}{i},yes,{'away' if program[i] else 'towards'}")
        elif kind != TARGET:
            lines.append(f"{kind}{i},no,")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _write_counts(cohort: Network, path: Path) -> None:
    with replacing(path) as temporary:
        cohort.write(temporary)
