"""Tables with a row per cell or per pair of genes, too long to hold: made and sorted by DuckDB within a memory limit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import PERTURBATIONS, VOCABULARY, genes_path, part_path
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sql import limited
from rankshift.screen.runs.views import COSINE_MEAN, COSINE_SD, literal, quoted, views_of

BATCH = 100_000
CELL = -1  # stands for the cell itself among affected tokens
INDEX = ""  # name of the first column of published tables: the number of a row before sorting


def cell_rows(run: Run, *, published: bool) -> pa.RecordBatchReader:
    """aggregate_data: one row per cell and perturbation, of one perturbation in processing order (PS 4.6).

    published: Cosine_sim and Gene (symbols, those of a joint perturbation joined by `+`). Otherwise: identity and all measures.
    """
    with run.connect() as connection:
        counted = connection.sql("SELECT count(*) FROM perturbations").fetchall()
        names = [name for name in connection.sql("SELECT * FROM shifts LIMIT 0").columns if name != "cell"]
    # Rows of many perturbations stay as they are stored, cell by cell: sorting them would gain nobody anything.
    order = "ORDER BY cell" if counted == [(1,)] else ""
    if not published:
        return _reader(run, f"SELECT {', '.join(quoted(n) for n in names)} FROM shifts {order}")
    return _reader(
        run,
        f'SELECT row_number() OVER ({order}) - 1 AS "row", CAST(similarity AS DOUBLE) AS "Cosine_sim", symbols AS "Gene" '
        f"FROM shifts {order}",
    )


def gene_rows(run: Run, *, published: bool) -> pa.RecordBatchReader:
    """aggregate_gene_shifts: how near each gene stayed under each perturbation, the cells themselves first (PS 4.7).

    The partial sums of the parts (n, sum, square and min of the cosine per perturbation and affected token) are added up;
    the standard deviation is the population's. Numbers are sorted, names come to them afterwards, batch by batch.
    Raises InputError when the run was screened without --gene-shifts.
    """
    if run.manifest.gene_shifts is None:
        raise InputError(f"mode genes needs gene-level shifts, {run.path} has none: screen again with --gene-shifts")
    shifts, genes = (
        ", ".join(literal(str(path(run.path, name).resolve())) for name in run.committed)
        for path in (part_path, genes_path)
    )
    if not shifts:
        raise InputError(f"{run.path} has no committed rows: finish the screen with --resume")
    value = "CAST(similarity AS DOUBLE)"
    table = (
        f"SELECT perturbation, {CELL} AS affected, CAST(count(*) AS BIGINT) AS n, avg({value}) AS mean, "
        f"stddev_pop({value}) AS sd, min(similarity) AS lowest FROM read_parquet([{shifts}]) GROUP BY perturbation UNION ALL "
        f"SELECT perturbation, affected, CAST(sum(n) AS BIGINT), {COSINE_MEAN}, {COSINE_SD}, CAST(min(min) AS FLOAT) "
        f"FROM read_parquet([{genes}]) GROUP BY perturbation, affected"
    )
    names = _Names.read(run)
    order = f"affected <> {CELL}, mean, place, affected"
    if not published:
        query = f"SELECT * FROM ({table}) JOIN named USING (perturbation) ORDER BY {order}"
        return _named(run, [query], names, names.ours)
    numbered = f"CREATE TEMP TABLE numbered AS SELECT * FROM ({table}) JOIN named USING (perturbation) ORDER BY place, affected"
    return _named(run, [numbered, f"SELECT *, rowid AS row FROM numbered ORDER BY {order}"], names, names.published)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Names:
    """Names to look up: of perturbations by number, of affected genes by token."""

    perturbations: pa.Table
    vocabulary: pa.Table
    place: np.ndarray  # where a perturbation stands in the order of tokens
    row_of: np.ndarray  # row of the vocabulary by token

    @staticmethod
    def read(run: Run) -> "_Names":
        perturbations = pq.read_table(run.path / PERTURBATIONS).sort_by("perturbation").combine_chunks()
        tokens = perturbations["tokens"].to_pylist()
        place = np.empty(len(tokens), np.int32)
        place[sorted(range(len(tokens)), key=tokens.__getitem__)] = np.arange(len(tokens), dtype=np.int32)
        vocabulary = pq.read_table(run.path / VOCABULARY).combine_chunks()
        token = vocabulary["token"].to_numpy()
        row_of = np.zeros(int(token.max()) + 1, np.int64)
        row_of[token] = np.arange(len(token))
        return _Names(perturbations=perturbations, vocabulary=vocabulary, place=place, row_of=row_of)

    @property
    def order(self) -> pa.Table:
        """Number and place of each perturbation."""
        return pa.table({"perturbation": self.perturbations["perturbation"], "place": self.place})

    def look_up(self, rows: pa.RecordBatch) -> tuple[pa.Table, pa.ChunkedArray, pa.ChunkedArray, pa.Array]:
        """Perturbation of every row, Ensembl id and symbol of the affected gene (null for a cell), and whether it is a cell."""
        token = rows["affected"].to_numpy()
        cell = pa.array(token == CELL)
        row = pa.array(self.row_of[np.where(token == CELL, 0, token)], mask=token == CELL)
        found = self.vocabulary.take(row)
        return self.perturbations.take(rows["perturbation"]), found["ensembl_id"], found["symbol"], cell

    def ours(self, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        """Columns of our own tables."""
        perturbed, gene, symbol, _ = self.look_up(rows)
        return {
            **{name: perturbed[name] for name in ("kind", "gene_ids", "symbols")},
            "affected_gene": gene,
            "affected_symbol": pc.coalesce(symbol, gene),
            "cells": rows["n"],
            "cosine_mean": rows["mean"],
            "cosine_sd": rows["sd"],
            "cosine_min": rows["lowest"],
        }

    def published(self, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        """Columns of the published table."""
        perturbed, gene, symbol, cell = self.look_up(rows)
        tokens = perturbed["tokens"].combine_chunks()
        if pc.all(pc.equal(pc.list_value_length(tokens), 1)).as_py():
            named = tokens.flatten().cast(pa.string())
        else:
            named = pa.array([str(t[0]) if len(t) == 1 else str(tuple(t)) for t in tokens.to_pylist()], pa.string())
        return {
            INDEX: rows["row"],
            "Perturbed": named,
            "Gene_name": known_symbols(perturbed["symbols"], perturbed["gene_ids"]),
            "Ensembl_ID": perturbed["gene_ids"],
            "Affected": pc.if_else(cell, "cell_emb", rows["affected"].cast(pa.string())),
            "Affected_gene_name": symbol,
            "Affected_Ensembl_ID": gene,
            "Cosine_sim_mean": rows["mean"],
            "Cosine_sim_stdev": rows["sd"],
            "N_Detections": rows["n"],
        }


def known_symbols(symbols: pa.Array, gene_ids: pa.Array) -> pa.Array:
    """Gene names, empty where a run has only the Ensembl id to show."""
    return pc.if_else(pc.equal(symbols, gene_ids), pa.scalar(None, pa.string()), symbols)


def _named(
    run: Run, statements: list[str], names: _Names, columns: Callable[[pa.RecordBatch], dict[str, pa.Array]]
) -> pa.RecordBatchReader:
    """Rows of the last statement with their names."""
    empty = pa.record_batch(
        {
            "perturbation": pa.array([], pa.int32()),
            "affected": pa.array([], pa.int32()),
            "n": pa.array([], pa.int64()),
            "mean": pa.array([], pa.float64()),
            "sd": pa.array([], pa.float64()),
            "lowest": pa.array([], pa.float32()),
            "row": pa.array([], pa.int64()),
        }
    )
    schema = pa.table(columns(empty)).schema

    def rows() -> Iterator[pa.RecordBatch]:
        with limited() as connection:
            connection.register("named", names.order)
            for statement in statements[:-1]:
                connection.execute(statement)
            for batch in connection.sql(statements[-1]).to_arrow_reader(BATCH):
                yield from pa.table(columns(batch), schema=schema).combine_chunks().to_batches()

    return pa.RecordBatchReader.from_batches(schema, rows())


def _reader(run: Run, query: str) -> pa.RecordBatchReader:
    """Rows of a query over the views of `run`; the connection lives until the last one was read."""
    with run.connect() as connection:
        schema = connection.sql(f"SELECT * FROM ({query}) LIMIT 0").to_arrow_table().schema
    if "row" in schema.names:
        schema = pa.schema([f.with_name(INDEX) if f.name == "row" else f for f in schema])

    def rows() -> Iterator[pa.RecordBatch]:
        with limited() as connection:
            connection.execute(views_of(run, compacted=False))  # cell by cell
            for batch in connection.sql(query).to_arrow_reader(BATCH):
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, rows())
