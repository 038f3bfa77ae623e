"""Tables with a row per cell or per pair of genes, too long to hold: made and sorted by DuckDB within a memory limit."""

import tempfile
from collections.abc import Iterator

import duckdb
import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.results import Run, literal, quoted
from rankshift.screen.shards import genes_path, part_path

MEMORY = "2GB"  # of DuckDB, beside the interpreter and the libraries; what is longer goes through temporary files
BATCH = 100_000
INDEX = ""  # name of the first column of published tables: the number of a row before sorting


def cell_rows(run: Run, *, published: bool) -> pa.RecordBatchReader:
    """aggregate_data: one row per cell and perturbation, of one perturbation in processing order (semantics 4.6).

    published: Cosine_sim and Gene (symbols; of joint perturbations joined by `+`). Else identity and all that was measured.
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
    """aggregate_gene_shifts: how near each gene stayed under each perturbation, the cells themselves first (semantics 4.7).

    The partial sums of the parts (n, sum, square and min of the cosine per perturbation and affected token) are added up;
    the standard deviation is the population's. Raises InputError when the run was screened without --gene-shifts.
    """
    if run.manifest.get("gene_shifts") is None:
        raise InputError(f"mode genes needs gene-level shifts, {run.path} has none: screen again with --gene-shifts")
    shifts, genes = (
        ", ".join(literal(str(path(run.path, name).resolve())) for name in run.committed)
        for path in (part_path, genes_path)
    )
    named, vocabulary = (literal(str((run.path / f"{n}.parquet").resolve())) for n in ("perturbations", "vocabulary"))
    if not shifts:
        raise InputError(f"{run.path} has no committed rows: finish the screen with --resume")
    mean = "sum(sum) / sum(n)"
    # One value has no spread; of more, rounding may leave a variance just below zero.
    spread = f"CASE WHEN sum(n) = 1 THEN 0 ELSE sqrt(greatest(sum(square) / sum(n) - ({mean}) * ({mean}), 0)) END"
    value = "CAST(similarity AS DOUBLE)"
    rows = (
        f"SELECT perturbation, NULL AS affected, count(*) AS n, avg({value}) AS mean, stddev_pop({value}) AS sd, "
        f"min({value}) AS lowest FROM read_parquet([{shifts}]) GROUP BY perturbation UNION ALL "
        f"SELECT perturbation, affected, CAST(sum(n) AS BIGINT), {mean}, {spread}, CAST(min(min) AS DOUBLE) "
        f"FROM read_parquet([{genes}]) GROUP BY perturbation, affected"
    )
    joined = (
        f"FROM ({rows}) r JOIN read_parquet({named}) p USING (perturbation) "
        f"LEFT JOIN read_parquet({vocabulary}) v ON v.token = r.affected"
    )
    if published:
        token = (
            "CASE WHEN len(p.tokens) = 1 THEN CAST(p.tokens[1] AS VARCHAR) "
            "ELSE '(' || array_to_string(p.tokens, ', ') || ')' END"
        )
        before = "p.tokens, r.affected IS NOT NULL, r.affected"
        query = (
            f'SELECT row_number() OVER (ORDER BY {before}) - 1 AS "row", {token} AS "Perturbed", '
            'CASE WHEN p.symbols <> p.gene_ids THEN p.symbols END AS "Gene_name", p.gene_ids AS "Ensembl_ID", '
            'coalesce(CAST(r.affected AS VARCHAR), \'cell_emb\') AS "Affected", v.symbol AS "Affected_gene_name", '
            'v.ensembl_id AS "Affected_Ensembl_ID", r.mean AS "Cosine_sim_mean", r.sd AS "Cosine_sim_stdev", '
            f'r.n AS "N_Detections" {joined} ORDER BY r.affected IS NOT NULL, r.mean, "row"'
        )
    else:
        query = (
            "SELECT p.kind, p.gene_ids, p.symbols, v.ensembl_id AS affected_gene, "
            "coalesce(v.symbol, v.ensembl_id) AS affected_symbol, r.n AS cells, r.mean AS cosine_mean, r.sd AS cosine_sd, "
            f"r.lowest AS cosine_min {joined} ORDER BY r.affected IS NOT NULL, r.mean, p.tokens, r.affected"
        )
    return _reader(run, query)


def _reader(run: Run, query: str) -> pa.RecordBatchReader:
    """Rows of a query over the views of `run`; the connection lives until the last one was read."""
    with run.connect() as connection:
        schema = connection.sql(f"SELECT * FROM ({query}) LIMIT 0").to_arrow_table().schema
    if "row" in schema.names:
        schema = pa.schema([f.with_name(INDEX) if f.name == "row" else f for f in schema])
    return pa.RecordBatchReader.from_batches(schema, _batches(run, query, schema))


def _batches(run: Run, query: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with tempfile.TemporaryDirectory() as folder:
        connection = duckdb.connect(":memory:", config={"memory_limit": MEMORY, "temp_directory": folder})
        with connection:
            connection.execute(run.views)
            for batch in connection.sql(query).to_arrow_reader(BATCH):
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
