"""One reading statement over runs: DuckDB in memory that reaches the runs and the files named beside them, nothing else.

Refused: statements that would change or write anything, files that were not named, several statements at once.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.cells.sql_names import folded
from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import one_line
from rankshift.screen.query_memory import TOO_MUCH
from rankshift.screen.runs.folder import RunFolder
from rankshift.screen.runs.views import NAMES, absent, literal, quoted, views_of

MEMORY = "2GB"  # what DuckDB may hold beside the interpreter and the libraries; more goes through temporary files
READERS = {".csv": "read_csv", ".tsv": "read_csv", ".parquet": "read_parquet", ".json": "read_json"}
HEADER = 1 << 16  # bytes of a file to join in which its columns are named
TAKEN = {*NAMES, "main", "temp", "system", "information_schema", "pg_catalog", "tables"}
ON_PURPOSE = "SQL reads the run; name other files with --table NAME=FILE (in Python tables={name: file})"


@contextmanager
def limited(**config: str | bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in memory that goes through temporary files beyond MEMORY."""
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {"memory_limit": MEMORY, "temp_directory": folder}
        with duckdb.connect(":memory:", config=settings | config) as connection:
            yield connection


def setup(run: RunFolder, others: Mapping[str, RunFolder], tables: Mapping[str, Path]) -> str:
    """The statements that make all views: of `run`, of other runs in schemas by their names, of files by theirs."""
    views = [views_of(run), *(views_of(other, name) for name, other in others.items())]
    return "\n".join([*views, tables_text([*others], tables)])


def tables_text(taken: list[str], tables: Mapping[str, Path]) -> str:
    """The statements that make views of files; refuses names, also those of other runs (`taken`), that SQL would not take."""
    _check_names([*taken, *tables])
    made = (f"CREATE OR REPLACE VIEW {quoted(name)} AS SELECT * FROM {_reader(name, f)};" for name, f in tables.items())
    return "\n".join(made)


@contextmanager
def connected(
    run: RunFolder, others: Mapping[str, RunFolder], tables: Mapping[str, Path]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the views of `setup` that can read what they name, and change none of its settings.

    Raises InputError where a file of the runs cannot be read any more while the block asks.
    """
    with reading(setup(run, others, tables), [one.path for one in (run, *others.values())], tables) as connection:
        yield connection


@contextmanager
def reading(
    statements: str, folders: Sequence[Path], tables: Mapping[str, Path]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the views of some statements, over files in these folders and `tables`, that reaches nothing else."""
    reached = [str(one.resolve()) for one in folders]
    with limited(python_enable_replacements=False) as connection:
        try:
            connection.execute(statements)
        except duckdb.Error as error:
            raise InputError(f"views cannot be made: {one_line(error, 300)}") from error
        for option, value in (
            ("allowed_directories", _list(reached)),
            ("allowed_paths", _list([str(f.resolve()) for f in tables.values()])),
            ("enable_external_access", "false"),
            ("errors_as_json", "true"),
            ("lock_configuration", "true"),
        ):
            connection.execute(f"SET {option} = {value}")
        for name, file in tables.items():
            _check_columns(connection, name, file)
        try:
            yield connection
        except duckdb.IOException as error:
            raise _unreadable(error, folders) from error


def _unreadable(error: duckdb.IOException, folders: Sequence[Path]) -> InputError:
    gone = next((folder for folder in folders if not folder.exists()), None)
    if gone is not None:
        return InputError(f"{gone} was moved or removed while it was read: put it back, then give the command again")
    return InputError(f"a file of the run cannot be read: {_message(error)}: continue the run with --resume")


def _check_columns(connection: duckdb.DuckDBPyConnection, name: str, file: Path) -> None:
    """Refuse a file with columns that are one name for SQL: DuckDB calls the second gene_1, and gene finds the first."""
    columns = connection.sql(f"SELECT * FROM {quoted(name)} LIMIT 0").columns
    there = {folded(column): column for column in columns}
    if file.suffix.lower() == ".parquet":
        try:
            own = pq.read_schema(file).names
        except (pa.ArrowException, OSError) as error:  # DuckDB reads less of a file than pyarrow does
            raise InputError(f"table {name}: {file} is damaged ({one_line(error)}): write it again") from error
    else:
        with file.open("rb") as opened:  # names stand in the first line of a table, and in the first object of JSON
            own = re.findall(r"\w+", opened.read(HEADER).decode(errors="replace"))
    for column in columns:
        stem, _, number = column.rpartition("_")
        if number.isdecimal() and folded(stem) in there and column not in own:
            raise InputError(
                f"table {name}: {file} has columns {there[folded(stem)]!r} and {stem!r}, one name for SQL: rename one"
            )


def ask(
    connection: duckdb.DuckDBPyConnection, query: str, run: RunFolder | None, others: Mapping[str, RunFolder]
) -> duckdb.DuckDBPyRelation:
    """The rows of one reading statement on a connection of `connected`; they are computed when they are read.

    run: whose views have no schema, None where they are not those of one run.
    """
    try:
        statements = connection.extract_statements(query)
        kinds = [statement.type.name for statement in statements]
        if kinds == ["MULTI"]:
            raise InputError("PIVOT needs its columns named: add IN (…) to its ON")
        if len(statements) != 1:
            raise InputError(f"the query holds {len(statements)} statements, one is needed: ask them one by one")
        if kinds != ["SELECT"]:
            raise InputError(f"a query reads the run, {kinds[0]} would change something: use SELECT")
        return connection.sql(statements[0])
    except duckdb.Error as error:
        try:  # a relation loses the place of a name that it cannot bind, a plan keeps it
            connection.execute(f"EXPLAIN {query}")
        except duckdb.Error as again:
            raise refusal(again, query, run, others, len("EXPLAIN ")) from error
        raise refusal(error, query, run, others) from error


def _parts(error: Exception) -> dict[str, Any]:
    """What DuckDB says of an error as JSON, by name; of others the message alone."""
    try:
        return dict(json.loads(str(error).partition(": ")[2]))
    except ValueError:
        return {"exception_message": str(error).removeprefix("Permission Error: ")}


def _message(error: Exception) -> str:
    """The message of an error of DuckDB, in one line."""
    return " ".join(str(_parts(error).get("exception_message", "")).split())


def refusal(
    error: Exception, query: str, run: RunFolder | None, others: Mapping[str, RunFolder], before: int = 0
) -> InputError:
    """An error of DuckDB in one line, with the place in the query; `before`: bytes that stood before the query."""
    found = _parts(error)
    message = _message(error)
    if isinstance(error, duckdb.OutOfMemoryException) or "Allocation failure" in message:
        return InputError(TOO_MUCH)
    if "disabled by configuration" in message:
        return InputError(f"SQL: {message.split(' - ')[0]}: {ON_PURPOSE}")
    if found.get("error_subtype") == "MISSING_ENTRY" and found.get("name") in NAMES:
        there = [*([] if run is None else [run]), *others.values()]
        reasons = [absent(one, found["name"]) for one in there]
        if any(reasons):
            return InputError("; ".join(reason for reason in reasons if reason))
    place = ""
    if "position" in found:
        at = max(int(found["position"]) - before, 0)
        text = query.encode()[:at].decode(errors="ignore")
        place = f" at line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"
    return InputError(f"SQL{place}: {message[:400]}")


def _check_names(names: list[str]) -> None:
    """Refuse names that SQL would not take as they are, that views have, or that come twice."""
    if not names:
        return
    with duckdb.connect(":memory:") as connection:
        query = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
        reserved = {row[0] for row in connection.execute(query).fetchall()}
    for i, name in enumerate(names):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name.lower() in reserved:
            raise InputError(f"{name!r} is no name for SQL: use letters, digits and _, and no keyword, as in up=RUN")
        if name.lower() in TAKEN:
            raise InputError(f"{name!r} is the name of something else in SQL: choose another")
        if name.lower() in (n.lower() for n in names[:i]):
            raise InputError(f"{name!r} is given twice: name each run and table differently")


def _reader(name: str, file: Path) -> str:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"table {name} is {file}: give a file of {', '.join(READERS)}")
    if not file.is_file():
        raise InputError(f"table {name}: {file} is no file: check the path")
    return f"{reader}({literal(str(file.resolve()))})"


def _list(texts: list[str]) -> str:
    return "[" + ", ".join(map(literal, texts)) + "]"
