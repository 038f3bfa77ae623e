"""What a screen of a size that nobody has run here would come to, from unit costs that were measured on small ones.

`python -m benchmarks.scale --paper` prints it. All of it is arithmetic: no number here was measured at that size.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Unit costs, each measured as docs/scale.md says, or assumed where it says so."""

    bytes_a_row: float = 13.5  # of parts: 271 MB for 2e7 rows
    bytes_a_token: float = 2.0  # of a table of cells
    prepare_s_a_cell: float = 8e-5  # of 2,048 genes, processor time
    driver_s_a_shard: float = 0.55e-3  # the loop with 1,000 workers
    commit_s_a_shard: float = 3e-3  # of a worker's processor
    part_s_a_query: float = 0.3e-3  # to open one
    marker_s: float = 1e-5  # to list one of a compacted run
    compact_s_a_row: float = 3.8e-7  # 76 s for 2e8
    compacted_mean_s_a_row: float = 3.7e-8  # mean by gene, 7.4 s for 2e8
    requests_a_shard: int = 2  # to an object store: a part and a marker, each put in one piece
    dollars_a_thousand_puts: float = 0.005  # assumed: list price of a large store
    dollars_a_gb_month: float = 0.023  # assumed, the same
    flops: float = 3e14  # of a GPU, assumed
    shard_s: float = 1.7  # of a GPU at that


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """Cells, genes that each expresses, floating point operations of a perturbed list."""

    name: str
    cells: float = 1e8
    per_cell: float = 2048
    flop_a_list: float = 32e9
    gpus: int = 1000


MODELS = (
    Atlas(name="V1-10M, 2,048 genes a cell"),
    Atlas(name="V2-104M, 2,048 genes a cell", flop_a_list=0.46e12),
    Atlas(name="V2-104M, 4,096 genes a cell", flop_a_list=1.2e12, per_cell=4096),
)


def estimate(atlas: Atlas, units: Units) -> dict[str, float]:
    """A deletion of every expressed gene of every cell."""
    rows = atlas.cells * atlas.per_cell
    seconds = rows * atlas.flop_a_list / units.flops / atlas.gpus
    shards = seconds * atlas.gpus / units.shard_s
    return {
        "rows": rows,
        "days of the GPUs, always busy": seconds / 86400,
        "bytes of parts": rows * units.bytes_a_row,
        "bytes of cells": rows * units.bytes_a_token,
        "shards": shards,
        "files (a part and a marker each)": 2 * shards,
        "shards a second": atlas.gpus / units.shard_s,
        "share of the driver's processor": atlas.gpus / units.shard_s * units.driver_s_a_shard,
        "hours to prepare": atlas.cells * atlas.per_cell / 2048 * units.prepare_s_a_cell / 3600,
        "requests to an object store": shards * units.requests_a_shard,
        "dollars for requests": shards * units.requests_a_shard / 1000 * units.dollars_a_thousand_puts,
        "dollars a month for parts": rows * units.bytes_a_row / 1e9 * units.dollars_a_gb_month,
        "hours to open all parts once": shards * units.part_s_a_query / 3600,
        "hours to list the markers": shards * units.marker_s / 3600,
        "hours to compact (one process, once)": rows * units.compact_s_a_row / 3600,
        "hours of a mean by gene, compacted": rows * units.compacted_mean_s_a_row / 3600,
    }


def table() -> str:
    """Markdown: a row for each quantity, a column for each model."""
    found = [estimate(atlas, Units()) for atlas in MODELS]
    lines = ["| 1e8 cells, 1,000 GPUs | " + " | ".join(atlas.name for atlas in MODELS) + " |"]
    lines.append("|---|" + "--:|" * len(MODELS))
    lines += [f"| {name} | " + " | ".join(f"{one[name]:.3g}" for one in found) + " |" for name in found[0]]
    return "\n".join(lines)
