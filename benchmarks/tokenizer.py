"""Cells per second of tokenization against the loop over cells that published tokenizers use, same data, same run.

    python benchmarks/tokenizer.py [--cells 8192] [--expressed 1500] [--h5ad FILE]

Without a file, counts are drawn: 25,000 genes, nine tenths of them in the vocabulary. `ranking` is from a matrix in
memory to rank lists in memory, `file` from an h5ad file to a token table on disk. Best of three, taken in turns, by the
clock and by the time of all cores together, which other work on the machine disturbs less.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.genes.vocabulary import make_vocabulary
from rankshift.screen.tokenizer.gene_columns import gene_columns, match_columns
from rankshift.screen.tokenizer.rank_value import rank_rows
from rankshift.screen.tokenizer.tokenize import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

SIZE = 2048


def loop_over_cells(
    counts: sp.csr_matrix, total: np.ndarray, median: np.ndarray, token: np.ndarray
) -> list[np.ndarray]:
    """Normalise 512 cells at a time, then slice, sort and look up each one."""
    known = np.flatnonzero(token >= 0)
    median, token, lists = median[known], token[known], []
    for start in range(0, counts.shape[0], 512):
        chunk = counts[start : start + 512, known]
        value = sp.csr_matrix(chunk / total[start : start + 512, None] * 10_000 / median)
        for i in range(value.shape[0]):
            order = np.argsort(-value[i].data)
            lists.append(token[value[i].indices][order][:SIZE])
    return lists


def draw(path: Path, cells: int, expressed: int, genes: int = 25_000) -> VocabularyOnly:
    """An h5ad of counts with the skew of single cells, and a vocabulary that knows nine tenths of its genes."""
    rng = np.random.default_rng(0)
    names = [f"ENSG{i:011d}" for i in range(genes)]
    often = rng.lognormal(0, 1.5, genes)
    for _ in range(20):
        often = np.minimum(often * expressed / often.sum(), 0.95)
    blocks = []
    for n in np.diff(np.linspace(0, cells, max(2, cells // 512 + 1)).astype(int)):
        depth = rng.lognormal(0, 0.35, (n, 1))
        found = rng.random((n, genes), dtype=np.float32) < depth * often
        block = sp.csr_matrix(found, dtype=np.float32)
        block.data = 1 + rng.poisson(rng.lognormal(-0.5, 1.2, block.nnz)).astype(np.float32)
        blocks.append(block)
    counts = sp.vstack(blocks, "csr")
    obs = pd.DataFrame({"n_counts": np.asarray(counts.sum(axis=1)).ravel()}, index=[f"c{i}" for i in range(cells)])
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame({"ensembl_id": names}, index=names)).write_h5ad(path)
    kept = sorted(rng.choice(names, genes * 9 // 10, replace=False))
    tokens = {name: i for i, name in enumerate(["<pad>", "<mask>", *kept])}
    medians = dict(zip(kept, rng.lognormal(1, 0.5, len(kept)), strict=True))
    return VocabularyOnly(path=path, vocabulary=make_vocabulary(tokens, medians), input_size=SIZE)


def in_turns(old: Callable[[], object], new: Callable[[], object], cells: int, what: str) -> None:
    seconds, work = {old: [], new: []}, {old: [], new: []}
    for _ in range(3):
        for run in (old, new):
            start, spent = time.perf_counter(), time.process_time()
            run()
            seconds[run].append(time.perf_counter() - start)
            work[run].append(time.process_time() - spent)
    a, b = cells / min(seconds[old]), cells / min(seconds[new])
    print(
        f"{what:8} loop over cells {a:9,.0f} cells/s   rankshift {b:9,.0f} cells/s   {b / a:5.1f} x, "
        f"{min(work[old]) / min(work[new]):5.1f} x per second of a core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=8192)
    parser.add_argument("--expressed", type=int, default=1500, help="genes per cell, on average")
    parser.add_argument("--h5ad", type=Path, help="measure on this file instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, out = args.h5ad or Path(folder) / "drawn.h5ad", Path(folder) / "cells.parquet"
        if args.h5ad:
            build_vocabulary(path, Path(folder) / "vocabulary.parquet")
            draft = VocabularyOnly.open(Path(folder) / "vocabulary.parquet", SIZE)
        else:
            draft = draw(path, args.cells, args.expressed)
        data = anndata.read_h5ad(path)
        counts, total = sp.csr_matrix(data.X), data.obs["n_counts"].to_numpy()
        match = match_columns(path, data.var, draft.vocabulary, {}, 0.1)
        genes = gene_columns(match, draft.vocabulary)
        median = draft.vocabulary.median[match.token]
        begin, end = counts.indptr[:-1], counts.indptr[1:]

        def old_file() -> None:
            read = anndata.read_h5ad(path)
            lists = loop_over_cells(sp.csr_matrix(read.X), read.obs["n_counts"].to_numpy(), median, match.token)
            offsets = np.cumsum([0, *map(len, lists)])
            column = pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), pa.array(np.concatenate(lists), pa.int32())
            )
            pq.write_table(pa.table({"input_ids": column, "length": np.diff(offsets)}), out)

        cells = counts.shape[0]
        print(f"{cells} cells, {counts.nnz / cells:.0f} of {counts.shape[1]} genes each, {os.cpu_count()} cores")
        in_turns(
            lambda: loop_over_cells(counts, total, median, match.token),
            lambda: rank_rows(counts.data, counts.indices, begin, end, total, genes, SIZE),
            cells,
            "ranking",
        )
        in_turns(old_file, lambda: tokenize(path, draft, out), cells, "file")


if __name__ == "__main__":
    main()
