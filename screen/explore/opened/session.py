"""What the page asks: runs and the user's tables in one DuckDB that only reads, opened once, asked by many threads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.explore.opened.cell_map import CellMap, cell_map
from rankshift.screen.explore.opened.names import SCHEMA
from rankshift.screen.explore.opened.own_tables import GENES, OwnTable, own_table
from rankshift.screen.explore.opened.shown_run import ShownRun, prepare, with_table
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sql import connected


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Session:
    """Open runs by name, the first one first; tables of the user by name; the map of cells of every run by its name."""

    connection: duckdb.DuckDBPyConnection
    runs: Mapping[str, ShownRun]
    tables: Mapping[str, OwnTable]
    maps: Mapping[str, CellMap]

    def run(self, name: str | None) -> ShownRun:
        """A run by its name, by default the first; raises InputError where none is called that."""
        if name is None:
            return next(iter(self.runs.values()))
        if name not in self.runs:
            raise InputError(f"no run is called {name!r}: use one of {', '.join(self.runs)}")
        return self.runs[name]

    def ask(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> pa.Table:
        """Rows of one of the page's own queries; safe in any thread."""
        with self.connection.cursor() as cursor:
            return cursor.sql(query, params=parameters or None).to_arrow_table()


@contextmanager
def opened(
    runs: Mapping[str, Run], tables: Mapping[str, Path], maps: Mapping[str, Path] | None = None
) -> Iterator[Session]:
    """A session over runs by name (the first is the one that SQL asks without a prefix) and files of the user by name.

    maps: files with coordinates of the cells, by the name of the run. Raises InputError for what cannot be shown.
    """
    first, *rest = runs
    others = {name: runs[name] for name in rest}
    with connected(runs[first], others, tables) as connection:
        connection.execute(
            f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {GENES} (run INTEGER, perturbation INTEGER, name VARCHAR)"
        )
        prepared = [prepare(connection, name, number, run) for number, (name, run) in enumerate(runs.items())]
        own = {name: own_table(connection, name) for name in tables}
        shown = {one.name: with_table(connection, one, list(own.values())) for one in prepared}
        drawn = {name: cell_map(connection, one, (maps or {}).get(name)) for name, one in shown.items()}
        yield Session(connection=connection, runs=shown, tables=own, maps=drawn)
