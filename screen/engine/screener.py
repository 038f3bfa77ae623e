"""Computing a prepared screen: its shards, one by one, by whoever asks for them, and its noise floor.

`Screener` computes shards of a run in this process or in a worker; `run` prepares and computes all of them here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import CellTable, blocks
from rankshift.screen.cells.stored import StoredCells
from rankshift.screen.encoder.device import computed_by, default_device
from rankshift.screen.encoder.encoder import Encoder, one_thread
from rankshift.screen.engine.ask import Say
from rankshift.screen.engine.gene_shifts import gene_table
from rankshift.screen.engine.noise import Sample, noise_floor
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare, silent
from rankshift.screen.engine.shift_rows import Shifts
from rankshift.screen.engine.shifts import Done, Measure, shifts_of
from rankshift.screen.files.object_store import fetched
from rankshift.screen.perturb.asked import recorded
from rankshift.screen.perturb.perturbation import Perturb, eligible
from rankshift.screen.runs.begun import Begun, begun
from rankshift.screen.runs.layout import CELLS, LISTS, PERTURBATIONS, PLAN
from rankshift.screen.runs.manifest import NoiseFloor
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.shards import Shard, Shards, commit, plan, read_counts
from rankshift.screen.runs.sums import FILES, check_run, mend
from rankshift.screen.runs.writing import tidied
from rankshift.screen.tokenizer.source import CellSource

Watch = Callable[[str, int, int], AbstractContextManager[Done]]


@dataclass(frozen=True, kw_only=True)
class Screener:
    """A prepared run: hands out shards, and computes them from the cells it reads of each. One per process."""

    run: Run
    cells: CellTable
    perturb: Perturb

    @staticmethod
    def open(place: Path | str, bundle: Bundle, *, whole: bool = True) -> "Screener":
        """Open the run at a path or URL for computing. whole: hold the file of the cells against its sum, which reads it.

        Who computes some shards holds what it reads against the checksums of its pages. In an object store nobody reads all.
        """
        run = Run.open(place)
        files = run.manifest.more.get(FILES)
        source = None if run.mirror is None else run.mirror.opened(CELLS)
        if isinstance(files, dict) and (source is not None or not whole):
            files = {name: found for name, found in files.items() if name != CELLS}
        check_run(run.path, files, {})
        perturb = recorded(run.manifest.perturb.entries)
        cells = StoredCells.open(run.path / CELLS, bundle, perturb.frame, below=perturb.refill, source=source)
        return Screener(run=run, cells=cells, perturb=perturb)

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [cells]: perturbed lists of every cell; runs of before they were recorded have them counted."""
        if (self.run.path / LISTS).is_file():
            return read_counts(self.run.path / LISTS)
        return np.concatenate([eligible(some.ids, some.offsets, self.perturb) for some in blocks(self.cells)])

    @cached_property
    def shards(self) -> Shards:
        """All shards of the run, in order; the same on every machine."""
        if (self.run.path / PLAN).is_file():
            return Shards.read(self.run.path / PLAN)
        return Shards.of(plan(self.counts, self.cells.lengths, self.run.screened.shard_tokens))

    @cached_property
    def measure(self) -> Measure:
        """What the run measures."""
        manifest, screened = self.run.manifest, self.run.screened
        return Measure(
            level=str(manifest.embedding),
            layers=screened.layers,
            states=np.array(list(manifest.states.values()), np.float32) if manifest.states else None,
            tokens=screened.token_budget,
            genes=manifest.gene_shifts is not None,
        )

    @cached_property
    def perturbation_of(self) -> np.ndarray:
        """The run's number of a perturbation: by token [V] where all genes are screened, else the number itself."""
        table = pq.read_table(self.run.path / PERTURBATIONS, columns=["perturbation", "tokens"])
        if self.perturb.genes is not None:
            return np.arange(table.num_rows, dtype=np.int32)
        out = np.zeros(self.run.screened.bundle.vocab_size, np.int32)
        out[[tokens[-1] for tokens in table["tokens"].to_pylist()]] = table["perturbation"].to_numpy()
        return out

    def shifts(
        self,
        shard: Shard,
        encoder: Encoder,
        done: Done = lambda n: None,
        lists: Mapping[int, np.ndarray] | None = None,
        kept: Begun | None = None,
    ) -> Shifts:
        """Compute the shifts of a shard; with `lists` of these cells, and of each these of its lists. kept: as `shifts_of`."""
        if lists is not None:
            numbers = np.array(sorted(lists), np.int64)
            one = (self.cells, numbers, encoder, self.perturb, self.measure, lists, done)
            return shifts_of(*one, apart=True, begun=kept)
        some = {}
        if shard.last_cell - shard.first_cell == 1:
            some[shard.first_cell] = slice(shard.first_list, shard.last_list)
        numbers = np.arange(shard.first_cell, shard.last_cell)
        return shifts_of(self.cells, numbers, encoder, self.perturb, self.measure, some, done, begun=kept)

    def noise_floor(self, bundle: Bundle) -> dict[str, NoiseFloor]:
        """Recompute a sample of the finished run in float32 and compare (module `noise`)."""
        sample = Sample.draw(self.cells, self.counts, self.perturb, self.measure)
        return noise_floor(sample, self.run, bundle, default_device(), self.perturbation_of)

    def compute(
        self, shard: Shard, encoder: Encoder, done: Done = lambda n: None, lists: Mapping[int, np.ndarray] | None = None
    ) -> int:
        """Compute a shard and commit it; returns its rows. lists: as in `shifts`."""
        by = computed_by(encoder.device)
        with begun(self.run.path, shard.name, by) as kept:
            began = perf_counter()
            with one_thread():
                shifts = self.shifts(shard, encoder, done, lists, kept)
            if len(shifts.cell) != shard.lists:
                raise RuntimeError(f"{shard.name} has {len(shifts.cell)} rows, planned were {shard.lists}")
            encoded = perf_counter()
            table = shifts.table(self.run.states, self.perturbation_of)
            genes = gene_table(shifts, self.perturbation_of, self.cells, self.run.manifest.gene_shifts)
            record = {
                "encode_seconds": round(encoded - began, 4),
                **by,
                "batch_rows": np.unique(shifts.batch_rows).tolist(),
                "wider_rows": int(shifts.wider.sum()),
            }
            self.run.share(*commit(self.run.path, shard, table, record, genes))
        return table.num_rows


def run(
    cells: CellSource,
    bundle: Path | str,
    out: Path | str,
    *,
    perturb: str,
    resume: bool = False,
    done: Done = lambda n: None,
    say: Say = silent,
    watch: Watch | None = None,
    **options: Any,
) -> Run:
    """Screen cells in this process, without Ray, and return the run. `options`: the fields of `Options`.

    cells: a token table, several or folders of them, `Cells` in memory, or an AnnData of raw counts. done: told how many
    perturbations were computed, as they come; or `watch`, which makes one of a title, the number of all and of those there.

    >>> run("cells.parquet", "bundle", "run", perturb="delete").sql("SELECT count(*) FROM shifts")  # doctest: +SKIP
    """
    opened = Bundle.open(fetched(bundle))
    prepared = prepare(cells, opened, out, Options(perturb=perturb, **options), resume=resume, say=say)
    with tidied(prepared.path):
        return compute_all(prepared, opened, done, watch)


def compute_all(prepared: Run, bundle: Bundle, done: Done, watch: Watch | None) -> Run:
    """Compute what is missing of a full screen in this process."""
    encoder = load_encoder(prepared, bundle)
    screener = Screener.open(prepared.place, bundle)
    left = list(missing(screener))
    rows = prepared.manifest.lists or 0
    already = rows - sum(shard.lists for shard in left)
    with nullcontext(done) if watch is None else watch("perturbations", rows, already) as step:
        for shard in left:
            screener.compute(shard, encoder, step)
    return finish(screener, bundle)


def finish(screener: Screener, bundle: Bundle) -> Run:
    """The run with its noise floor in the manifest, measured here unless it is there already."""
    run = Run.open(screener.run.place)
    return run if run.manifest.noise_floor is not None else run.record(noise_floor=screener.noise_floor(bundle))


def missing(screener: Screener) -> Iterator[Shard]:
    """Shards of a run that are not committed yet, and those that are no longer as they were committed."""
    if screener.run.mirror is None:
        mend(screener.run.path)
    there = screener.run.done
    return (shard for shard in screener.shards if shard.name not in there)


def load_encoder(run: Run, bundle: Bundle, device: str | None = None) -> Encoder:
    """The encoder a run asks for, after checking that the bundle is the one the run was prepared with."""
    bundle.check(run.screened.bundle.weights_sha256)
    return Encoder(bundle, device=device or default_device(), dtype=run.screened.dtype)
