"""SQL over a study: the rows of all its screens with `fold`, `arm` and `donor`, and its tables, in the same way as over a run.

Views: shifts, cells, donors, verdicts, genes and runs, as far as the study has come; and in schemas fold0_delete, … the views
of every run as they are (docs/sql.md).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import duckdb
import pyarrow as pa

from rankshift.jobs.cohort.folder import Folder
from rankshift.jobs.verbs.query import answer, check_asked, format_of, named_paths
from rankshift.screen.errors import InputError
from rankshift.screen.query_memory import limited_process, refused_in_words
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sql import ask, reading, refusal, tables_text
from rankshift.screen.runs.views import literal, quoted, views_of


def views_of_study(folder: Folder) -> str:
    """CREATE VIEW statements for any DuckDB, over what the study has now."""
    statements, parts, listed = [], [], []
    for fold, arm, place in folder.runs():
        name = place.name
        run = Run.open(place)
        statements.append(views_of(run, name))
        columns = f"{fold} AS fold, {literal(arm)} AS arm"
        held = _obs_names(run)
        if folder.study.donor != "donor":
            columns += f", {quoted(folder.study.donor)} AS donor"
        hidden = [column for column in ("fold", "arm", "donor") if column in held and column != folder.study.donor]
        rest = f"* EXCLUDE ({', '.join(map(quoted, hidden))})" if hidden else "*"
        parts.append(f"SELECT {columns}, {rest} FROM {quoted(name)}.shifts")
        listed.append(f"SELECT {fold} AS fold, {literal(arm)} AS arm, * FROM {quoted(name)}.run")
    if parts:
        statements.append(f"CREATE OR REPLACE VIEW shifts AS {' UNION ALL BY NAME '.join(parts)};")
        statements.append(f"CREATE OR REPLACE VIEW runs AS {' UNION ALL BY NAME '.join(listed)};")
    for name in ("cells", "donors", "verdicts", "genes"):
        file: Path = getattr(folder, name)
        if file.exists():
            source = literal(str(file.resolve()))
            statements.append(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM read_parquet({source});")
    return "\n".join(statements)


def _obs_names(run: Run) -> list[str]:
    return run.sql("SELECT * FROM cells LIMIT 0").column_names


@contextmanager
def connected(
    folder: Folder, others: Mapping[str, Run], tables: Mapping[str, Path]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the views of a study, of other runs in schemas by their names, and of files to join."""
    more = [views_of(other, name) for name, other in others.items()]
    text = "\n".join([views_of_study(folder), *more, tables_text([*others], tables)])
    with reading(text, [folder.path, *(run.path for run in others.values())], tables) as connection:
        yield connection


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Answers(Folder):
    """A study that answers SQL."""

    @staticmethod
    def of(folder: Folder) -> "Answers":
        """The same study, to be asked."""
        return Answers(**{field.name: getattr(folder, field.name) for field in fields(Folder)})

    def sql(
        self, query: str, *, tables: Mapping[str, Path | str] | None = None, **others: Run | Path | str
    ) -> pa.Table:
        """Rows of one SQL query over the views; raises InputError on SQL that fails or would change anything.

        >>> done.sql("SELECT donor, avg(shift_well) FROM shifts WHERE arm = 'delete' GROUP BY donor")  # doctest: +SKIP
        """
        runs = {name: other if isinstance(other, Run) else Run.open(Path(other)) for name, other in others.items()}
        with connected(self, runs, {name: Path(file) for name, file in (tables or {}).items()}) as connection:
            try:
                return ask(connection, query, None, runs).to_arrow_table()
            except duckdb.Error as error:
                raise refusal(error, query, None, runs) from error


def query_study(
    folder: Folder,
    sql: str | None,
    *,
    others: Sequence[str] = (),
    tables: Sequence[str] = (),
    views: bool = False,
    format: str | None = None,
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """`rankshift query` of a study: the same options as for a run."""
    runs = {name: Run.open(Path(path)) for name, path in named_paths(others, "--with", "RUN").items()}
    files = {name: Path(path) for name, path in named_paths(tables, "--table", "FILE").items()}
    check_asked(sql, views)
    if views:
        print(views_of_study(folder))
        return
    format = format_of(format, out)
    if out is not None and folder.path.resolve() in out.resolve().parents:
        raise InputError(f"{out} lies inside the study, which queries never write to: give another --out")
    if not folder.verdicts.exists():
        say(f"{folder.path}: the study has not ended; the rest comes with --resume")
    with refused_in_words(), limited_process(), connected(folder, runs, files) as connection:
        answer(connection, str(sql), None, runs, format, out, say)
