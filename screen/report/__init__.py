"""A run to look at: figures for notebooks, and one self-contained HTML page made of them. `write_report(run, out)`."""

from rankshift.screen.report.findings import Findings
from rankshift.screen.report.page import write_report

__all__ = ["Findings", "write_report"]
