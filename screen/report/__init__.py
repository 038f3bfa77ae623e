"""A run to look at, or to hand on: figures for notebooks, one self-contained HTML page made of them, files for other programs.

`write_report(run, out)` makes the page.
"""

from rankshift.screen.report.findings import Findings
from rankshift.screen.report.page import write_report

__all__ = ["Findings", "write_report"]
