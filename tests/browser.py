"""The headless Chromium of docs/report.py, for tests of pages; no test of its own."""

import importlib.util
from types import ModuleType

import pytest

from support import ROOT


def _script() -> ModuleType:
    """docs/report.py, which no installed package holds."""
    spec = importlib.util.spec_from_file_location("docs_report", ROOT / "docs" / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs = _script()
needs_browser = pytest.mark.skipif(docs.missing() is not None, reason=str(docs.missing()))
