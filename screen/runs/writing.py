"""Writing into a run that somebody may move or remove meanwhile: its writers stop, and nothing of it comes back.

Whoever removes a folder lists it first; what a worker writes after that stays behind, and the folder with it. Such remains,
without manifest, cells and names of perturbations, can be neither read nor resumed, so they are taken away.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rankshift.screen.files.atomic import check_there, replacing, sweep
from rankshift.screen.runs.layout import (
    BEGUN,
    CELLS,
    COMMITS,
    CONFIG,
    GENES,
    LISTS,
    MANIFEST,
    PERTURBATIONS,
    PLAN,
    PREDICTED,
    ROUNDS,
    SHIFTS,
)

OWN = {MANIFEST, CONFIG, CELLS, PERTURBATIONS, LISTS, PLAN}
REMOVING = 10.0  # seconds that the removal of a folder may go on after its manifest is gone
_PART = re.compile(r"shard-\d+\.(parquet|json|\w+\.npz)|\.shard-\d+\.(parquet|json|\w+\.npz)\..*\.tmp")


@contextmanager
def writing(run: Path, path: Path) -> Iterator[Path]:
    """`replacing` for a file of the run folder `run`. Raises MovedAway where the folder is no run any more."""
    with whole_or_gone(run):
        with replacing(path, within=run / MANIFEST) as temporary:
            yield temporary
        check_there(run / MANIFEST)  # it may have been removed while the file took its place


@contextmanager
def tidied(run: Path) -> Iterator[None]:
    """The block of whoever drives a screen: besides, files that writers which died had begun are gone when it ends."""
    try:
        with whole_or_gone(run):
            yield
    finally:
        sweep_all(run)


def sweep_all(run: Path) -> None:
    """Remove temporary files of writers that are gone, wherever a run has them."""
    for folder in (
        run,
        run / SHIFTS,
        run / GENES,
        run / COMMITS,
        run / BEGUN,
        run / PREDICTED,
        *(run / ROUNDS).glob("*"),
    ):
        sweep(folder)


@contextmanager
def whole_or_gone(run: Path) -> Iterator[None]:
    """A block that works on a run. However it fails, of a run that was removed meanwhile nothing stays behind."""
    try:
        yield
    except Exception as error:
        if _removed(run):
            _clear(run)
        if isinstance(error, FileNotFoundError):
            check_there(run / MANIFEST)
        raise


def _removed(run: Path) -> bool:
    """Is a folder there without all that makes it a run? One that is being removed is waited for, for a while."""
    end = time.monotonic() + REMOVING
    while True:
        try:
            there = OWN & set(os.listdir(run))
        except OSError:
            return False
        if MANIFEST in there or time.monotonic() > end:
            return False
        if not there:
            return True
        time.sleep(0.05)


def _clear(run: Path) -> None:
    """Remove parts and markers that were written into what is left, and the folders that are empty then."""
    for folder in (run / SHIFTS, run / GENES, run / COMMITS, run / BEGUN):
        with suppress(OSError):
            for name in os.listdir(folder):
                if _PART.fullmatch(name):
                    (folder / name).unlink(missing_ok=True)
            folder.rmdir()
    with suppress(OSError):
        run.rmdir()
