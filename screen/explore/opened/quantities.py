"""What a run measured, as the page shows it: larger is a stronger effect, whatever the column of `shifts` holds."""

from dataclasses import dataclass

import pyarrow.parquet as pq

from rankshift.screen.runs.layout import EMPTY_PART, SIMILARITY, pair_columns, part_path, shift_column, state_of
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import quoted

FEWEST = (
    10  # cells of a mean that is shown first and compared: means of fewer scatter by chance, and are not tested either
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A measured column. name: of the column; title: for people; sql: float32 expression over the columns of `shifts`."""

    name: str
    title: str
    sql: str


def quantities_of(run: Run) -> tuple[Quantity, ...]:
    """What the run measured, the quantity that judges it first: the shift towards the goal, or 1 - similarity without one.

    Shifts towards all states follow, and of pairs the interaction of each.
    """
    there = set(pq.read_schema(part_path(run.path, EMPTY_PART)).names)
    plain = [_quantity(name) for name in run.manifest.measures if name in there]
    apart = [
        Quantity(name=column, title=f"interaction, {one.title}", sql=quoted(column))
        for one in plain
        for column in pair_columns(one.name)[2:]
        if column in there
    ]
    first = judged(run)
    return tuple(sorted([*plain, *apart], key=lambda one: one.name != first))


def judged(run: Run) -> str:
    """The column that judges a run: the shift towards the goal of its route, or the similarity."""
    route = run.manifest.route
    return SIMILARITY if route is None else shift_column(route.goal)


def _quantity(column: str) -> Quantity:
    if column == SIMILARITY:
        return Quantity(name=column, title="1 − similarity", sql=f"CAST(1 - CAST({quoted(column)} AS DOUBLE) AS FLOAT)")
    return Quantity(name=column, title=f"shift towards {state_of(column)}", sql=quoted(column))
