"""`rankshift study`: from labelled cells of several donors to a verdict for every gene, step by step.

Everything that can be refused is refused before the first training. Stopped, it goes on with `resume` and gives the same
tables.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from rankshift.jobs.cohort.asking import Answers
from rankshift.jobs.cohort.folder import Folder, read_gate
from rankshift.jobs.cohort.idle import idle_shifts, write_idle
from rankshift.jobs.cohort.judging import counted, write_values, write_verdicts
from rankshift.jobs.cohort.models import embed_states, judged, train
from rankshift.jobs.cohort.options import ARMS, Study
from rankshift.jobs.cohort.page.write import write_page
from rankshift.jobs.cohort.plan import Plan
from rankshift.jobs.cohort.screens import screen, screened
from rankshift.jobs.executor.registry import launcher
from rankshift.jobs.pool.cluster import default_workers, one_pool
from rankshift.jobs.show.steps import Steps
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.files.atomic import replacing
from rankshift.screen.runs.run import Run
from rankshift.screen.study.gate import gate
from rankshift.screen.tokenizer.source import CellSource

Say = Callable[[str], None]


def study(
    cells: CellSource,
    bundle: Path | str,
    out: Path | str,
    *,
    label: str,
    start: str,
    goal: str,
    donor: str,
    alt: Sequence[str] = (),
    batch: Sequence[str] = (),
    balance: Sequence[str] = (),
    folds: int = 5,
    cells_per_donor: int = 100,
    pool_per_donor: int = 1000,
    genes: str | Sequence[str] = "all",
    controls: int | None = None,
    arms: Sequence[str] = ARMS,
    goal_of: str = "training",
    min_cells: int = 5,
    cell_type: str | None = None,
    confounded: bool = False,
    despite_gate: bool = False,
    layer: int = -1,
    dtype: str = "auto",
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_tokens: int | None = None,
    freeze: int = 0,
    gene_column: str | None = None,
    counts_layer: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    say: Say = print,
) -> Answers:
    """`rankshift study` from Python: the same options. Returns the folder with its tables, which answers SQL.

    >>> study("cells.parquet", "bundle", "out", label="disease", start="dcm", goal="nf", donor="donor")  # doctest: +SKIP
    """
    given = dict(locals())
    made = run_study(cells, bundle, out, Study.of(given), workers=workers, resume=resume, dry_run=dry_run, say=say)
    return Answers.of(made)


def run_study(
    cells: CellSource,
    bundle: Path | str,
    out: Path | str,
    asked: Study,
    *,
    workers: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    say: Say = print,
) -> Folder:
    """Audit, draw, train and screen fold by fold, judge, report. workers: 0 for this process, None for what there is."""
    plan = Plan.make(cells, bundle, out, asked)
    plan.claim(resume or dry_run)
    lines = list(plan.lines())
    for line in lines:
        say(line)
    folder = plan.folder
    if dry_run:
        return folder
    plan.write(lines)
    there = default_workers() if workers is None else workers
    step = Steps(say, asked.folds * (3 + len(asked.arms)) + 5)
    with one_pool(there) if there and not folder.verdicts.exists() else nullcontext():
        _train_all(plan, step, there)
        if not _passed(plan, step):
            write_page(folder)
            say(f"{folder.report}: the audit and the gate")
            return folder
        _screen_all(plan, step, there)
    step("values of every donor", folder.donors, partial(write_values, plan))
    step("verdicts", folder.verdicts, partial(write_verdicts, plan))
    for line in counted(folder):
        step.tell(line)
    step("page", folder.report, partial(write_page, folder))
    say(f"{folder.verdicts}: a row per gene; {folder.report}: to look at")
    say(
        f'next: rankshift query {shlex.quote(str(folder.path))} "SELECT symbol, verdict, effect FROM verdicts LIMIT 10"'
    )
    return folder


def _train_all(plan: Plan, step: Steps, workers: int) -> None:
    """The model of every fold, each from cells of donors that it will not screen."""
    folder, study = plan.folder, plan.folder.study
    for fold in range(study.folds):
        done = folder.bundle(fold)
        who = sorted(set(plan.drawn.donor[plan.drawn.fold == fold]))
        step(
            f"fold {fold}: its cells",
            folder.tokens(fold),
            partial(_write_tokens, plan, fold),
        )
        step(
            f"fold {fold}: fine-tune on the donors of the other folds, judge on {', '.join(who)}",
            done,
            partial(train, folder, fold, plan.bundle.path, launcher(workers, say=step.tell), step.tell),
        )


def _write_tokens(plan: Plan, fold: int) -> None:
    plan.drawn.tokens(plan.cohort, fold).write(plan.folder.tokens(fold), plan.bundle.vocabulary)


def _passed(plan: Plan, step: Steps) -> bool:
    """Can the models tell the states apart in donors that they have not seen, or are they to go on all the same?"""
    folder = plan.folder
    step(
        "the gate: do the models know the states in donors that they have not seen?",
        folder.gate,
        partial(_gate, folder),
    )
    found = read_gate(folder)
    for line in found.lines():
        step.tell(line)
    if not found.passed and not folder.study.despite_gate:
        step.tell("the study ends here: this is its result. --despite-gate in a new study would go on")
    return found.passed or folder.study.despite_gate


def _gate(folder: Folder) -> None:
    with replacing(folder.gate) as temporary:
        temporary.write_text(json.dumps(gate(*judged(folder)).record, indent=2) + "\n")


def _screen_all(plan: Plan, step: Steps, workers: int) -> None:
    """States and screens of every fold, and the edit that changes nothing."""
    folder, study = plan.folder, plan.folder.study
    for fold in range(study.folds):
        step(
            f"fold {fold}: state vectors",
            folder.states(fold),
            partial(embed_states, folder, fold, plan.states, workers, step.tell),
        )
        for arm in study.arms:
            step(
                f"fold {fold}: {arm} in the start cells of its donors",
                screened(folder, fold, arm),
                partial(screen, folder, fold, arm, plan.states, workers, step.tell),
            )
    step("edits that change nothing", folder.idle, partial(_idle, folder, step))


def _idle(folder: Folder, step: Steps) -> None:
    arm = folder.study.arms[0]
    found = {
        fold: idle_shifts(Run.open(folder.run(fold, arm)), Bundle.open(folder.bundle(fold)))
        for fold in range(folder.study.folds)
    }
    largest = write_idle(found, folder.idle)
    step.tell(f"{sum(map(len, found.values()))} edits that change nothing: the largest shift is {largest:g}")
