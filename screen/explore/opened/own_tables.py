"""Tables that the user brings (drugs, tractability, safety): the column that names genes is found, and rows come by gene."""

from dataclasses import dataclass

import duckdb

from rankshift.screen.explore.opened.names import SCHEMA
from rankshift.screen.runs.views import quoted

GENES = f"{SCHEMA}.genes"  # run, perturbation, name: every id and symbol of every perturbation, in capitals
NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
)
COLUMNS = 8  # of a table beside a run's own: what a screen holds


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTable:
    """A table of the user. key: its column of gene names, None where none names a gene of the runs.

    columns: the others, and is each of numbers? matched: genes that it names.
    """

    name: str
    key: str | None
    columns: dict[str, bool]
    matched: int = 0

    @property
    def said(self) -> str:
        """What became of it, in a line."""
        if self.key is None:
            return f"table {self.name}: no column names a gene of these runs, so it is for SQL alone"
        return f"table {self.name}: {self.matched:,} genes of these runs by its column {self.key}"

    def by_perturbation(self, run: int) -> str:
        """SELECT of a row per perturbation of a run that the table has a gene of: columns `NAME.COLUMN`.

        Of several rows the largest number stands, and of texts all that differ, with ; between them.
        """
        assert self.key is not None
        values = ", ".join(
            f"{_value(column, number)} AS {quoted(f'{self.name}.{column}')}" for column, number in self.columns.items()
        )
        return (
            f"SELECT g.perturbation, {values} FROM {GENES} g JOIN {quoted(self.name)} t "
            f"ON upper(CAST(t.{quoted(self.key)} AS VARCHAR)) = g.name WHERE g.run = {int(run)} GROUP BY 1"
        )


def own_table(connection: duckdb.DuckDBPyConnection, name: str) -> OwnTable:
    """Find the key of a table that a connection has: the column whose values are the most genes of the runs."""
    relation = connection.sql(f"SELECT * FROM {quoted(name)} LIMIT 0")
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    found = {column: _matches(connection, name, column) for column in types}
    key = max(found, key=lambda column: found[column], default=None)
    numbers = {column: type.startswith(NUMBERS) for column, type in types.items()}
    if key is None or not found[key]:
        return OwnTable(name=name, key=None, columns=numbers)
    del numbers[key]
    return OwnTable(name=name, key=key, columns=dict(list(numbers.items())[:COLUMNS]), matched=found[key])


def _matches(connection: duckdb.DuckDBPyConnection, name: str, column: str) -> int:
    text = f"upper(CAST({quoted(column)} AS VARCHAR))"
    query = f"SELECT count(DISTINCT {text}) FROM {quoted(name)} WHERE {text} IN (SELECT name FROM {GENES})"
    (count,) = connection.execute(query).fetchall()[0]
    return int(count)


def _value(column: str, number: bool) -> str:
    if number:
        return f"max(t.{quoted(column)})"
    text = f"CAST(t.{quoted(column)} AS VARCHAR)"
    return f"string_agg(DISTINCT {text}, '; ' ORDER BY {text})"
