"""`rankshift stats`: one table of statistics of a run, in a file; what holds for all of it is said on the terminal."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import own_mode
from rankshift.screen.stats.answered import answered, sentences
from rankshift.screen.stats.evidence import of_few
from rankshift.screen.stats.options import StatOptions
from rankshift.screen.stats.statistics import Statistics, check_mode, check_out, record, statistics


def stats(
    run: Path,
    out: Path | None,
    *,
    mode: str | None = None,
    null: Path | None = None,
    reference_names: bool = False,
    judging: StatOptions | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Write the statistics of a run to the .csv or .parquet `out`; the options are those of `statistics`.

    Of an adaptive run, which tests nothing, `out` gets its answers: finished, estimated with an interval, or untested.
    In the mode that is the run's own the run keeps them, too, for its views `statistics` and `hits`; then `out` may be None.
    """
    opened = Run.open(run)
    other = None if null is None else Run.open(null)
    if opened.partial and mode is None and null is None and not reference_names and judging in (None, StatOptions()):
        _answers(opened, out, say)
        return
    if mode is None:
        mode = own_mode(opened) if other is None else "null"
    check_mode(mode)
    keeps = mode == own_mode(opened) and not reference_names
    if out is not None:
        check_out(out)
    elif not keeps:
        own = f"--mode {own_mode(opened)} in our columns"
        raise InputError(f"{opened.path} keeps {own} only: say where to write with --out FILE.parquet")
    for one in (opened, other):
        if one is not None and out is not None and one.holds(out):
            raise InputError(f"{out} lies inside the run, which keeps its own table: give another --out")
        if one is not None and not one.complete:
            say(f"{one.path}: {len(one.committed)} of {one.manifest.shards} shards are there, the rest is not counted")
    result = statistics(opened, mode, null=other, reference_names=reference_names, judging=judging)
    if keeps and (out is None or os.access(opened.path, os.W_OK)):
        result = record(opened, result)
        say(f"{opened.path} keeps them: ask its views statistics and hits")
    rows = None if out is None else result.write(out)
    for line in told(result.summary):
        say(line)
    if result.summary and other is None and of_few(opened, result.summary["tested"]):
        say(
            "the list of genes that was screened is small and tested against itself: screen --genes all, or the list with "
            "--background 200, which draws genes of like detection and rank to hold it against"
        )
    if rows is not None:
        say(f"{out}: {rows:,} rows")


def _answers(run: Run, out: Path | None, say: Callable[[str], None]) -> None:
    """Write what an adaptive run says of every gene, in place of statistics."""
    table = answered(run)
    if out is None:
        raise InputError(f"{run.path} is adaptive and has no statistics to keep: write its answers with --out FILE.csv")
    check_out(out)
    if run.holds(out):
        raise InputError(f"{out} lies inside the run, which keeps its own table: give another --out")
    rows = Statistics(rows=table.to_reader()).write(out)
    for line in sentences(run, table):
        say(line)
    say(f"{out}: {rows:,} rows")


def told(summary: dict[str, Any]) -> Iterator[str]:
    """What the summary of a table says, in sentences."""
    if not summary:
        return
    by = f", one vote per {summary['by']}" if summary["by"] else ""
    yield (
        f"{summary['tested']:,} of {summary['perturbations']:,} perturbations have at least {summary['min_cells']} cells "
        f"and are tested{by}: {summary['hits']:,} hits"
    )
    if summary["dropped_rows"]:
        yield f"{summary['dropped_rows']:,} rows are not numbers and are left out"
    if (removed := summary.get("variance_removed")) is not None:
        yield f"of the variance the cell explains {removed['cell']:.1%}, cell and rank {removed['cell_and_rank']:.1%}"
    if (halves := summary.get("stability")) is not None:
        units = "cells" if summary["by"] is None else f"values of {summary['by']}"
        yield (
            f"random halves of the {units}: rank correlation {halves['rank_correlation']:.2f}, top {halves['top']} in "
            f"common {halves['top_overlap']:.0%} (chance {halves['chance']:.0%})"
        )
    if (baselines := summary.get("baseline_correlation")) is not None:
        known = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items() if value is not None)
        yield f"rank correlation of the size of effects with baselines: {known or 'none'}"
    if (signed := summary.get("baseline_correlation_signed")) is not None:
        known = ", ".join(
            f"{name.replace('_', ' ')} {value:.2f}" for name, value in signed.items() if value is not None
        )
        yield f"rank correlation of effects, with their sign, with baselines from the rank lists: {known or 'none'}"
