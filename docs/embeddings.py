"""Pictures and output of docs/embeddings.md, from the cells and the model that `rankshift demo --out demo` leaves.

Run it from the root of the repository: python docs/embeddings.py demo
"""

import resource
import sys
import tempfile
from pathlib import Path

import duckdb

from rankshift.jobs.cli import run_command

IMG = Path(__file__).parent / "img"
STRONGEST = """SELECT source_symbol, target_symbol, cells, round(mean, 5) AS mean, round(max, 4) AS max,
       round(mean_both, 5) AS mean_both FROM read_parquet('{}') ORDER BY mean DESC LIMIT 5"""


def embed(demo: Path, *options: object) -> None:
    """Run the command as a user does."""
    line = ["embed", demo / "cells.parquet", "--bundle", demo / "bundle", *options]
    if run_command([str(part) for part in line]):
        raise SystemExit(f"failed: rankshift {' '.join(map(str, line))}")


def main(demo: Path) -> None:
    """Draw the pictures, then print the strongest edges and the peak of memory."""
    IMG.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        drawn = ["--plot", IMG / "embed-map.png", "--heat-map", IMG / "embed-heat-map.png", "--color", "hours"]
        embed(demo, "--out", out / "cells.h5ad", *drawn)
        embed(demo, "--level", "gene", "--by", "hours", "--out", out / "genes.parquet")
        edges = out / "edges.parquet"
        embed(demo, "--level", "attention", "--normalise", "length", "--min-cells", 30, "--out", edges)
        print(duckdb.sql(STRONGEST.format(edges)))
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
