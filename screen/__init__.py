"""One machine, no Ray: from cells and a bundle to committed shifts and SQL.

`run(cells, bundle, out, perturb="delete")` screens in this process; `Run.open(folder).sql(query)` asks the result.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rankshift.screen.errors import in_python

if TYPE_CHECKING:
    from rankshift.screen.bundle.bundle import Bundle, make_bundle
    from rankshift.screen.cells.cells import Cells
    from rankshift.screen.errors import InputError
    from rankshift.screen.notebook import Run, run
    from rankshift.screen.tokenizer.source import tokenize

# Loaded when first used: a query over a run must not wait for torch.
_ROOM = {
    "Bundle": "bundle.bundle",
    "Cells": "cells.cells",
    "InputError": "errors",
    "Run": "notebook",
    "make_bundle": "bundle.bundle",
    "run": "notebook",
    "tokenize": "tokenizer.source",
}

__all__ = ["Bundle", "Cells", "InputError", "Run", "make_bundle", "run", "tokenize"]


def __getattr__(name: str) -> Any:
    if name not in _ROOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    return found if isinstance(found, type) else in_python(found)


def __dir__() -> list[str]:
    return sorted(__all__)
