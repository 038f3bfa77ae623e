"""Runs of drawn shifts with a known truth, as files of the usual form: calibration is tested, and speed measured, on them.

Nothing is encoded: values are sums of normal effects of cells, ranks, donors and truly shifted genes. They say how a test
behaves when its assumptions hold or fail, not what a model finds.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.cells.writer import writing
from rankshift.screen.errors import InputError
from rankshift.screen.runs.layout import (
    CELLS,
    COMMITS,
    EMPTY_PART,
    PERTURBATIONS,
    SHIFTS,
    VOCABULARY,
    genes_path,
    marker_path,
    part_path,
)
from rankshift.screen.runs.manifest import GenesKept, Manifest, NoiseFloor, PerturbEntry, Route
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.shards import Shard, commit
from rankshift.screen.runs.sums import FILES, sums_of

FIRST_TOKEN = 2  # behind <pad> and <mask>, as in plain vocabularies
ROWS = 200_000  # of a shard
SLOPE = 8.0  # the trend over rank falls to 1/e within an eighth of the list


def sealed(run: Run) -> Run:
    """The run with the checksums of its files as they are now: a test has written some of them again."""
    for name in run.done:
        marker = json.loads(marker_path(run.path, name).read_text())
        marker_path(run.path, name).write_text(json.dumps({**marker, FILES: sums_of(run.path, marker[FILES])}))
    if FILES not in run.manifest.more:
        return Run.open(run.path)
    return run.record(more={**run.manifest.more, FILES: sums_of(run.path, run.manifest.more[FILES])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What to draw: `cells` with `per_cell` of `genes` genes each, a deletion of every gene in every cell that has it.

    The shift towards the goal is the sum of normal effects of standard deviations `cell_sd` (of the cell), `donor_sd` (of the
    gene in a donor), `noise_sd` (of the row), of `trend` times exp(-8 rank / per_cell), and of `effect` in `shifted` genes.
    donors: share of the cells of each. abundance_sd: of the log abundances; the larger, the more genes are rare.
    affected: rows of gene-level shifts per shard, none by default.
    """

    cells: int
    genes: int
    per_cell: int
    donors: tuple[float, ...] = (1.0,)
    cell_sd: float = 0.0
    donor_sd: float = 0.0
    trend: float = 0.0
    noise_sd: float = 1e-3
    shifted: int = 0
    effect: float = 0.0
    abundance_sd: float = 1.0
    affected: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.per_cell <= self.genes or self.cells < 1 or self.shifted > self.genes:
            raise InputError(
                f"{self.cells} cells with {self.per_cell} of {self.genes} genes, {self.shifted} shifted: mend"
            )
        if abs(sum(self.donors) - 1) > 1e-9:
            raise InputError(f"donors have shares that add up to {sum(self.donors):g}, not 1: mend them")

    def run(self, path: Path) -> tuple[Run, np.ndarray]:
        """Write the run to the new folder `path`; returns it and the truth, bool [genes]: is this perturbation shifted?"""
        rng = np.random.default_rng(self.seed)
        truth = np.zeros(self.genes, bool)
        truth[rng.choice(self.genes, self.shifted, replace=False)] = True
        abundance = rng.normal(0, self.abundance_sd, self.genes).astype(np.float32)
        donor = rng.permutation(np.repeat(np.arange(len(self.donors)), self._donor_cells()))
        by_donor = rng.normal(0, self.donor_sd, (len(self.donors), self.genes)) if self.donor_sd else None
        (path / SHIFTS).mkdir(parents=True)
        (path / COMMITS).mkdir()
        self._write_names(path)
        shards = 0
        self._manifest(shards).write(path)  # parts are written into a run
        with writing(path / CELLS) as write:
            for first, genes in self._lists(rng, abundance):
                write(
                    (genes + FIRST_TOKEN).ravel().astype(np.int32),
                    np.arange(len(genes) + 1) * self.per_cell,
                    pa.table(
                        {
                            "cell_id": [f"cell{first + i}" for i in range(len(genes))],
                            "donor": [f"donor{d}" for d in donor[first : first + len(genes)]],
                        }
                    ),
                )
                effect = np.where(truth, self.effect, 0.0)[genes]
                effect += self.trend * np.exp(-SLOPE * np.arange(self.per_cell) / self.per_cell)
                effect += rng.normal(0, self.cell_sd, (len(genes), 1)) if self.cell_sd else 0
                if by_donor is not None:
                    effect += by_donor[donor[first : first + len(genes), None], genes]
                self._commit(path, shards, first, genes, effect, rng)
                shards += 1
        if self.affected:
            pq.write_table(
                pa.table(
                    {"token": np.arange(self.genes) + FIRST_TOKEN, "ensembl_id": self._names(), "symbol": self._names()}
                ),
                path / VOCABULARY,
            )
        self._manifest(shards).write(path)
        return Run.open(path), truth

    def _donor_cells(self) -> list[int]:
        edges = np.rint(np.cumsum([0.0, *self.donors]) * self.cells).astype(int)
        return np.diff(edges).tolist()

    def _names(self) -> list[str]:
        return [f"ENSG{i:011d}" for i in range(self.genes)]

    def _write_names(self, path: Path) -> None:
        columns = {
            "perturbation": pa.array(range(self.genes), pa.int32()),
            "kind": ["delete"] * self.genes,
            "gene_ids": self._names(),
            "symbols": self._names(),
            "tokens": pa.array([[i + FIRST_TOKEN] for i in range(self.genes)], pa.list_(pa.int32())),
        }
        pq.write_table(pa.table(columns), path / PERTURBATIONS)
        none = np.empty((0, 0), np.int32)
        pq.write_table(self._rows(0, none, np.empty((0, 0)), np.random.default_rng(0)), part_path(path, EMPTY_PART))
        if self.affected:
            (path / "genes").mkdir()
            pq.write_table(self._gene_rows(0, np.random.default_rng(0)), genes_path(path, EMPTY_PART))

    def _manifest(self, shards: int) -> Manifest:
        noise = NoiseFloor(n=0, median=0.0, p99=0.0, max=0.0)
        return Manifest(
            perturb=PerturbEntry.of({"kind": "delete", "how": "each", "genes": None, "framed": False}),
            embedding="cell",
            quantity="drawn, not measured",
            states={"start": (), "goal": ()},
            route=Route(key="state", start="start", goal="goal"),
            gene_shifts=GenesKept() if self.affected else None,
            noise_floor=dict.fromkeys(("similarity", "shift_start", "shift_goal"), noise),
            shards=shards,
            lists=self.cells * self.per_cell,
            more={"drawn": asdict(self)},
        )

    def _lists(self, rng: np.random.Generator, abundance: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """First cell and genes by falling expression, int [block, per_cell], of blocks of cells."""
        block = max(1, ROWS // self.per_cell)
        for first in range(0, self.cells, block):
            n = min(block, self.cells - first)
            level = abundance - np.log(rng.standard_exponential((n, self.genes), np.float32) + np.float32(1e-30))
            top = np.argpartition(-level, self.per_cell - 1, axis=1)[:, : self.per_cell]
            yield first, np.take_along_axis(top, np.argsort(-np.take_along_axis(level, top, 1), axis=1), 1)

    def _commit(
        self, path: Path, index: int, first: int, genes: np.ndarray, effect: np.ndarray, rng: np.random.Generator
    ) -> None:
        rows = self._rows(first, genes, effect, rng)
        last, lists = first + len(genes), rows.num_rows
        shard = Shard(index=index, first_cell=first, last_cell=last, first_list=0, last_list=lists, lists=lists)
        commit(path, shard, rows, {}, self._gene_rows(self.affected, rng) if self.affected else None)

    def _rows(self, first: int, genes: np.ndarray, effect: np.ndarray, rng: np.random.Generator) -> pa.Table:
        noise = rng.normal(0, self.noise_sd, effect.shape)
        goal = (effect + noise).astype(np.float32).ravel()
        like = (1 - np.abs(effect + rng.normal(0, self.noise_sd, effect.shape))).astype(np.float32).ravel()
        zero = np.zeros(len(goal), np.float32)
        columns = {
            "cell": np.repeat(np.arange(first, first + len(genes), dtype=np.int32), self.per_cell),
            "perturbation": genes.ravel().astype(np.int32),
            "similarity": like,
            "cell_cosine": like,
            "cos_before_start": zero,
            "shift_start": -goal,
            "cos_before_goal": zero,
            "shift_goal": goal,
        }
        return pa.table(columns)

    def _gene_rows(self, rows: int, rng: np.random.Generator) -> pa.Table:
        cosine = 1 - rng.exponential(1e-3, rows)
        columns = {
            "perturbation": rng.integers(0, self.genes, rows, np.int32),
            "affected": rng.integers(0, self.genes, rows, np.int32) + np.int32(FIRST_TOKEN),
            "n": np.ones(rows, np.int32),
            "sum": cosine,
            "square": cosine**2,
            "min": cosine.astype(np.float32),
        }
        return pa.table(columns)
