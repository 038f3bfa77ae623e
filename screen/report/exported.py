"""A run as one file for other programs: .csv and .xlsx for a spreadsheet, .duckdb for SQL, .h5ad for scanpy.

Everything is written whole or not at all. A file that its program could not open is refused, and rows that a sheet has no room
for are counted and said.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.csv
import scipy.sparse as sp

from rankshift.screen.errors import InputError
from rankshift.screen.extras import need
from rankshift.screen.files.atomic import replacing
from rankshift.screen.report import sentences
from rankshift.screen.report.findings import Findings
from rankshift.screen.runs.layout import measures
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import NAMES, literal, quoted, views_of
from rankshift.screen.stats.answered import answered, facts
from rankshift.screen.stats.answered import sentences as told
from rankshift.screen.stats.options import StatOptions

FORMATS = ("csv", "xlsx", "duckdb", "h5ad")
SHEET_ROWS = 1_048_575  # of a sheet of Excel, below its header
MOST_VALUES = 200_000_000  # of an .h5ad: 12 bytes each and measure in memory
SOURCE = "source"  # schema of the views while their rows are copied
Say = Callable[[str], None]


def export_file(
    run: Run, out: Path, *, format: str | None = None, judging: StatOptions | None = None, say: Say = print
) -> None:
    """Write the run to `out` in one of FORMATS, by default that of its ending.

    csv, xlsx: the table of statistics, a row per perturbation, of an adaptive run its answers; xlsx with sheets of what was
    found, hits, and how the run was made. duckdb: the views of the run as tables, every row of them. h5ad: cells by
    perturbations, X the shift towards the goal (without a route the similarity), every other measure a layer; only what was
    screened is stored.
    Raises InputError on a run without rows, an unknown format, and an `out` that lies in the run.
    """
    format = format or out.suffix.removeprefix(".")
    if format not in FORMATS:
        raise InputError(f"--format {format!r} is unknown: use reference, {', '.join(FORMATS)}")
    if run.holds(out):
        raise InputError(f"{out} lies inside the run, which an export never writes to: give another --out")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder, a file is written: give a name that ends in .{format}")
    if not run.complete and not run.partial:
        say(f"{run.path}: {len(run.committed)} of {run.manifest.shards} shards are there, the rest is not exported")
    if run.partial and judging not in (None, StatOptions()):
        raise InputError(
            f"{run.path} is adaptive, --by and --min-cells are of tests that it does not make: leave them out"
        )
    write = {"csv": _csv, "xlsx": _xlsx, "duckdb": _duckdb, "h5ad": _h5ad}[format]
    with replacing(out) as temporary:
        said = write(run, temporary, judging or StatOptions())
    say(f"{out}: {said}, {out.stat().st_size / 1e6:.1f} MB")


def _csv(run: Run, out: Path, judging: StatOptions) -> str:
    table = answered(run) if run.partial else Findings.read(run, judging).table
    pyarrow.csv.write_csv(table, out, pyarrow.csv.WriteOptions(quoting_style="needed"))
    return f"{table.num_rows:,} perturbations"


def _xlsx(run: Run, out: Path, judging: StatOptions) -> str:
    need("xlsx", "an .xlsx", "openpyxl")
    from openpyxl import Workbook  # an extra, for this format alone

    book = Workbook(write_only=True)  # rows go to the file as they come

    def sheet(name: str, rows: Iterator[list[Any]]) -> None:
        page = book.create_sheet(name)
        for row in rows:
            page.append([_in_cell(value) for value in row])

    if run.partial:
        table = answered(run)
        sheet("found", ([line] for line in [*told(run, table), *(f"{n}: {v}" for n, v in facts(run).items())]))
        sheet("top", _rows(table.filter(table["place"].is_valid())))
        sheet("answers", _rows(table))
        sheet("columns", _meanings(table))
        book.save(out)
        return f"{min(table.num_rows, SHEET_ROWS):,} perturbations"
    findings = Findings.read(run, judging)
    hits = findings.table.filter(pa.array(findings.hit))
    left_out = max(0, len(findings) - SHEET_ROWS)
    sheet("found", _about(findings, left_out))
    sheet("hits", _rows(hits))
    sheet("statistics", _rows(findings.table))
    sheet("columns", _meanings(findings.table))
    book.save(out)
    said = f"{min(len(findings), SHEET_ROWS):,} perturbations"
    return said + (f" ({left_out:,} weaker ones have no room in a sheet: take csv or duckdb)" if left_out else "")


def _in_cell(value: Any) -> Any:
    """What a sheet can hold. A text that begins like a formula stays a text."""
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and len(value) > 1 else value


def _about(findings: Findings, left_out: int) -> Iterator[list[Any]]:
    yield [sentences.title(findings)]
    yield from ([line] for line in sentences.answer(findings))
    if left_out:
        yield [f"{left_out:,} perturbations of weaker effect have no room in the sheet and are left out."]
    yield []
    yield from ([name, str(value)] for name, value in sentences.facts(findings).items())
    yield []
    yield from ([name, str(value)] for name, value in sentences.provenance(findings).items())


def _rows(table: pa.Table) -> Iterator[list[Any]]:
    yield table.column_names
    for batch in table.slice(0, SHEET_ROWS).to_batches(10_000):
        yield from (list(row.values()) for row in batch.to_pylist())


def _meanings(table: pa.Table) -> Iterator[list[Any]]:
    yield ["column", "unit", "meaning"]
    for field in table.schema:
        about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        yield [field.name, about.get("unit", ""), about.get("meaning", "")]


def _duckdb(run: Run, out: Path, judging: StatOptions) -> str:
    rows = 0
    with duckdb.connect(str(out)) as connection:
        connection.execute(views_of(run, SOURCE))
        there = connection.execute(
            f"SELECT view_name FROM duckdb_views() WHERE schema_name = {literal(SOURCE)}"
        ).fetchall()
        names = [name for name in NAMES if (name,) in there]
        for name in names:
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {SOURCE}.{name}")
        connection.execute(f"DROP SCHEMA {SOURCE} CASCADE")
        if "statistics" not in names and not run.partial:
            with suppress(InputError):  # one without rows has none
                findings = Findings.read(run, judging)
                connection.register("found", findings.table)
                connection.execute("CREATE TABLE statistics AS SELECT * FROM found")
                connection.execute("CREATE TABLE hits AS SELECT * FROM found WHERE hit")
                connection.unregister("found")
                names += ["statistics", "hits"]
        (rows,) = connection.execute("SELECT count(*) FROM shifts").fetchone() or (0,)
    return f"{rows:,} shifts, tables {', '.join(names)}"


def _h5ad(run: Run, out: Path, judging: StatOptions) -> str:
    import anndata  # start-up time: the other formats do without

    route = run.manifest.route
    names = measures(run.states)
    main = "similarity" if route is None else f"shift_{route.goal}"
    (count,) = run.sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist()
    if count > MOST_VALUES:
        raise InputError(
            f"{run.path} has {count:,} shifts, an .h5ad of at most {MOST_VALUES:,} is written: export --format duckdb"
        )
    table = answered(run) if run.partial else Findings.read(run, judging).table
    columns = ", ".join(map(quoted, names))
    rows = run.sql(f"SELECT cell, perturbation, {columns} FROM shifts ORDER BY cell, perturbation")
    cells = run.frame("SELECT * FROM cells ORDER BY cell")
    perturbations = run.frame("SELECT perturbation, gene_ids, kind, symbols FROM perturbations ORDER BY perturbation")
    shape = (len(cells), len(perturbations))
    at_cell = np.searchsorted(cells["cell"].to_numpy(), rows["cell"].to_numpy())
    at = np.searchsorted(perturbations["perturbation"].to_numpy(), rows["perturbation"].to_numpy())

    def matrix(name: str) -> sp.csr_matrix:
        values = rows[name].to_numpy(zero_copy_only=False).astype(np.float32)
        ends = np.concatenate([[0], np.cumsum(np.bincount(at_cell, minlength=len(cells)))])
        return sp.csr_matrix((values, at, ends), shape)

    judged = table.drop_columns(["kind", "symbols"]).to_pandas().set_index("gene_ids")
    var = perturbations.set_index("gene_ids").join(judged[~judged.index.duplicated()])
    obs = cells.set_index(pd.Index(cells["cell_id"].astype(str))).drop(columns=["cell_id", "cell"])
    data = anndata.AnnData(matrix(main), obs=_storable(obs), var=_storable(var))
    data.obs_names_make_unique()
    data.obs_names.name = data.var_names.name = None
    for name in names:
        if name != main:
            data.layers[name] = matrix(name)
    data.uns["rankshift"] = {"X": main, "manifest": json.dumps(dict(run.manifest))}
    data.write_h5ad(out, compression="gzip")
    return f"{shape[0]:,} cells by {shape[1]:,} perturbations, X is {main}"


def _storable(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame that h5ad can hold: names as text, columns of several kinds of values, too."""
    frame = frame.copy()
    for name in frame.columns:
        if frame[name].dtype == object:
            known = frame[name].dropna()
            if len(known) and all(isinstance(value, bool) for value in known):
                frame[name] = frame[name].astype("boolean")
            else:
                frame[name] = frame[name].map(lambda v: None if v is None or v != v else str(v)).astype("category")
    frame.columns = [str(name) for name in frame.columns]
    return frame
