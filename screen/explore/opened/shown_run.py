"""A run that the page shows: its name, what it measured, the groups of its cells, and the tables kept of it in DuckDB."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb

from rankshift.screen.errors import InputError
from rankshift.screen.explore.opened.names import kept
from rankshift.screen.explore.opened.own_tables import GENES, OwnTable
from rankshift.screen.explore.opened.quantities import Quantity, quantities_of
from rankshift.screen.runs.layout import SHIFTS
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import absent, literal, quoted

GROUPS = 30  # values of an obs column that are told apart; a donor column of a large study has that many
STATISTICS = ("kind", "gene_ids", "symbols", "cells")  # columns of the view that the run's own table has already


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the table of perturbations. key: in SQL; title, help: for people; kind: text, number or mark."""

    key: str
    title: str
    help: str
    kind: str
    first: bool = True  # is it shown, or only downloaded?


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownRun:
    """A run of the page. number: its place; schema: of its views, empty for the first run; groups: values by obs column.

    columns: of its table of perturbations; notes: what a reader must know, a line each.
    """

    name: str
    number: int
    run: Run
    quantities: tuple[Quantity, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def schema(self) -> str:
        """What stands before the names of its views."""
        return "" if self.number == 0 else f"{quoted(self.name)}."

    @property
    def rows(self) -> str:
        """Its measured rows: perturbation, cell, and every quantity by its name."""
        return kept("rows", self.number)

    @property
    def table(self) -> str:
        """Its perturbations, a row each: columns `key` of `columns`, and the number `perturbation`."""
        return kept("table", self.number)

    @property
    def cells(self) -> str:
        """Its cells: cell, cell_id, and the groups as text."""
        return kept("cells", self.number)

    def quantity(self, name: str | None) -> Quantity:
        """A quantity by its name, by default the one that judges the run; raises InputError where it has none of that name."""
        for one in self.quantities:
            if name in (None, one.name):
                return one
        known = ", ".join(one.name for one in self.quantities)
        raise InputError(f"run {self.name} has no quantity {name!r}: use one of {known}")

    def group(self, name: str | None) -> str | None:
        """The obs column `name`, if cells have it; raises InputError where they do not."""
        if name is not None and name not in self.groups:
            raise InputError(
                f"cells of {self.name} have no groups by {name!r}: use one of {', '.join(self.groups) or 'none'}"
            )
        return name


def prepare(connection: duckdb.DuckDBPyConnection, name: str, number: int, run: Run) -> ShownRun:
    """Make the kept views and tables of a run: rows, cells, means. Refuses runs without rows.

    Of an adaptive run the rows are those of finished genes: what is there of others is no sample of their cells.
    """
    if run.partial and (why := absent(run, "answers")) is not None:
        raise InputError(why)
    if not run.partial:
        run.check_whole("the pages of explore")
    markers = run.queried
    if not sum(marker["rows"] for marker in markers.values()):
        raise InputError(
            f"{run.path} has no committed rows yet: wait for its first shard, or go on with rankshift resume"
        )
    shown = ShownRun(name=name, number=number, run=run, quantities=quantities_of(run))
    files = ", ".join(literal(str(path)) for path in run.files(SHIFTS, markers))
    # What is no number is as if it were not there, for DuckDB's means and orders as for those of the statistics.
    values = ", ".join(
        f"CASE WHEN isfinite({one.sql}) THEN {one.sql} END AS {quoted(one.name)}" for one in shown.quantities
    )
    only = f" WHERE perturbation IN ({_finished(shown)})" if run.partial else ""
    connection.execute(
        f"CREATE VIEW {shown.rows} AS SELECT perturbation, cell, {values} FROM read_parquet([{files}]){only}"
    )
    groups = _groups(connection, shown)
    texts = "".join(f", coalesce(CAST({quoted(n)} AS VARCHAR), '(empty)') AS {quoted(n)}" for n in groups)
    connection.execute(
        f"CREATE TABLE {shown.cells} AS SELECT cell, CAST(cell_id AS VARCHAR) AS cell_id{texts} FROM {shown.schema}cells"
    )
    names = [one.name for one in shown.quantities]
    means = ", ".join(
        f"{function}({quoted(n)}) AS {quoted(n + ending)}"
        for n in names
        for function, ending in (("avg", ""), ("stddev_samp", "_sd"), ("count", "_n"))
    )
    connection.execute(
        f"CREATE TABLE {kept('means', number)} AS "
        "SELECT p.perturbation, p.kind, p.gene_ids, p.symbols, m.* EXCLUDE perturbation "
        f"FROM (SELECT perturbation, count(*) AS cells, {means} FROM {shown.rows} GROUP BY 1) m "
        f"JOIN {shown.schema}perturbations p ON p.perturbation = m.perturbation ORDER BY p.perturbation"
    )
    of_cells = ", ".join(f"avg({quoted(n)}) AS {quoted(n)}" for n in names)
    connection.execute(
        f"CREATE TABLE {kept('cell means', number)} AS SELECT cell, {of_cells} FROM {shown.rows} GROUP BY 1 ORDER BY 1"
    )
    connection.execute(f"""INSERT INTO {GENES} SELECT DISTINCT {number}, perturbation, upper(name) FROM (
        SELECT perturbation, unnest(list_concat(string_split(gene_ids, '+'), string_split(symbols, '+'))) AS name
        FROM {f"{shown.schema}perturbations" if run.partial else kept("means", number)})""")
    return ShownRun(
        name=name,
        number=number,
        run=run,
        quantities=shown.quantities,
        groups=groups,
        notes=tuple(_notes(run, len(markers))),
    )


def with_table(connection: duckdb.DuckDBPyConnection, shown: ShownRun, tables: list[OwnTable]) -> ShownRun:
    """Make the table of perturbations: means, the statistics that the run keeps, columns of the user's tables."""
    means = kept("means", shown.number)
    columns = [
        Column(key="symbols", title="Gene", help="perturbed genes", kind="text"),
        Column(key="gene_ids", title="Ensembl id", help="their ids", kind="text"),
        Column(key="cells", title="Cells", help="cells with a value", kind="number"),
    ]
    for one in shown.quantities:
        columns += [
            Column(key=one.name, title=one.title, help=f"mean over cells of: {one.title}", kind="number"),
            Column(key=f"{one.name}_sd", title=f"SD of {one.title}", help="between cells", kind="number", first=False),
        ]
    select, join, base = ["m.*"], "", f"{means} m"
    if shown.run.partial:
        columns[0:0] = [Column(key="place", title="Place", help="of the genes asked for", kind="number")]
        columns += [
            Column(key="state", title="State", help="finished, estimated or untested", kind="text"),
            *(
                Column(key=f"estimated_{end}", title=f"Estimated {end}", help=words, kind="number")
                for end, words in (
                    ("low", "lower end of its 95 % interval"),
                    ("high", "upper end of its 95 % interval"),
                )
            ),
        ]
        select = [
            "a.perturbation, a.kind, a.gene_ids, a.symbols, a.place, a.state",
            "m.* EXCLUDE (perturbation, kind, gene_ids, symbols)",
        ]
        select.append("a.low AS estimated_low, a.high AS estimated_high")
        base = f"{shown.schema}answers a LEFT JOIN {means} m ON m.perturbation = a.perturbation"
    if absent(shown.run, "statistics") is None:
        found, names = _statistics(connection, shown)
        columns += found
        select.append(names)
        join += f" LEFT JOIN {shown.schema}statistics s ON s.gene_ids = m.gene_ids"
    for place, table in enumerate(table for table in tables if table.key is not None):
        join += f" LEFT JOIN ({table.by_perturbation(shown.number)}) t{place} ON t{place}.perturbation = m.perturbation"
        select += [f"t{place}.{quoted(f'{table.name}.{column}')}" for column in table.columns]
        columns += [
            Column(
                key=f"{table.name}.{column}",
                title=column,
                help=f"of table {table.name}",
                kind="number" if number else "text",
            )
            for column, number in table.columns.items()
        ]
    connection.execute(f"CREATE TABLE {shown.table} AS SELECT {', '.join(select)} FROM {base}{join}")
    return ShownRun(
        name=shown.name, number=shown.number, run=shown.run, quantities=shown.quantities, groups=shown.groups,
        columns=tuple(columns), notes=shown.notes,
    )  # fmt: skip


def _statistics(connection: duckdb.DuckDBPyConnection, shown: ShownRun) -> tuple[list[Column], str]:
    """Columns of the run's kept statistics that its means do not have, and their SELECT."""
    relation = connection.sql(f"SELECT * FROM {shown.schema}statistics LIMIT 0")
    taken = {"perturbation", *STATISTICS}
    headings = _headings()
    columns = []
    for name, type in zip(relation.columns, map(str, relation.types), strict=True):
        if name not in taken:
            title, help = headings.get(name, (name, "of rankshift stats"))
            kind = "mark" if type == "BOOLEAN" else "text" if type == "VARCHAR" else "number"
            columns.append(Column(key=f"statistics.{name}", title=title, help=help, kind=kind, first=name in headings))
    names = [column.key.removeprefix("statistics.") for column in columns]
    return columns, ", ".join(f"s.{quoted(name)} AS {quoted(f'statistics.{name}')}" for name in names)


def _headings() -> dict[str, tuple[str, str]]:
    """Title and help of the statistics that are shown beside the means."""
    # start-up time: the statistics load scipy, which --help need not wait for
    from rankshift.screen.stats.measures import MEASURES

    own = {"hit": ("Hit", "called a hit by rankshift stats"), "fdr": ("FDR", "false discovery rate"),
           "balanced_fdr": ("FDR, groups", "false discovery rate with one vote per group")}  # fmt: skip
    found = {c.name: (c.heading.title, c.heading.help) for m in MEASURES for c in m.columns if c.heading is not None}
    return found | own


def _groups(connection: duckdb.DuckDBPyConnection, shown: ShownRun) -> dict[str, tuple[str, ...]]:
    """Obs columns that tell 2 to GROUPS groups apart, with their values as text, in order."""
    view = f"{shown.schema}cells"
    names = [
        n for n in connection.sql(f"SELECT * FROM {view} LIMIT 0").columns if n not in ("cell", "cell_id", "length")
    ]
    if not names:
        return {}
    counts = connection.sql(
        f"SELECT {', '.join(f'count(DISTINCT {quoted(n)})' for n in names)} FROM {view}"
    ).fetchall()[0]
    out = {}
    for name, count in zip(names, counts, strict=True):
        if 2 <= count <= GROUPS:
            text = f"coalesce(CAST({quoted(name)} AS VARCHAR), '(empty)')"
            rows = connection.sql(f"SELECT DISTINCT {text} FROM {view} ORDER BY 1").fetchall()
            out[name] = tuple(row[0] for row in rows)
    return out


def _finished(shown: ShownRun) -> str:
    return f"SELECT perturbation FROM {shown.schema}answers WHERE state = 'finished'"


def _notes(run: Run, committed: int) -> list[str]:
    notes = []
    if run.partial:
        return [
            "The screen is adaptive: means and cells are shown of finished genes alone; of estimated ones there is an interval "
            "of the wanted quantity, and nothing of untested ones."
        ]
    if committed < run.manifest.shards:
        notes.append(
            f"{committed:,} of {run.manifest.shards:,} shards are there: means are of what was computed so far."
        )
    if (why := absent(run, "statistics")) is not None:
        notes.append(f"Nothing was tested: the run {why.removeprefix(str(run.path)).removeprefix(' ')}.")
    return notes
