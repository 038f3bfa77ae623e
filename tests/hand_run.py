"""A run written by hand: a few cells, genes and values that a test computes with by other means."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.cells.writer import writing
from rankshift.screen.runs.layout import (
    CELLS,
    COMMITS,
    EMPTY_PART,
    PERTURBATIONS,
    SHIFTS,
    VOCABULARY,
    genes_path,
    part_path,
)
from rankshift.screen.runs.manifest import AdaptiveAsked, GenesKept, Manifest, PerturbEntry, Route
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.shards import Shard, commit

SYMBOLS = ("ALPHA", "BETA", "GAMMA", "alphaX")
IDS = tuple(f"ENSG{i:011d}" for i in range(4))
FIRST = 2  # token of the first gene


def values(seed: int = 0) -> np.ndarray:
    """float32 [12 cells, 4 genes]: shifts; NaN where a cell lacks the gene (the last one is in the first six cells alone)."""
    found = np.random.default_rng(seed).normal(0, 1e-3, (12, 4)).astype(np.float32)
    found += np.array([0.004, 0.002, -0.003, 0.001], np.float32)
    found[6:, 3] = np.nan
    return found


def hand_run(
    path: Path,
    shifts: np.ndarray,
    *,
    goal: bool = True,
    donors: Sequence[str] = "aaaaabbbbbbb",
    ids: Sequence[str] = IDS,
    symbols: Sequence[str] = SYMBOLS,
    more: dict[str, np.ndarray] | None = None,
    affected: dict[str, Any] | None = None,
    shards: int = 1,
    adaptive: AdaptiveAsked | None = None,
    committed: bool = True,
) -> Run:
    """Write a run of these shifts [cells, genes]; similarity is 1 - |shift|. more: further measured columns, likewise.

    affected: rows of gene shifts, by column. A value that is inf stays a row whose shift is NaN.
    """
    (path / SHIFTS).mkdir(parents=True)
    (path / COMMITS).mkdir()
    cell, gene = np.nonzero(~np.isnan(shifts))
    found = np.where(np.isinf(shifts), np.nan, shifts)[cell, gene].astype(np.float32)
    columns: dict[str, Any] = {
        "cell": cell.astype(np.int32),
        "perturbation": gene.astype(np.int32),
        "similarity": (1 - np.abs(found)).astype(np.float32),
        "cell_cosine": (1 - np.abs(found)).astype(np.float32),
    }
    if goal:
        columns |= {"cos_before_up": np.zeros(len(cell), np.float32), "shift_up": found}
    columns |= {name: matrix[cell, gene].astype(np.float32) for name, matrix in (more or {}).items()}
    rows = pa.table(columns)
    pq.write_table(rows.slice(0, 0), part_path(path, EMPTY_PART))
    genes = len(ids)
    pq.write_table(
        pa.table(
            {
                "perturbation": pa.array(range(genes), pa.int32()),
                "kind": ["delete"] * genes,
                "gene_ids": list(ids),
                "symbols": list(symbols),
                "tokens": pa.array([[FIRST + i] for i in range(genes)], pa.list_(pa.int32())),
            }
        ),
        path / PERTURBATIONS,
    )
    lists = [np.flatnonzero(~np.isnan(row)) + FIRST for row in shifts]
    with writing(path / CELLS) as write:
        write(
            np.concatenate(lists).astype(np.int32),
            np.concatenate([[0], np.cumsum([len(one) for one in lists])]),
            pa.table({"cell_id": [f"c{i}" for i in range(len(shifts))], "donor": list(donors)}),
        )
    kept = None
    if affected is not None:
        (path / "genes").mkdir()
        names = {"token": np.arange(genes) + FIRST, "ensembl_id": list(ids), "symbol": list(symbols)}
        pq.write_table(pa.table(names), path / VOCABULARY)
        kept = pa.table(affected)
        pq.write_table(kept.slice(0, 0), genes_path(path, EMPTY_PART))
    Manifest(
        perturb=PerturbEntry.of({"kind": "delete", "how": "each", "genes": None, "framed": False}),
        embedding="cell",
        states={"up": ()} if goal else {},
        route=Route(key="state", start="down", goal="up") if goal else None,
        gene_shifts=None if affected is None else GenesKept(),
        shards=shards,
        lists=len(rows),
        adaptive=adaptive,
    ).write(path)
    if committed:
        whole = Shard(index=0, first_cell=0, last_cell=len(shifts), first_list=0, last_list=len(rows), lists=len(rows))
        commit(path, whole, rows, {}, kept)
    return Run.open(path)
