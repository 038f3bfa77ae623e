"""An adaptive screen from its predictions to its answers, by hands that compute: those of this process, or of workers.

It goes on likewise for more genes, and for all rows, which makes it the full screen; nothing is measured twice.
"""

import shlex
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Protocol

import numpy as np

from rankshift.screen.adaptive.allocation import Known, Verdict, Wanted, pilot_passes, rounds
from rankshift.screen.adaptive.answers import said, write_answers
from rankshift.screen.adaptive.plans import REST, Plan, measured, planned, planned_rest, plans_there, read_plan
from rankshift.screen.adaptive.rows_of_run import RowsOfRun, asked_of, rows_of_run
from rankshift.screen.engine.options import config_of_more
from rankshift.screen.engine.screener import Screener
from rankshift.screen.engine.selection import check_share
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.files.object_store import url_of
from rankshift.screen.runs.layout import ANSWERS, CONFIG
from rankshift.screen.runs.manifest import AdaptiveAsked
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sums import mend
from rankshift.screen.runs.writing import writing

Say = Callable[[str], None]


class Hands(Protocol):
    """Whoever computes for a run. What is there already is not computed again."""

    def predict(self, screener: Screener) -> None:
        """Write the predictions that the run lacks."""

    def measure(self, screener: Screener, plans: list[Plan]) -> int:
        """Commit the shards of rounds that the run lacks; returns how many rows they have."""

    def floor(self, screener: Screener) -> None:
        """Record the noise floor of a run that has all rows."""


def compute_adaptive(screener: Screener, hands: Hands, out: str, say: Say, budget: int | None) -> Run:
    """Compute what is missing of a prepared adaptive screen, and say how it went. out: the run as the user wrote it.

    budget: passes at most. Raises InputError where the pilot takes more.
    """
    run, asked = screener.run, asked_of(screener.run)
    began = perf_counter()
    wanted = Wanted(
        top=asked.top,
        highest=asked.highest,
        absolute=asked.absolute,
        confidence=asked.confidence,
        seed=asked.seed,
        fdr=asked.fdr,
    )
    if budget is not None and not asked.earlier:
        _afford(screener, wanted, budget)
    if run.mirror is None:
        mend(run.path)
    hands.predict(screener)
    rows = rows_of_run(screener)
    verdict = _race(screener, rows, wanted, hands, say, budget)
    write_answers(run, rows, verdict, asked.top)
    say(f"{said(rows, verdict, asked)} ({perf_counter() - began:.1f} s)")
    ask = "SELECT place, symbols, mean FROM answers WHERE place IS NOT NULL ORDER BY place"
    say(f'next: rankshift query {shlex.quote(redacted(url_of(out) or out))} "{ask}"')
    return Run.open(run.place)


def asked_for_more(screener: Screener, top: int | None, continue_full: bool) -> Screener:
    """The adaptive run asked for `top` genes, or for all rows; the same where neither is more than before.

    Until all rows are measured no verb takes it for a full one. Raises InputError where fewer genes are asked, or more than
    it can find.
    """
    run, asked = screener.run, asked_of(screener.run)
    if continue_full and not asked.continued:
        earlier = plans_there(run)
        plans = [planned_rest(screener, earlier), *(read_plan(run, number) for number in range(1, earlier + 1))]
        shards = sum(len(plan.shards) for plan in plans)
        run = _asked(run, replace(asked, earlier=earlier, continued=True), shards=shards)
    if top is not None and asked.continued:
        raise InputError(f"{run.path} goes on to the full screen: leave out --top")
    if top is not None and top < asked.top:
        raise InputError(f"--top is {top}, {run.path} was asked for {asked.top}: ask for as many or more")
    if top is not None and top > asked.top:
        check_share(rows_of_run(screener, predicted=False).population.genes, top, asked.min_cells)
        run = _asked(run, replace(asked, top=top, earlier=plans_there(run)))
    return replace(screener, run=run)


def _asked(run: Run, more: AdaptiveAsked, **changes: int) -> Run:
    """Record what is asked from now on. What was answered before goes first, so that nobody takes it for the new answer."""
    run.remove(ANSWERS)
    config = run.path / CONFIG
    if config.is_file():
        text = config_of_more(config.read_text(encoding="utf-8"), None if more.continued else more.top)
        with writing(run.path, config) as temporary:
            temporary.write_text(text, encoding="utf-8")
        run.share(CONFIG)
    return run.record(adaptive=more, **changes)


def compute_rest(screener: Screener, hands: Hands) -> int:
    """Compute what is missing of a run that was continued, and its noise floor; returns how many rows that were."""
    run = screener.run
    if run.mirror is None:
        mend(run.path)
    numbers = (*range(1, asked_of(run).earlier + 1), REST)
    fresh = hands.measure(screener, [read_plan(run, number) for number in numbers])
    if run.manifest.noise_floor is None:
        hands.floor(screener)
    return fresh


def _race(screener: Screener, rows: RowsOfRun, wanted: Wanted, hands: Hands, say: Say, budget: int | None) -> Verdict:
    """Plan, measure and judge until nothing is left to ask."""
    run, column, number = screener.run, asked_of(screener.run).column, asked_of(screener.run).earlier
    known = _known(screener, rows, number, hands)
    there = np.zeros(len(rows.population), bool)
    there[known.rows] = True
    play = rounds(rows.population, wanted, budget, known if number else None)
    try:
        asked = next(play)
        while True:
            number += 1
            plan = planned(screener, rows, asked.rows[~there[asked.rows]], number)
            say(
                f"round {number}, {asked.kind}: {len(plan.cell):,} lists; {asked.genes:,} genes in question, "
                f"{asked.ahead:,} lists more at most"
            )
            hands.measure(screener, [plan])
            fresh = measured(run, rows, plan, column)
            again = np.isin(known.rows, asked.rows)
            both = (fresh[0], known.rows[again]), (fresh[1], known.values[again])
            asked = play.send((np.concatenate(both[0]), np.concatenate(both[1])))
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


def _known(screener: Screener, rows: RowsOfRun, earlier: int, hands: Hands) -> Known:
    """What the rounds that were planned for fewer genes measured; what is missing of them is measured first."""
    plans = [read_plan(screener.run, number) for number in range(1, earlier + 1)]
    hands.measure(screener, plans)
    column = asked_of(screener.run).column
    found = [(np.empty(0, np.int64), np.empty(0)), *(measured(screener.run, rows, plan, column) for plan in plans)]
    where, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Known(rows=where, values=values, passes=sum(plan.passes for plan in plans))


def _afford(screener: Screener, wanted: Wanted, budget: int) -> None:
    """Refuse a budget that not even the pilot keeps to, before anything is predicted."""
    of = rows_of_run(screener, predicted=False).population
    least = pilot_passes(of, wanted.seed, predicted=True)
    if least > budget:
        raise InputError(f"--budget is {budget:,} passes, the pilot takes {least:,}: allow more, or take fewer cells")
