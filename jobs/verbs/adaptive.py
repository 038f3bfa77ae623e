"""An adaptive screen: predictions, round after round until only finalists are left, then what may be said of every gene."""

import shlex
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from rankshift.jobs.executor.executor import Executor
from rankshift.jobs.executor.round_work import PredictionWork, RoundWork
from rankshift.screen.adaptive.allocation import Verdict, Wanted, pilot_passes, rounds
from rankshift.screen.adaptive.answers import said, write_answers
from rankshift.screen.adaptive.plans import measured, planned
from rankshift.screen.adaptive.rows_of_run import RowsOfRun, asked_of, rows_of_run
from rankshift.screen.engine.screener import Screener
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.progress import progress
from rankshift.screen.runs.run import Run

Say = Callable[[str], None]


def compute_adaptive(
    screener: Screener, bundle: Path | str, there: Executor, out: str, say: Say, budget: int | None
) -> Run:
    """Compute what is missing of a prepared adaptive screen, and say how it went. out: the run as the user wrote it.

    budget: passes at most. Raises InputError where the pilot takes more.
    """
    run, asked = screener.run, asked_of(screener.run)
    began = perf_counter()
    wanted = Wanted(top=asked.top, highest=asked.highest, confidence=asked.confidence, seed=asked.seed)
    if budget is not None:
        _afford(screener, wanted, budget)
    predictions = PredictionWork(screener, bundle)
    if predictions.todo:
        with progress("predictions", run.manifest.lists or 0, 0) as done:
            there.map(predictions, done)
    rows = rows_of_run(screener)
    verdict = _race(screener, rows, wanted, bundle, there, say, budget)
    write_answers(run, rows, verdict)
    say(f"{said(rows, verdict, asked.top)} ({perf_counter() - began:.1f} s)")
    ask = "SELECT place, symbols, mean FROM answers WHERE place IS NOT NULL ORDER BY place"
    say(f'next: rankshift query {shlex.quote(redacted(out))} "{ask}"')
    return Run.open(run.place)


def _race(
    screener: Screener,
    rows: RowsOfRun,
    wanted: Wanted,
    bundle: Path | str,
    there: Executor,
    say: Say,
    budget: int | None,
) -> Verdict:
    """Plan, measure and judge until nothing is left to ask."""
    run, column = screener.run, asked_of(screener.run).column
    number, play = 0, rounds(rows.population, wanted, budget)
    try:
        asked = next(play)
        while True:
            number += 1
            plan = planned(screener, rows, asked, number)
            work = RoundWork(screener, bundle, plan)
            say(
                f"round {number}, {asked.kind}: {len(plan.cell):,} lists; {asked.genes:,} genes in question, "
                f"{asked.ahead:,} lists more at most"
            )
            if work.todo:
                with progress("perturbations", len(plan.cell), len(plan.cell) - work.left) as done:
                    there.map(work, done)
            asked = play.send(measured(run, rows, plan, column))
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


def _afford(screener: Screener, wanted: Wanted, budget: int) -> None:
    """Refuse a budget that not even the pilot keeps to, before anything is predicted."""
    of = rows_of_run(screener, predicted=False).population
    least = pilot_passes(of, wanted.seed, predicted=True)
    if least > budget:
        raise InputError(f"--budget is {budget:,} passes, the pilot takes {least:,}: allow more, or take fewer cells")
