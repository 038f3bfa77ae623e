"""Writing the folder of a run to be computed: manifest, cells, perturbations, parts without rows. Whole or not at all."""

import json
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.cells.cells import write
from rankshift.screen.cells.expression import state_scores
from rankshift.screen.cells.select import SEED
from rankshift.screen.engine.decide import Decision
from rankshift.screen.engine.gene_shifts import gene_table
from rankshift.screen.engine.options import Adaptive, Options, config_text
from rankshift.screen.engine.selection import Selected
from rankshift.screen.engine.shift_rows import Shifts
from rankshift.screen.errors import redacted
from rankshift.screen.files.atomic import replacing, sync
from rankshift.screen.files.object_store import Mirror
from rankshift.screen.files.versions import versions
from rankshift.screen.runs.layout import (
    CELLS,
    COMMITS,
    CONFIG,
    EMPTY_PART,
    EXPRESSION,
    GENES,
    LISTS,
    MANIFEST,
    PERTURBATIONS,
    PLAN,
    ROUNDS,
    SHIFTS,
    SIMILARITY,
    VOCABULARY,
    genes_path,
    part_path,
)
from rankshift.screen.runs.manifest import (
    AdaptiveAsked,
    BundleUsed,
    CellsScreened,
    GenesKept,
    Manifest,
    PerturbEntry,
    Route,
    Screened,
)
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.shards import Shards, write_counts
from rankshift.screen.runs.sums import FILES, sums_of

GROUP = 1024  # cells of a row group: what a worker reads at a time, 8 MB of tokens at 2,048 a cell


def write_run(place: Path | str, selected: Selected, decision: Decision, adaptive: Adaptive | None = None) -> Run:
    """The run folder at a path or a URL, which must not be there yet."""
    mirror = Mirror.of(place)
    out = Path(place) if mirror is None else mirror.local
    if mirror is not None:
        mirror.drop()
    shards = selected.shards(decision.shard_tokens)
    manifest = manifest_of(selected, decision, len(shards), adaptive)
    asked = selected.asked
    config = config_text(asked.places, asked.source, asked.bundle.path, asked.options, adaptive)
    _write(out, selected, manifest, shards, config)
    if mirror is None:
        return Run.open(out)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    mirror.push(name for name in files if name != MANIFEST)
    mirror.push([MANIFEST])  # written last, because a folder with a manifest is a run
    return Run.open(mirror.url)


def manifest_of(selected: Selected, decision: Decision, shards: int, adaptive: Adaptive | None = None) -> Manifest:
    """What was asked, chosen and decided, as run.json records it."""
    asked, cells = selected.asked, selected.cells
    options, bundle = asked.options, asked.bundle
    return Manifest(
        adaptive=adaptive_of(options, adaptive),
        perturb=PerturbEntry.of(json.loads(json.dumps(asked.perturb.record))),
        embedding=asked.level,
        quantity=_quantity(asked.level),
        gene_shifts=GenesKept(by=options.by, per_cell=options.per_cell) if options.gene_shifts else None,
        states=decision.states,
        route=_route(selected),
        shards=shards,
        lists=selected.lists,
        screened=Screened(
            cells=CellsScreened(count=len(cells), sha256=selected.digest, path=asked.source, where=options.where),
            bundle=BundleUsed(
                path=str(bundle.path.resolve()),
                generation=bundle.generation,
                vocab_size=bundle.vocabulary.size,
                weights_sha256=bundle.weights_sha256,
                vocabulary_sha256=bundle.vocabulary_sha256,
            ),
            layer=options.layer,
            layers=asked.layers,
            token_budget=decision.token_budget,
            shard_tokens=decision.shard_tokens,
            dtype=decision.dtype,
            seed=SEED,
            longest=selected.longest,
            flops=selected.flops,
            id=uuid.uuid4().hex,
            dtype_choice=decision.dtype_choice,
            command=redacted(" ".join(sys.argv)),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            unknown_genes=asked.unknown,
        ),
    )


def _route(selected: Selected) -> Route | None:
    options = selected.asked.options
    if options.state_key is None or options.start is None or options.goal is None:
        return None
    return Route(key=options.state_key, start=options.start, goal=options.goal, alternatives=tuple(options.alt))


def adaptive_of(options: Options, adaptive: Adaptive | None) -> AdaptiveAsked | None:
    """What an adaptive screen records of what was asked: the strongest shift is the highest, the strongest similarity low."""
    if adaptive is None:
        return None
    column = adaptive.column(options)
    return AdaptiveAsked(
        top=adaptive.top,
        column=column,
        highest=(column != SIMILARITY) != adaptive.bottom,
        absolute=adaptive.absolute,
        confidence=adaptive.confidence,
        seed=adaptive.seed,
        min_cells=adaptive.min_cells,
        strata=adaptive.strata,
        fdr=adaptive.fdr,
    )


def _quantity(level: str) -> str:
    if level == "cls":
        return "similarity is the cosine of the <cls> embedding before and after"
    return "similarity is the mean cosine of the aligned genes that were not perturbed"


def _write(out: Path, selected: Selected, manifest: Manifest, shards: Shards, config: str) -> None:
    asked, cells, vocabulary = selected.asked, selected.cells, selected.asked.bundle.vocabulary
    states, route = list(manifest.states), manifest.route
    with replacing(out) as making:
        (making / SHIFTS).mkdir(parents=True)
        (making / COMMITS).mkdir()
        if manifest.adaptive is not None:
            (making / ROUNDS).mkdir()
        else:
            shards.write(making / PLAN)
        write(cells, making / CELLS, vocabulary, GROUP, sealed=False)  # the manifest has its sum
        write_counts(making / LISTS, selected.counts)
        pq.write_table(_perturbations(selected), making / PERTURBATIONS)
        if route is not None:
            way = {"state_key": route.key, "start": route.start, "goal": route.goal}
            expression = state_scores(asked.table, vocabulary.size, where=asked.options.where, **way)
            if expression is not None:
                pq.write_table(expression, making / EXPRESSION)
        none = Shifts.none(len(states), manifest.perturb.how == "pairs")
        number = np.empty(0, np.int32)
        pq.write_table(none.table(states, number), part_path(making, EMPTY_PART))
        if manifest.gene_shifts is not None:
            (making / GENES).mkdir()
            pq.write_table(gene_table(none, number, cells, manifest.gene_shifts), genes_path(making, EMPTY_PART))
            vocabulary.write(making / VOCABULARY)
        files = sorted(path.relative_to(making).as_posix() for path in making.rglob("*.parquet"))
        manifest = manifest.replace(more={**manifest.more, FILES: sums_of(making, files)})
        (making / CONFIG).write_text(config, encoding="utf-8")
        (making / MANIFEST).write_text(manifest.text())
        for path in (making / MANIFEST, making / SHIFTS):
            sync(path)


def _perturbations(selected: Selected) -> pa.Table:
    """The table of perturbations with their names and the panels their genes are in."""
    asked = selected.asked
    bundle, perturb, panels = asked.bundle, asked.perturb, asked.panels
    if perturb.genes is not None:
        groups = perturb.groups
    else:
        genes = [int(t) for t in np.flatnonzero(selected.present) if bundle.vocabulary.is_gene[t]]
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
    members = {name: {bundle.token_of(g) for g in genes} for name, genes in panels.items()}
    of_group = [[name for name, tokens in members.items() if g[0] in tokens] for g in groups]
    return table.append_column("panels", pa.array(of_group, pa.list_(pa.string())))
