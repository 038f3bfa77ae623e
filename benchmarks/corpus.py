"""A vocabulary and a token table from a large file, beside plain reading of the same bytes: cells per second, peak memory.

    python -m benchmarks.corpus [--cells 200000] [--kind h5ad] [--genes 2000] [--folder DIR]

kind: h5ad (stored as it is), gzip (an h5ad with compressed chunks), zarr. Cells have 2,000 of 25,000 genes on average; 5,000
are drawn and repeated. Each part runs in a process of its own, by what the command calls. --folder keeps the file. Linux only.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.scale import child, report
from benchmarks.tokenizer import draw

DRAWN = 5000
KINDS = ("h5ad", "gzip", "zarr")
READ = """
import h5py, zarr
file = zarr.open_group(sys.argv[1], mode="r") if sys.argv[1].endswith("zarr") else h5py.File(sys.argv[1])
data, indices = file["X/data"], file["X/indices"]
for at in range(0, data.shape[0], 1 << 23):
    data[at : at + (1 << 23)], indices[at : at + (1 << 23)]
"""


def write(path: Path, kind: str, cells: int, expressed: int) -> None:
    """The file of counts: 5,000 drawn cells, repeated."""
    drawn = path.with_name("drawn.h5ad")
    draw(drawn, min(DRAWN, cells), expressed)
    some = anndata.read_h5ad(drawn)
    drawn.unlink()
    matrix = sp.csr_matrix(some.X)
    times = -(-cells // some.n_obs)
    counts = sp.vstack([matrix] * times, "csr")[:cells]
    total = np.asarray(counts.sum(axis=1)).ravel()
    obs = pd.DataFrame({"n_counts": total}, index=[f"c{i}" for i in range(cells)])
    whole = anndata.AnnData(counts, obs=obs, var=some.var)
    if kind == "zarr":
        whole.write_zarr(path)
    else:
        whole.write_h5ad(path, compression="gzip" if kind == "gzip" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--kind", choices=KINDS, default="h5ad")
    parser.add_argument("--genes", type=int, default=2000, help="of a cell, on average")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{args.kind}-{args.cells}-{args.genes}.{'zarr' if args.kind == 'zarr' else 'h5ad'}"
        if not path.exists():
            write(path, args.kind, args.cells, args.genes)
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        size = sum(file.stat().st_size for file in files)
        print(f"{args.cells:,} cells, {size / 1e6:,.0f} MB; load {os.getloadavg()[0]:.1f}", flush=True)
        made, table = folder / "vocabulary.parquet", folder / "cells.parquet"
        builder = "from pathlib import Path\nfrom rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary"
        tokens = (
            "from pathlib import Path\nfrom rankshift.screen.tokenizer.tokenize import tokenize\n"
            "from rankshift.screen.genes.token_space import VocabularyOnly\n"
            "space = VocabularyOnly.open(Path(sys.argv[2]), 2048)"
        )
        work = {
            "plain reading": ("", READ, (path,)),
            "vocabulary": (builder, "build_vocabulary(Path(sys.argv[1]), Path(sys.argv[2]))", (path, made)),
            "tokenize": (tokens, "tokenize(Path(sys.argv[1]), space, Path(sys.argv[3]))", (path, made, table)),
        }
        for name, (imports, code, arguments) in work.items():
            found = child(imports, code, *arguments)
            report(f"{name}: {args.cells / found['seconds']:,.0f} cells/s", found)
        for file in (made, table):
            file.unlink()
        if args.folder is None:
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
