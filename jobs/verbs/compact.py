"""`rankshift compact`: a sorted copy of a run's parts, so that queries read what they need. The parts stay as they are."""

from collections.abc import Callable
from pathlib import Path

from rankshift.screen.runs.compaction import compact
from rankshift.screen.runs.run import Run


def compact_run(run: Path, *, say: Callable[[str], None] = print) -> None:
    """Compact what is committed of a run, and say what became of it."""
    opened = Run.open(run)
    if not opened.complete:
        there, shards = len(opened.done), opened.manifest.shards
        say(f"{opened.path}: {there} of {shards} shards are there; compact again when the rest has come with --resume")
    done = compact(opened)
    files = "file" if done.files == 1 else "files"
    said = f"{done.shards:,} parts of {done.rows:,} rows were sorted" if done.shards else "nothing is new"
    say(f"{opened.path}: {said}; queries read {done.files:,} {files}, {done.bytes / 1e6:,.1f} MB")
