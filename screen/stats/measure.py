"""What a statistic is: its columns with unit, type and meaning, a sentence for readers, and the function that computes it.

A statistic is a file of `measures/` and a line of its list. Tables, Parquet metadata, the report and `hits` follow from that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rankshift.screen.stats.evidence import OneRun, TwoRuns
from rankshift.screen.stats.options import Columns

NUMBER = pa.float64()
QUANTITIES = ("shift", "similarity")  # what a table is about; `<m>` in the name of a column stands for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """How the report's table shows a column: its title, a short help, and whether the first click sorts by falling values."""

    title: str
    help: str
    falling: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: name (`<m>`: shift or similarity, `<s>`: an alternative state), unit, Arrow type, and meaning.

    heading: given where the report's table shows the column.
    """

    name: str
    unit: str
    meaning: str
    type: pa.DataType = NUMBER
    heading: Heading | None = None

    def named(self, others: Sequence[str]) -> Iterator[str]:
        """Names that the column has in tables, with the alternative states `others`."""
        for part in others if "<s>" in self.name else QUANTITIES:
            yield self.name.replace("<m>", part).replace("<s>", part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A statistic: name, the sentence that says what it means and when to trust it, and columns in their order.

    of_run computes columns for the modes goal and mixture, of_contrast for mode null; None where a statistic has no such
    columns. Either returns arrays [G] by the columns' names, none of them where the run does not allow it, and may add what
    holds for the whole table to `evidence.summary`.
    """

    name: str
    sentence: str
    columns: tuple[Column, ...]
    of_run: Callable[[OneRun], Columns] | None = None
    of_contrast: Callable[[TwoRuns], Columns] | None = None
