"""One machine, no Ray: from cells and a bundle to committed shifts and SQL.

`run(cells, bundle, out, perturb="delete")` screens in this process; `Run.open(folder).sql(query)` asks the result.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankshift.screen.bundle import Bundle, make_bundle
    from rankshift.screen.cell_source import tokenize
    from rankshift.screen.cells import Cells
    from rankshift.screen.errors import InputError
    from rankshift.screen.results import Run
    from rankshift.screen.screening import run

# Loaded when first used: a query over a run must not wait for torch.
_ROOM = {
    "Bundle": "bundle",
    "Cells": "cells",
    "InputError": "errors",
    "Run": "results",
    "make_bundle": "bundle",
    "run": "screening",
    "tokenize": "cell_source",
}

__all__ = ["Bundle", "Cells", "InputError", "Run", "make_bundle", "run", "tokenize"]


def __getattr__(name: str) -> Any:
    if name not in _ROOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
