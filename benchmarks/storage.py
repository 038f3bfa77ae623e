"""What lies before and behind the encoder: tokenization, rows from a worker to queryable Parquet, rows through SQL.

Nothing is encoded here: the shifts that are written are drawn.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from benchmarks.models import bundle_of, draw_cells
from benchmarks.tokenizer import draw, loop_over_cells
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener
from rankshift.screen.runs.layout import EMPTY_PART, part_path
from rankshift.screen.runs.shards import commit
from rankshift.screen.tokenizer.gene_columns import match_columns
from rankshift.screen.tokenizer.tokenize import tokenize

QUERY = """
    SELECT gene_ids, count(*) AS n, avg(similarity) AS similarity, stddev(similarity) AS spread
    FROM shifts GROUP BY gene_ids ORDER BY similarity LIMIT 20
"""


def measure_storage(folder: Path, cells: int, rows_of_shard: int) -> dict[str, Any]:
    """Commit every shard of a deletion screen of full V1 cells with random shifts, then group them by gene, best of three."""
    random = np.random.default_rng(0)
    tokens = 2048
    bundle = bundle_of("V1-10M", folder)
    with tempfile.TemporaryDirectory(dir=folder) as here:
        table = draw_cells(bundle, tokens, cells, Path(here) / "cells.parquet")
        options = Options(perturb="delete", dtype="float32", shard_tokens=rows_of_shard * tokens)
        screener = Screener.open(prepare(table, bundle, Path(here) / "run", options).path, bundle)
        run, lists = screener.run, screener.cells
        schema = pq.read_schema(part_path(run.path, EMPTY_PART))
        spent, rows = 0.0, 0
        for shard in screener.shards:
            numbers = np.arange(shard.first_cell, shard.last_cell, dtype=np.int32)
            tokens_of_rows = np.concatenate([lists.ids_of(int(cell)) for cell in numbers])[: shard.lists]
            drawn = {
                "cell": np.repeat(numbers, tokens)[: shard.lists],
                "perturbation": screener.perturbation_of[tokens_of_rows],
                "similarity": 1 - random.gamma(2, 1e-3, shard.lists).astype(np.float32),
                "cell_cosine": 1 - random.gamma(2, 1e-4, shard.lists).astype(np.float32),
            }
            began = time.perf_counter()
            commit(run.path, shard, pa.table(drawn, schema), {})
            spent += time.perf_counter() - began
            rows += shard.lists
        size = sum(p.stat().st_size for p in (run.path / "shifts").glob("*.parquet"))
        asked = []
        for _ in range(3):
            began = time.perf_counter()
            found = run.sql(QUERY)
            asked.append(time.perf_counter() - began)
            if found.num_rows != 20:
                raise RuntimeError(f"the query found {found.num_rows} genes of 20")
    return {
        "lists": rows,
        "rounds": len(asked),
        "written_per_s": rows / spent,
        "queried_per_s": rows / min(asked),
        "bytes_per_row": size / rows,
    }


def measure_tokenizer(folder: Path, cells: int, expressed: int) -> dict[str, Any]:
    """Cells per second from an h5ad file to a token table, in turns with the loop over cells (benchmarks/tokenizer.py)."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        path, out = Path(here) / "drawn.h5ad", Path(here) / "cells.parquet"
        draft = draw(path, cells, expressed)
        match = match_columns(path, anndata.read_h5ad(path, backed="r").var, draft.vocabulary, {}, 0.1)
        median = draft.vocabulary.median[match.token]

        def loop() -> None:
            read = anndata.read_h5ad(path)
            lists = loop_over_cells(sp.csr_matrix(read.X), read.obs["n_counts"].to_numpy(), median, match.token)
            pq.write_table(pa.table({"input_ids": lists, "length": [len(one) for one in lists]}), out)

        def seconds(work: Callable[[], object]) -> float:
            began = time.perf_counter()
            work()
            return time.perf_counter() - began

        engine, stock = [seconds(lambda: tokenize(path, draft, out))], []
        for _ in range(2):
            stock.append(seconds(loop))
            engine.append(seconds(lambda: tokenize(path, draft, out)))
    return {
        "lists": cells,
        "rounds": 2,
        "unit": "cells",
        "engine_per_s": cells / min(engine),
        "stock_per_s": cells / min(stock),
        "ratio": min(stock) / min(engine),
    }
