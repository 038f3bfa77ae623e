"""`rankshift stats`: one table of statistics of a run, in a file; what holds for all of it is said on the terminal."""

from collections.abc import Callable
from pathlib import Path

from rankshift.screen.errors import InputError
from rankshift.screen.results import Run
from rankshift.screen.stats.tables import check_out, statistics


def stats(
    run: Path,
    out: Path,
    *,
    mode: str,
    null: Path | None = None,
    reference_names: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Write the statistics of a run to the .csv or .parquet `out`; the options are those of `statistics`."""
    check_out(out)
    opened = Run.open(run)
    other = None if null is None else Run.open(null)
    for one in (opened, other):
        if one is not None and one.path.resolve() in out.resolve().parents:
            raise InputError(f"{out} lies inside the run, which statistics never write to: give another --out")
        if one is not None and not one.complete:
            say(
                f"{one.path}: {len(one.committed)} of {one.manifest['shards']} shards are there, the rest is not counted"
            )
    result = statistics(opened, mode, null=other, reference_names=reference_names)
    rows = result.write(out)
    say(f"{out}: {rows:,} rows")
