"""An adaptive screen: predictions, round after round until only finalists are left, then what may be said of every gene.

It goes on likewise for more genes, and for all rows, which makes it the full screen; nothing is measured twice.
"""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from rankshift.jobs.executor.executor import Executor
from rankshift.jobs.executor.round_work import PredictionWork, RoundWork
from rankshift.jobs.executor.shard_work import ShardJob, measure_noise_floor
from rankshift.screen.adaptive.allocation import Known, Verdict, Wanted, pilot_passes, rounds
from rankshift.screen.adaptive.answers import said, write_answers
from rankshift.screen.adaptive.plans import REST, Plan, measured, planned, planned_rest, plans_there, read_plan
from rankshift.screen.adaptive.rows_of_run import RowsOfRun, asked_of, rows_of_run
from rankshift.screen.engine.options import config_of_more
from rankshift.screen.engine.screener import Screener
from rankshift.screen.engine.selection import check_share
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.progress import progress
from rankshift.screen.runs.layout import ANSWERS, CONFIG
from rankshift.screen.runs.manifest import AdaptiveAsked
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sums import mend
from rankshift.screen.runs.writing import writing

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
    if budget is not None and not asked.earlier:
        _afford(screener, wanted, budget)
    mend(run.path)
    predictions = PredictionWork(screener, bundle)
    if predictions.todo:
        with progress("predictions", run.manifest.lists or 0, 0) as done:
            there.map(predictions, done)
    rows = rows_of_run(screener)
    verdict = _race(screener, rows, wanted, bundle, there, say, budget)
    write_answers(run, rows, verdict, asked.top)
    say(f"{said(rows, verdict, asked.top)} ({perf_counter() - began:.1f} s)")
    ask = "SELECT place, symbols, mean FROM answers WHERE place IS NOT NULL ORDER BY place"
    say(f'next: rankshift query {shlex.quote(redacted(out))} "{ask}"')
    return Run.open(run.place)


def with_top(screener: Screener, top: int) -> Run:
    """The adaptive run asked for more genes than before. Raises InputError where fewer are asked, or more than it can find."""
    run, asked = screener.run, asked_of(screener.run)
    if asked.continued:
        raise InputError(f"{run.path} goes on to the full screen: leave out --top")
    if top < asked.top:
        raise InputError(f"--top is {top}, {run.path} was asked for {asked.top}: ask for as many or more")
    if top == asked.top:
        return run
    check_share(rows_of_run(screener, predicted=False).population.genes, top, asked.min_cells)
    return _asked(run, replace(asked, top=top, earlier=plans_there(run)))


def continued(screener: Screener) -> Run:
    """The adaptive run asked for all rows that it has not planned; until they are measured, no verb takes it for a full one."""
    run, asked = screener.run, asked_of(screener.run)
    if asked.continued:
        return run
    earlier = plans_there(run)
    rest = planned_rest(screener, earlier)
    shards = len(rest.shards) + sum(len(read_plan(run, number).shards) for number in range(1, earlier + 1))
    return _asked(run, replace(asked, earlier=earlier, continued=True), shards=shards)


def _asked(run: Run, more: AdaptiveAsked, **changes: int) -> Run:
    """Record what is asked from now on. What was answered before goes first, so that nobody takes it for the new answer."""
    (run.path / ANSWERS).unlink(missing_ok=True)
    config = run.path / CONFIG
    if config.is_file():
        text = config_of_more(config.read_text(encoding="utf-8"), None if more.continued else more.top)
        with writing(run.path, config) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return run.record(adaptive=more, **changes)


def compute_rest(screener: Screener, bundle: Path | str, there: Executor) -> int:
    """Compute what is missing of a run that was continued; returns how many rows that were. Measure its noise floor."""
    run = screener.run
    mend(run.path)
    numbers = (*range(1, asked_of(run).earlier + 1), REST)
    works = [RoundWork(screener, bundle, read_plan(run, number)) for number in numbers]
    left, lists = sum(work.left for work in works), run.manifest.lists or 0
    with progress("perturbations", lists, lists - left) as done:
        for work in works:
            if work.todo:
                there.map(work, done)
    if run.manifest.noise_floor is None:
        run.record(noise_floor=there.call(measure_noise_floor, ShardJob(screener, bundle)))
    return left


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
    run, asked_column, number = screener.run, asked_of(screener.run).column, asked_of(screener.run).earlier
    known = _known(screener, rows, number, bundle, there)
    there_already = np.zeros(len(rows.population), bool)
    there_already[known.rows] = True
    play = rounds(rows.population, wanted, budget, known if number else None)
    try:
        asked = next(play)
        while True:
            number += 1
            plan = planned(screener, rows, asked.rows[~there_already[asked.rows]], number)
            say(
                f"round {number}, {asked.kind}: {len(plan.cell):,} lists; {asked.genes:,} genes in question, "
                f"{asked.ahead:,} lists more at most"
            )
            _compute(screener, plan, bundle, there)
            fresh = measured(run, rows, plan, asked_column)
            again = np.isin(known.rows, asked.rows)
            both = (fresh[0], known.rows[again]), (fresh[1], known.values[again])
            asked = play.send((np.concatenate(both[0]), np.concatenate(both[1])))
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


def _known(screener: Screener, rows: RowsOfRun, earlier: int, bundle: Path | str, there: Executor) -> Known:
    """What the rounds that were planned for fewer genes measured; what is missing of them is measured first."""
    passes, found = 0, [(np.empty(0, np.int64), np.empty(0))]
    for number in range(1, earlier + 1):
        plan = read_plan(screener.run, number)
        _compute(screener, plan, bundle, there)
        found.append(measured(screener.run, rows, plan, asked_of(screener.run).column))
        passes += plan.passes
    where, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Known(rows=where, values=values, passes=passes)


def _compute(screener: Screener, plan: Plan, bundle: Path | str, there: Executor) -> None:
    """Measure what is missing of a round."""
    work = RoundWork(screener, bundle, plan)
    if work.todo:
        with progress("perturbations", len(plan.cell), len(plan.cell) - work.left) as done:
            there.map(work, done)


def _afford(screener: Screener, wanted: Wanted, budget: int) -> None:
    """Refuse a budget that not even the pilot keeps to, before anything is predicted."""
    of = rows_of_run(screener, predicted=False).population
    least = pilot_passes(of, wanted.seed, predicted=True)
    if least > budget:
        raise InputError(f"--budget is {budget:,} passes, the pilot takes {least:,}: allow more, or take fewer cells")
