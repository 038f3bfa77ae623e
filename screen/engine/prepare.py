"""Preparing a screen: everything is checked and written down before anything is computed.

It refuses, in one line, whatever does not fit together, and leaves a run folder that is whole or none.
"""

import json
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.bundle.gene_lists import panels_of, resolve_genes
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.expression import state_scores
from rankshift.screen.cells.select import SEED, select
from rankshift.screen.embed.cell_embeddings import check_level, embed
from rankshift.screen.embed.states import check_route, read_states, summarise
from rankshift.screen.encoder.cost import list_flops
from rankshift.screen.encoder.encoder import Encoder, default_device
from rankshift.screen.engine.gene_shifts import gene_table
from rankshift.screen.engine.noise import Sample, choose_dtype
from rankshift.screen.engine.shift_rows import Shifts
from rankshift.screen.engine.shifts import Measure
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import measured_layers
from rankshift.screen.families.operators import PRECISIONS
from rankshift.screen.files.atomic import sync
from rankshift.screen.files.object_store import Mirror
from rankshift.screen.files.versions import versions
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import Perturb, eligible
from rankshift.screen.runs.layout import (
    CELLS,
    COMMITS,
    EMPTY_PART,
    EXPRESSION,
    GENES,
    MANIFEST,
    PERTURBATIONS,
    SHIFTS,
    VOCABULARY,
    genes_path,
    part_path,
)
from rankshift.screen.runs.manifest import (
    BundleUsed,
    CellsScreened,
    GenesKept,
    Manifest,
    PerturbEntry,
    Route,
    Screened,
)
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.shards import plan
from rankshift.screen.tokenizer.source import CellSource, cells_of, name_of

TOKEN_BUDGET = {"cpu": 65_536, "cuda": 131_072}  # rows of a batch: 64 MB of float32 at 256 dims on a CPU
SHARD_FLOPS = {"cpu": 2e12, "cuda": 5e14}  # ten seconds or so: little is lost with a worker, and markers stay few
SHARD_LISTS = 64  # at least, where one cell is cut into shards: its original is computed in each of them
SHARD_GENES = 8_000_000  # rows of gene shifts before they are added up: some 700 MB
STATE_CELLS = 1000  # cells per state embedding at most, as the published code's default (PS 3.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asks of a screen; the fields are the options of `rankshift screen`.

    genes: "all", or Ensembl ids or symbols, or files of them (module `gene_lists`). states: a states.json. token_budget: rows
    of a batch, None for the device's default. `start` selects cells whose `state_key` equals it; without `states` the state
    vectors are computed here.
    """

    perturb: str
    genes: str | Sequence[str] = "all"
    how: str = "each"
    embedding: str = "auto"
    layer: int = -1
    states: Path | None = None
    state_key: str | None = None
    start: str | None = None
    goal: str | None = None
    alt: Sequence[str] = ()
    where: str | None = None
    max_cells: int | None = None
    dtype: str = "auto"
    token_budget: int | None = None
    shard_tokens: int | None = None
    reference_overflow: bool = False
    refill: bool = False
    anchor: str | None = None
    rank_shift: int | None = None
    to: float | None = None
    gene_shifts: bool = False
    by: str | None = None
    per_cell: bool = False

    def __post_init__(self) -> None:
        if (self.by is not None or self.per_cell) and not self.gene_shifts:
            raise InputError("--by and --per-cell say how gene shifts are kept: add --gene-shifts")
        for name in ("max_cells", "token_budget", "shard_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, at least 1 is needed: give a positive number")
        if self.dtype not in ("auto", *PRECISIONS):
            raise InputError(f"dtype {self.dtype!r} is unknown: use one of auto, {', '.join(PRECISIONS)}")
        route = (self.state_key, self.start, self.goal)
        if any(x is None for x in route) and any(x is not None for x in (*route, *self.alt)):
            raise InputError("--state-key, --start and --goal belong together: give all three")
        if self.start is not None and self.goal is not None:
            check_route(self.start, self.goal, self.alt)


def _dtype(options: Options, device: str, there: Run | None) -> str | None:
    """The dtype asked for; of auto, float16 on a GPU, that of the run there, or None where a trial must decide."""
    if options.dtype != "auto":
        return options.dtype
    if there is not None:
        return there.screened.dtype
    return {"cuda": "float16"}.get(device)


def prepare(
    cells: CellSource,
    bundle: Bundle,
    out: Path | str,
    options: Options,
    *,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
    dry: bool = False,
) -> Run:
    """Check everything and write the run folder, whole or not at all; with `resume`, hold it against the one there.

    cells: a token table, several, or folders of them; cells in memory; or an AnnData, which is tokenized here.
    out: a path, or the URL of a folder in an object store (module `remote`).
    Raises InputError on whatever does not fit, before anything is computed but state vectors. `dry`: write nothing.
    """
    bundle.family.check_config(bundle.config)
    layers = measured_layers(bundle.config, options.layer)
    genes, unknown = resolve_genes(options.genes, bundle)
    if unknown:
        say(f"{len(unknown)} genes are not in the vocabulary and are left out: {', '.join(unknown[:10])}")
    mirror = Mirror.of(out)
    out = Path(out) if mirror is None else mirror.local
    exists = out.exists() if mirror is None else bool(mirror.objects())
    if exists and not resume and not dry:
        where = out if mirror is None else mirror.url
        raise InputError(f"run folder {where} exists: continue it with --resume, or give another --out")
    panels = panels_of(options.genes)
    if panels and options.how != "each":
        raise InputError(
            f"{len(panels)} panels are screened gene by gene, --how {options.how} joins genes: give one file at a time"
        )
    table = cells_of(cells, bundle, below=options.refill)
    for note in table.notes:
        say(note)
    level = ("cls" if table.frame.head else "cell") if options.embedding == "auto" else options.embedding
    check_level(level, table.frame)
    perturb = asked(
        options.perturb,
        how=options.how,
        genes=genes,
        frame=table.frame,
        limit=bundle.input_size,
        anchor=None if options.anchor is None else resolve_genes([options.anchor], bundle)[0][0],  # type: ignore[index]
        rank_shift=options.rank_shift,
        to=options.to,
        reference_overflow=options.reference_overflow,
        refill=options.refill,
    )
    if options.by is not None and options.by not in table.obs.column_names:
        raise InputError(f"--by {options.by!r} is not a column: the columns are {', '.join(table.obs.column_names)}")
    rows = select(
        table,
        where=options.where,
        state_key=options.state_key,
        start=options.start,
        contains=perturb.required or None,
        max_cells=options.max_cells,
    )
    chosen = _with_below(table.take(rows), perturb, name_of(cells), say)
    counts = eligible(chosen.ids, chosen.offsets, perturb)
    idle = int((counts == 0).sum())
    if idle and counts.sum():
        say(f"{idle} of {len(chosen)} cells have nothing to {perturb.kind.name} and get no row")
    if not counts.sum():
        raise InputError(
            f"none of the {len(chosen)} cells has a gene to {perturb.kind.name}: choose other genes or cells"
        )
    device = default_device()
    budget = options.token_budget or TOKEN_BUDGET[device]
    shard_tokens = options.shard_tokens or _shard_tokens(bundle, layers, chosen, device, options.gene_shifts)
    there = Run.open(out if mirror is None else mirror.url) if exists and not dry else None
    states = _states(table, bundle, options, level, layers, budget)
    vectors = np.array(list(states.values()), np.float32) if states else None
    measure = Measure(level=level, layers=layers, states=vectors, tokens=budget)
    choice: dict[str, Any] = {}
    dtype = _dtype(options, device, there)
    if dtype is None:
        dtype, choice = choose_dtype(Sample.draw(chosen, perturb, measure), bundle)
        if "spread" in choice:
            say(
                "dtype {}: bfloat16 has noise {bfloat16_noise:.1e} beside a spread of {spread:.1e}".format(
                    dtype, **choice
                )
            )
    route = None
    if options.state_key is not None and options.start is not None and options.goal is not None:
        route = Route(key=options.state_key, start=options.start, goal=options.goal, alternatives=tuple(options.alt))
    manifest = Manifest(
        perturb=PerturbEntry.of(json.loads(json.dumps(perturb.record))),
        embedding=level,
        quantity=_quantity(level),
        gene_shifts=GenesKept(by=options.by, per_cell=options.per_cell) if options.gene_shifts else None,
        states={name: [float(x) for x in vector] for name, vector in states.items()},
        route=route,
        shards=len(list(plan(counts, chosen.lengths, shard_tokens))),
        lists=int(counts.sum()),
        screened=Screened(
            cells=CellsScreened(count=len(chosen), sha256=_digest(chosen), path=name_of(cells), where=options.where),
            bundle=BundleUsed(
                path=str(bundle.path.resolve()),
                generation=bundle.generation,
                vocab_size=bundle.vocabulary.size,
                weights_sha256=bundle.weights_sha256,
                vocabulary_sha256=bundle.vocabulary_sha256,
            ),
            layer=options.layer,
            layers=layers,
            token_budget=budget,
            shard_tokens=shard_tokens,
            dtype=dtype,
            seed=SEED,
            longest=int(chosen.lengths.max()),
            flops=float((list_flops(bundle.sizes, layers, chosen.lengths) * (counts + 1)).sum()),
            id=uuid.uuid4().hex,
            dtype_choice=choice,
            command=" ".join(sys.argv),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            unknown_genes=tuple(unknown),
        ),
    )
    over = int((chosen.lengths < bundle.input_size).sum()) if perturb.reference_overflow else 0
    if over:
        say(
            f"--reference-overflow: originals among {over} cells below the input limit may be cut as the published code does"
        )
    if dry:
        return Run(out, manifest)
    if there is not None:
        return _same(there, manifest)
    expression = None
    if route is not None:
        way = {"state_key": route.key, "start": route.start, "goal": route.goal}
        expression = state_scores(table, bundle.vocabulary.size, where=options.where, **way)
    if mirror is not None:
        mirror.drop()
    perturbations = _perturbations(chosen, bundle, perturb, panels)
    _write(out, manifest, chosen, bundle, perturbations, list(states), expression)
    if mirror is None:
        return Run.open(out)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    mirror.push(name for name in files if name != MANIFEST)
    mirror.push([MANIFEST])  # last: it makes a run of what is there
    return Run.open(mirror.url)


def _with_below(cells: Cells, perturb: Perturb, path: str, say: Callable[[str], None]) -> Cells:
    """The cells with the genes that may move up into their lists, and no more of them than a perturbation deletes."""
    if not perturb.refill:
        return cells
    if cells.below is None:
        raise InputError(
            f"--refill needs the genes below the input limit, {path} has none: tokenize again with --keep-uncropped"
        )
    below = cells.below.first(perturb.most)
    say(f"{int((below.counts > 0).sum())} of {len(cells)} cells refill from below the input limit")
    return replace(cells, below=below)


def _quantity(level: str) -> str:
    if level == "cls":
        return "similarity is the cosine of the <cls> embedding before and after"
    return "similarity is the mean cosine of the aligned genes that were not perturbed"


def _states(
    cells: Cells, bundle: Bundle, options: Options, level: str, layers: int, tokens: int
) -> dict[str, np.ndarray]:
    width = bundle.config["hidden_size"]
    route = None
    if options.start is not None and options.goal is not None:
        route = [options.start, options.goal, *options.alt]
    if options.states is not None:
        return read_states(options.states, width, route)
    if route is None:
        return {}
    assert options.state_key is not None
    rows = [
        select(cells, where=options.where, state_key=options.state_key, start=state, max_cells=STATE_CELLS)
        for state in route
    ]
    encoder = Encoder(bundle, device=default_device(), dtype="float32")
    some = cells.take(np.concatenate(rows))
    vectors = embed(some, encoder, level=level, layer_count=layers, tokens=tokens)
    labels = np.repeat(route, [len(r) for r in rows]).tolist()
    return summarise(vectors, labels)


def _shard_tokens(bundle: Bundle, layers: int, cells: Cells, device: str, gene_shifts: bool) -> int:
    mean = np.array([cells.lengths.mean()])
    per_row = float(list_flops(bundle.sizes, max(layers, 1), mean)[0] / mean[0])
    most = SHARD_GENES if gene_shifts else np.inf  # a row of a list is a row of gene shifts
    return int(max(min(SHARD_FLOPS[device] / per_row, most), SHARD_LISTS * int(cells.lengths.max())))


def _digest(cells: Cells) -> str:
    import hashlib

    digest = hashlib.sha256(cells.ids.tobytes())
    digest.update(cells.offsets.tobytes())
    if cells.below is not None:
        digest.update(cells.below.ids.tobytes())
    digest.update(json.dumps(cells.obs.column("cell_id").to_pylist()).encode())
    return digest.hexdigest()


MADE = ("id", "dtype_choice", "command", "date", "versions", "unknown_genes")  # what no two screens share


def _same(run: Run, manifest: Manifest) -> Run:
    """The run there, if it was prepared for the same screen."""
    for key, value in manifest.items():
        if key in MADE:
            continue
        found = run.manifest.get(key)
        if key == "cells":
            value, found = value["sha256"], (found or {}).get("sha256")
        elif key == "bundle":
            value, found = value["weights_sha256"], (found or {}).get("weights_sha256")
        if found != value:
            short = [json.dumps(x) for x in (found, value)]
            then, now = (s if len(s) < 80 else s[:77] + "…" for s in short)
            raise InputError(f"{run.path} was prepared with {key} {then}, asked is {now}: give another --out")
    return run


def _write(
    out: Path,
    manifest: Manifest,
    cells: Cells,
    bundle: Bundle,
    perturbations: pa.Table,
    states: list[str],
    expression: pa.Table | None,
) -> None:
    making = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        (making / SHIFTS).mkdir(parents=True)
        (making / COMMITS).mkdir()
        cells.write(making / CELLS, bundle.vocabulary)
        pq.write_table(perturbations, making / PERTURBATIONS)
        if expression is not None:
            pq.write_table(expression, making / EXPRESSION)
        none = Shifts.none(len(states), manifest.perturb.how == "pairs")
        number = np.empty(0, np.int32)
        pq.write_table(none.table(states, number), part_path(making, EMPTY_PART))
        if manifest.gene_shifts is not None:
            (making / GENES).mkdir()
            pq.write_table(gene_table(none, number, cells, manifest.gene_shifts), genes_path(making, EMPTY_PART))
            bundle.vocabulary.write(making / VOCABULARY)
        (making / MANIFEST).write_text(manifest.text())
        for path in (making / MANIFEST, making / SHIFTS, making):
            sync(path)
        making.rename(out)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _perturbations(cells: Cells, bundle: Bundle, perturb: Perturb, panels: Mapping[str, Sequence[str]]) -> pa.Table:
    if perturb.genes is not None:
        groups = perturb.groups
    else:
        genes = [int(t) for t in np.unique(cells.ids) if bundle.vocabulary.is_gene[t]]
        groups = [perturb.group_of(t) for t in genes if t != perturb.anchor]
    gene, symbol = bundle.vocabulary.gene_of, bundle.vocabulary.symbol_of
    table = pa.table(
        {
            "perturbation": pa.array(range(len(groups)), pa.int32()),
            "kind": pa.array([perturb.kind.name] * len(groups)),
            "gene_ids": pa.array(["+".join(gene[t] for t in g) for g in groups]),
            "symbols": pa.array(["+".join(symbol[t] or gene[t] for t in g) for g in groups]),
            "tokens": pa.array(groups, pa.list_(pa.int32())),
        }
    )
    if not panels:
        return table
    members = {name: {bundle.vocabulary.token_of(g) for g in genes} for name, genes in panels.items()}
    of_group = [[name for name, tokens in members.items() if g[0] in tokens] for g in groups]
    return table.append_column("panels", pa.array(of_group, pa.list_(pa.string())))
