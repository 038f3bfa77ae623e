"""The run folder: manifest, cells, perturbations, committed parts, and SQL over them. Readers see committed parts only."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.atomic import replacing
from rankshift.screen.below import UNCROPPED
from rankshift.screen.errors import InputError
from rankshift.screen.shards import committed, genes_path, part_path

SCHEMA_VERSION = 1
EMPTY_PART = "empty"  # a part without rows that every run has, so that views exist before the first commit
READ_ONLY = {"SELECT", "EXPLAIN", "RELATION", "CALL", "PRAGMA"}


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, eq=False)
class Run:
    """A run on disk. `path` is the folder, `manifest` what run.json says."""

    path: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(path: Path) -> "Run":
        """Open the run folder at `path`; raises InputError when it is none or was written by another schema."""
        path = Path(path)
        try:
            manifest = json.loads((path / "run.json").read_text())
        except FileNotFoundError as e:
            raise InputError(f"{path} is not a run folder (no run.json): give the --out of a screen") from e
        except (OSError, json.JSONDecodeError) as e:
            raise InputError(f"{path / 'run.json'} cannot be read ({e}): run the screen again") from e
        if manifest.get("schema_version") != SCHEMA_VERSION:
            found = manifest.get("schema_version")
            raise InputError(
                f"{path} has schema {found}, this version reads {SCHEMA_VERSION}: use the version that wrote it"
            )
        return Run(path, manifest)

    def record(self, **entries: Any) -> "Run":
        """The run with entries added to its manifest, written at once."""
        manifest = {**self.manifest, **entries}
        with replacing(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(manifest, indent=2))
        return Run(self.path, manifest)

    @property
    def states(self) -> list[str]:
        """State names in the order of their columns."""
        return list(self.manifest["states"])

    @property
    def committed(self) -> dict[str, dict]:
        """Marker of every committed shard by name."""
        return committed(self.path)

    @property
    def complete(self) -> bool:
        """Are all shards committed?"""
        return len(self.committed) == self.manifest["shards"]

    @cached_property
    def views(self) -> str:
        """CREATE VIEW statements for any DuckDB: shifts, cells, perturbations (genes, effects) over what is committed now."""
        parts = [part_path(self.path, name) for name in (EMPTY_PART, *self.committed)]
        files = ", ".join(literal(str(p.resolve())) for p in parts)
        cells = literal(str((self.path / "cells.parquet").resolve()))
        perturbations = literal(str((self.path / "perturbations.parquet").resolve()))
        measures = [n for n in pq.read_schema(parts[0]).names if n not in ("cell", "perturbation")]
        named = ["cell_id", "cell", "perturbation", "kind", "gene_ids", "symbols"]
        taken = {*named, *measures, "input_ids", "file_row_number"}
        held = pq.read_schema(self.path / "cells.parquet").names
        lists = [n for n in held if n in ("input_ids", UNCROPPED)]
        obs = [n for n in held if n not in ("cell_id", *lists)]
        columns = [
            "c.cell_id", "s.cell", "s.perturbation", "p.kind", "p.gene_ids", "p.symbols",
            *(f"s.{quoted(n)}" for n in measures),
            *(f"c.{quoted(n)}" + (f" AS {quoted('obs_' + n)}" if n in taken else "") for n in obs),
        ]  # fmt: skip
        views = [
            "CREATE OR REPLACE VIEW cells AS SELECT CAST(file_row_number AS INTEGER) AS cell, "
            f"* EXCLUDE ({', '.join(lists)}, file_row_number) FROM read_parquet({cells}, file_row_number = true);",
            f"CREATE OR REPLACE VIEW perturbations AS SELECT * EXCLUDE (tokens) FROM read_parquet({perturbations});",
            f"CREATE OR REPLACE VIEW shifts AS SELECT {', '.join(columns)} FROM read_parquet([{files}]) s "
            f"JOIN (SELECT CAST(file_row_number AS INTEGER) AS row_of_cell, * FROM read_parquet({cells}, "
            "file_row_number = true)) c ON c.row_of_cell = s.cell JOIN perturbations p ON p.perturbation = s.perturbation;",
        ]
        if self.manifest["gene_shifts"] is not None:
            views += self._gene_views()
        return "\n".join(views)

    def _gene_views(self) -> list[str]:
        """`genes`, the partial aggregates with names; `effects`, them added up: n, mean, sd (population), min of the cosine."""
        files = ", ".join(literal(str(genes_path(self.path, n).resolve())) for n in (EMPTY_PART, *self.committed))
        names = literal(str((self.path / "vocabulary.parquet").resolve()))
        apart = [n for n in ("cell", "cells") if n in pq.read_schema(genes_path(self.path, EMPTY_PART)).names]
        keys = ["perturbation", "kind", "gene_ids", "symbols", "affected_gene", "affected_symbol", *apart]
        mean = "sum(sum) / sum(n)"
        return [
            "CREATE OR REPLACE VIEW genes AS SELECT p.perturbation, p.kind, p.gene_ids, p.symbols, "
            "v.ensembl_id AS affected_gene, coalesce(v.symbol, v.ensembl_id) AS affected_symbol, "
            f"g.* EXCLUDE (perturbation, affected) FROM read_parquet([{files}]) g "
            f"JOIN read_parquet({names}) v ON v.token = g.affected JOIN perturbations p ON p.perturbation = g.perturbation;",
            f"CREATE OR REPLACE VIEW effects AS SELECT {', '.join(keys)}, CAST(sum(n) AS BIGINT) AS n, {mean} AS cosine_mean, "
            f"sqrt(greatest(sum(square) / sum(n) - ({mean}) * ({mean}), 0)) AS cosine_sd, min(min) AS cosine_min "
            "FROM genes GROUP BY ALL;",
        ]

    def connect(self) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB with the views, that can read this run and write nothing."""
        connection = duckdb.connect(":memory:")
        connection.execute(self.views)
        return connection

    def sql(self, query: str) -> pa.Table:
        """Rows of one SQL query over the views; raises InputError on SQL that fails or would change anything.

        The columns of the views are those of design section 5: `shifts(cell_id, perturbation, kind, gene_ids, symbols,
        similarity, cell_cosine, cos_before_<state>, shift_<state>, …)`, `cells` and `perturbations`.
        """
        with self.connect() as connection:
            return self.query(connection, query).to_arrow_table()

    def query(self, connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
        """The rows of one reading statement on a connection of `connect`."""
        try:
            statements = connection.extract_statements(query)
            if len(statements) != 1:
                raise InputError(f"the query holds {len(statements)} statements, one is needed: ask them one by one")
            kind = statements[0].type.name
            if kind not in READ_ONLY:
                raise InputError(f"a query reads the run, {kind} would change something: use SELECT")
            return connection.sql(statements[0])
        except duckdb.Error as e:
            raise InputError(f"SQL: {' '.join(str(e).split())[:400]}") from e
