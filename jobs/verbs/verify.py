"""`rankshift verify`: are the files of a run or a bundle those that were written? It changes nothing."""

from collections.abc import Callable
from pathlib import Path

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.errors import InputError
from rankshift.screen.runs.compacted import generations
from rankshift.screen.runs.layout import COMPACTED
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sums import FILES, check_run


def verify(place: Path, say: Callable[[str], None] = print) -> None:
    """Hold every file against its recorded checksum; raises InputError naming the first that is another."""
    if (place / "bundle.json").is_file():
        bundle = Bundle.open(place)
        bundle.verify()
        bundle.encoder_weights()
        say(f"{place}: all {len(bundle.files)} files of the bundle are as they were made, weights are finite")
        return
    if not place.is_dir():
        raise InputError(f"{place} is no folder: give a run or a bundle")
    run = Run.open(place)
    markers = run.committed
    check_run(run.path, run.manifest.more.get(FILES), markers, whole=True)
    for one in generations(run.path) if run.mirror is None else ():
        if (found := one.damage(run.path, whole=True)) is not None:
            copy = run.path / COMPACTED
            raise InputError(
                f"{copy} is damaged ({found}): remove it, the parts have all rows, and compact the run again"
            )
    planned = "" if run.partial else f" of {run.manifest.shards}"
    say(f"{place}: all files of the run are as they were written, {len(markers)}{planned} shards are there")
