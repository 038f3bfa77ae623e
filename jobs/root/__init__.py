"""`import rankshift as rs`: the verbs of the command line as functions. Nothing is made here, and each loads when first used.

The file is installed as the package `rankshift` itself, with kernels, screen, jobs and compat below it.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankshift.jobs.finetuning.finetune import finetune
    from rankshift.jobs.finetuning.options import Finetuning
    from rankshift.jobs.pretraining.options import Pretraining
    from rankshift.jobs.pretraining.pretrain import pretrain
    from rankshift.jobs.verbs.embed import embed
    from rankshift.screen.bundle.bundle import Bundle, make_bundle
    from rankshift.screen.cells.cells import Cells
    from rankshift.screen.errors import InputError
    from rankshift.screen.notebook import Run, run
    from rankshift.screen.tokenizer.source import tokenize
    from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

# In a checkout the floors lie two folders up. Editable installs do not find kernels/, which has no __init__.py, by themselves.
if Path(__file__).parent.name == "root":
    __path__.append(str(Path(__file__).parents[2]))

_ROOM = {
    "Bundle": "screen.bundle.bundle",
    "Cells": "screen.cells.cells",
    "Finetuning": "jobs.finetuning.options",
    "InputError": "screen.errors",
    "Pretraining": "jobs.pretraining.options",
    "Run": "screen.notebook",
    "build_vocabulary": "screen.tokenizer.vocabulary_builder",
    "embed": "jobs.verbs.embed",
    "finetune": "jobs.finetuning.finetune",
    "make_bundle": "screen.bundle.bundle",
    "pretrain": "jobs.pretraining.pretrain",
    "run": "screen.notebook",
    "tokenize": "screen.tokenizer.source",
}
_FLOORS = ("compat", "jobs", "kernels", "screen")

__all__ = [
    "Bundle",
    "Cells",
    "Finetuning",
    "InputError",
    "Pretraining",
    "Run",
    "build_vocabulary",
    "embed",
    "finetune",
    "make_bundle",
    "pretrain",
    "run",
    "tokenize",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Start-up time: reading what is installed takes longer than importing this.
        from importlib.metadata import version

        return version("rankshift")
    if name in _FLOORS:
        return import_module(f"{__name__}.{name}")
    if name not in _ROOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Start-up time: the import of this package alone loads nothing else.
    from rankshift.screen.errors import in_python
    from rankshift.screen.extras import said

    with said():
        found = getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    return found if isinstance(found, type) else in_python(found)


def __dir__() -> list[str]:
    return sorted([*__all__, *_FLOORS, "__version__"])
