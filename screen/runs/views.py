"""The views of a run as SQL text that any DuckDB executes: what was measured, what it is called, and how far the run is.

The text names files by absolute paths and lists what is committed now. Nothing is executed here.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.cells.sql_names import beside, free_name, sql_names
from rankshift.screen.cells.uncropped import UNCROPPED
from rankshift.screen.errors import InputError
from rankshift.screen.files.seal import check_seal
from rankshift.screen.runs.folder import RunFolder
from rankshift.screen.runs.layout import (
    ANSWERS,
    CELL,
    CELLS,
    EMPTY_PART,
    GENES,
    PERTURBATION,
    PERTURBATIONS,
    SHIFTS,
    STATISTICS,
    VOCABULARY,
    genes_path,
    part_path,
)
from rankshift.screen.runs.markers import Marker

STAMP = b"rankshift.statistics"  # metadata of the run's own statistics: the summary as JSON
# Partial aggregates of gene cosines (n, sum, square) added up: their mean, and the standard deviation of the population.
# Rounding may leave a variance just below zero; of one value it is exactly zero, because square is the square of sum.
COSINE_MEAN = "sum(sum) / sum(n)"
COSINE_SD = f"sqrt(greatest(sum(square) / sum(n) - ({COSINE_MEAN}) * ({COSINE_MEAN}), 0))"
KNOWN_FILES = (
    64  # whose ranges are read before a query: 1e9 compacted rows; of more files it would take longer than it saves
)
ROW = "row of the cell"  # the number of a cell's row in its file
GENE_STATE = "gene_state"  # column of the view shifts of adaptive runs: is the gene finished, estimated?
NAMES = ("shifts", "cells", "perturbations", "run", "noise", "genes", "effects", "statistics", "hits", "answers")


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def views_of(run: RunFolder, schema: str | None = None, *, compacted: bool = True) -> str:
    """CREATE VIEW statements of NAMES, as far as the run has them; in a schema of its own, or where the connection is.

    compacted: over sorted files, where there are some; else over the parts, whose rows come cell by cell.
    """
    prefix = "" if schema is None else f"{quoted(schema)}."
    statements = [] if schema is None else [f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)};"]
    markers = run.queried if compacted else run.committed
    for name, select in _selects(run, markers, prefix, compacted):
        statements.append(f"CREATE OR REPLACE VIEW {prefix}{name} AS {select};")
    return "\n".join(statements)


def absent(run: RunFolder, name: str) -> str | None:
    """Why a run has no view `name`, and what to do; None when it has one."""
    if name in ("genes", "effects"):
        if run.manifest.gene_shifts is None:
            return f"{run.path} has no view {name}: screen with --gene-shifts"
    elif name == "answers":
        if not (run.path / ANSWERS).exists():
            return f"{run.path} has no view answers: it is of adaptive screens that have ended, screen with --top"
    elif name in ("statistics", "hits"):
        if run.partial:
            return f"{run.path} is adaptive, it tests nothing and has no view {name}: ask its view answers"
        summary = statistics_summary(run)
        verb = f"rankshift stats {run.path} --mode {own_mode(run)}"
        if summary is None:
            return f"{run.path} has no statistics yet, and so no view {name}: make them with {verb}"
        try:
            check_seal(
                run.path / STATISTICS, pq.read_metadata(run.path / STATISTICS).metadata, f"make it again with {verb}"
            )
        except InputError as error:
            return str(error)
        markers = run.queried
        if summary["committed"] != committed_mark(markers):
            judged = "".join(
                f" --{option.replace('_', '-')} {value}"
                for option, value in summary["options"].items()
                if value is not None
            )
            then, now = summary["committed"]["shards"], len(markers)
            return f"statistics of {run.path} are of {then} shards, {now} are there now: make them again with {verb}{judged}"
    return None


def own_mode(run: RunFolder) -> str:
    """The mode of statistics that a run itself asks for: goal where it has states, else mixture."""
    return "mixture" if run.manifest.route is None else "goal"


def committed_mark(markers: Iterable[str]) -> dict[str, Any]:
    """The parts that statistics were made of: the number of committed shards, and a digest of their names."""
    names = sorted(markers)
    return {"shards": len(names), "sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()}


def statistics_summary(run: RunFolder) -> dict[str, Any] | None:
    """The summary of the statistics recorded in a run, None where there are none that can be read."""
    try:
        return dict(json.loads(pq.read_schema(run.path / STATISTICS).metadata[STAMP]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError):
        return None


def _selects(run: RunFolder, markers: Mapping[str, Marker], prefix: str, compacted: bool) -> Iterator[tuple[str, str]]:
    """Name and SELECT of every view, in an order in which each finds what it needs."""
    shifts = _reader(run, SHIFTS, markers, compacted)
    cells = literal(str((run.path / CELLS).resolve()))
    perturbations = literal(str((run.path / PERTURBATIONS).resolve()))
    measures = [n for n in pq.read_schema(part_path(run.path, EMPTY_PART)).names if n not in (CELL, PERTURBATION)]
    named = ["cell_id", "cell", "perturbation", "kind", "gene_ids", "symbols"]
    held = pq.read_schema(run.path / CELLS).names
    names = sql_names(held)
    row = free_name(ROW, names)
    label = f"c.{quoted(names[held.index('cell_id')])}"
    lists = {"input_ids", UNCROPPED}
    obs = [name for own, name in zip(held, names, strict=True) if own not in ("cell_id", *lists)]
    # Columns of a file are named by their place, because by their own names DuckDB may take one for another.
    placed = f"(SELECT * FROM read_parquet({cells}, file_row_number = true)) AS c({_quoted([*names, row])})"
    columns = [
        f"{label} AS cell_id", "s.cell", "s.perturbation", "p.kind", "p.gene_ids", "p.symbols",
        *(f"s.{quoted(n)}" for n in measures),
        *_as(obs, beside(obs, [*named, *measures, *lists, *([GENE_STATE] if run.partial else [])])),
    ]  # fmt: skip
    yield (
        "cells",
        f"SELECT CAST({quoted(row)} AS INTEGER) AS cell, "
        f"{', '.join([f'{label} AS cell_id', *_as(obs, beside(obs, [CELL, 'cell_id']))])} FROM {placed}",
    )
    yield "perturbations", f"SELECT * EXCLUDE (tokens) FROM read_parquet({perturbations})"
    answers = f"read_parquet({literal(str((run.path / ANSWERS).resolve()))})"
    said = ""
    if absent(run, "answers") is None:
        columns.insert(len(named) + len(measures), f"a.state AS {GENE_STATE}")
        said = f" LEFT JOIN (SELECT perturbation, state FROM {answers}) a ON a.perturbation = s.perturbation"
    yield (
        "shifts",
        f"SELECT {', '.join(columns)} FROM {shifts} s JOIN {placed} ON c.{quoted(row)} = s.cell "
        f"JOIN {prefix}perturbations p ON p.perturbation = s.perturbation{said}",
    )
    yield "run", _one_row(_progress(run, markers))
    yield "noise", _noise(run)
    if absent(run, "genes") is None:
        yield from _gene_selects(run, markers, prefix, compacted)
    if absent(run, "answers") is None:
        yield (
            "answers",
            f"SELECT a.place, p.kind, p.gene_ids, p.symbols, a.* EXCLUDE (place) FROM {answers} a "
            f"JOIN {prefix}perturbations p ON p.perturbation = a.perturbation",
        )
    if absent(run, "hits") is None:
        recorded = literal(str((run.path / STATISTICS).resolve()))
        yield "statistics", f"SELECT * FROM read_parquet({recorded})"
        yield "hits", f"SELECT * EXCLUDE (hit, enough_cells) FROM {prefix}statistics WHERE hit"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))


def _as(names: Sequence[str], new: Sequence[str]) -> list[str]:
    """Columns of cells under the names that a view gives them."""
    return [f"c.{quoted(a)}" + ("" if a == b else f" AS {quoted(b)}") for a, b in zip(names, new, strict=True)]


def _reader(run: RunFolder, folder: str, markers: Mapping[str, Marker], compacted: bool) -> str:
    """A read_parquet of the files of what is committed; of a run without any, of the empty part.

    DuckDB takes every file to be as long as the first. An empty part in front made it believe that shifts is the smallest
    table of its joins, hold all of it and push nothing down.

    union_by_name (all files have the same columns) makes it read how long each one is and what each column ranges over:
    then names and cells are joined by their place in a table and not by a hash, which takes a third of the time or less.
    """
    there = run.files(folder, markers, compacted=compacted) or [run.path.resolve() / folder / f"{EMPTY_PART}.parquet"]
    named = ", ".join(literal(str(path)) for path in there)
    return f"read_parquet([{named}]{', union_by_name = true' if len(there) <= KNOWN_FILES else ''})"


def _gene_selects(
    run: RunFolder, markers: Mapping[str, Marker], prefix: str, compacted: bool
) -> Iterator[tuple[str, str]]:
    """`genes`, the partial aggregates with names; `effects`, them added up: n, mean, sd (population), min of the cosine."""
    genes = _reader(run, GENES, markers, compacted)
    names = literal(str((run.path / VOCABULARY).resolve()))
    apart = [n for n in ("cell", "cells") if n in pq.read_schema(genes_path(run.path, EMPTY_PART)).names]
    keys = ["perturbation", "kind", "gene_ids", "symbols", "affected_gene", "affected_symbol", *apart]
    yield (
        "genes",
        "SELECT p.perturbation, p.kind, p.gene_ids, p.symbols, "
        "v.ensembl_id AS affected_gene, coalesce(v.symbol, v.ensembl_id) AS affected_symbol, "
        f"g.* EXCLUDE (perturbation, affected) FROM {genes} g "
        f"JOIN read_parquet({names}) v ON v.token = g.affected JOIN {prefix}perturbations p ON p.perturbation = g.perturbation",
    )
    yield (
        "effects",
        f"SELECT {', '.join(keys)}, CAST(sum(n) AS BIGINT) AS n, {COSINE_MEAN} AS cosine_mean, "
        f"{COSINE_SD} AS cosine_sd, min(min) AS cosine_min "
        f"FROM {prefix}genes GROUP BY ALL",
    )


def _progress(run: RunFolder, markers: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Columns of the view `run`: (type, value)."""
    m = run.manifest
    route, screened = m.route, m.screened
    return {
        "path": ("VARCHAR", str(run.path.resolve())),
        "kind": ("VARCHAR", m.perturb.kind),
        "how": ("VARCHAR", m.perturb.how),
        "state_key": ("VARCHAR", None if route is None else route.key),
        "start": ("VARCHAR", None if route is None else route.start),
        "goal": ("VARCHAR", None if route is None else route.goal),
        "embedding": ("VARCHAR", m.embedding),
        "dtype": ("VARCHAR", None if screened is None else screened.dtype),
        "weights": ("VARCHAR", None if screened is None else screened.bundle.weights_sha256[:12]),
        "shards": ("INTEGER", m.shards),
        "shards_committed": ("INTEGER", len(markers)),
        "rows": ("BIGINT", m.lists),
        "rows_committed": ("BIGINT", sum(marker["rows"] for marker in markers.values())),
        "encode_seconds": ("DOUBLE", sum(marker.get("encode_seconds", 0.0) for marker in markers.values())),
    }


def _one_row(columns: Mapping[str, tuple[str, Any]]) -> str:
    return "SELECT " + ", ".join(f"CAST({_value(v)} AS {t}) AS {quoted(n)}" for n, (t, v) in columns.items())


def _noise(run: RunFolder) -> str:
    """The noise floor: one row per measure, none before it was measured."""
    types = {"n": "BIGINT", "median": "DOUBLE", "p99": "DOUBLE", "max": "DOUBLE"}
    rows = [
        _one_row({"measure": ("VARCHAR", measure), **{name: (t, getattr(found, name)) for name, t in types.items()}})
        for measure, found in (run.manifest.noise_floor or {}).items()
    ]
    nothing = (
        _one_row({"measure": ("VARCHAR", None), **{name: (t, None) for name, t in types.items()}}) + " WHERE false"
    )
    return " UNION ALL ".join(rows) or nothing


def _value(value: Any) -> str:
    if value is None:
        return "NULL"
    return literal(str(value))  # quoted, because SQL has no bare word for NaN
