"""Preparing a screen: ask, select, count, decide, write. Everything is checked and written down before anything is computed.

It refuses, in one line, whatever does not fit together, and leaves a run folder that is whole or none.
"""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.ask import Say, ask
from rankshift.screen.engine.decide import Decision, Request, decide
from rankshift.screen.engine.noise import Sample, told
from rankshift.screen.engine.options import Adaptive, Options
from rankshift.screen.engine.selection import Selected, check_top, select_cells
from rankshift.screen.engine.shifts import Measure
from rankshift.screen.engine.write import adaptive_of, write_run
from rankshift.screen.errors import InputError
from rankshift.screen.files.object_store import Mirror, everywhere
from rankshift.screen.runs.manifest import AdaptiveAsked
from rankshift.screen.runs.run import Run
from rankshift.screen.tokenizer.source import CellSource

Decide = Callable[[Request], Decision]
ADAPTIVE = [f.name for f in fields(AdaptiveAsked) if f.name not in ("earlier", "continued")]  # what a user asks
DERIVED = {"column": "the ranking by", "highest": "the highest first"}  # of --rank-by, --goal and --bottom


def silent(line: str) -> None:
    """Say nothing."""


def prepare(
    cells: CellSource,
    bundle: Bundle,
    out: Path | str,
    options: Options,
    *,
    adaptive: Adaptive | None = None,
    continues: bool = False,
    resume: bool = False,
    say: Say = silent,
    decide: Decide = decide,
) -> Run:
    """Check everything and write the run folder, whole or not at all; with `resume`, hold it against the one there.

    cells: a token table, several, or folders of them; cells in memory; or an AnnData, which is tokenized here.
    out: a path, or the URL of a folder in an object store. decide: answers the request where the workers are; what a run
    decided is read when it is resumed, never decided again. continues: what is resumed may be an adaptive screen, although
    none is asked. Raises InputError on whatever does not fit.
    """
    if continues and (adaptive is not None or not resume):
        raise InputError("--continue-full goes on from a run to the full screen: add --resume, leave out --top")
    exists = _exists(out)
    if exists and not resume:
        raise InputError(f"run folder {_shown(out)} exists: continue it with --resume, or give another --out")
    selected = count(cells, bundle, options, adaptive=adaptive, say=say)
    if exists:
        return _same(Run.open(out), selected, adaptive, continues)
    decision = decide(_request(selected))
    if (line := told(decision.dtype, decision.dtype_choice)) is not None:
        say(line)
    return write_run(out, selected, decision, adaptive)


def count(
    cells: CellSource, bundle: Bundle, options: Options, *, adaptive: Adaptive | None = None, say: Say = silent
) -> Selected:
    """What a screen would come to: all that can be said before a device is asked. Nothing is embedded or written."""
    if adaptive is not None:
        adaptive.check(options)
    selected = select_cells(ask(cells, bundle, options, say), say)
    if adaptive is not None:
        check_top(selected, adaptive)
    return selected


def _exists(out: Path | str) -> bool:
    mirror = Mirror.of(out)
    return Path(out).exists() if mirror is None else bool(mirror.objects())


def _shown(out: Path | str) -> str:
    mirror = Mirror.of(out)
    return f"{Path(out)}" if mirror is None else mirror.shown


def _request(selected: Selected) -> Request:
    """What is to be decided for a screen, with the cells that it takes."""
    asked, options = selected.asked, selected.asked.options
    measure = Measure(level=asked.level, layers=asked.layers, states=None, tokens=1)
    return Request(
        bundle=everywhere(asked.bundle.path),
        sample=Sample.draw(selected.cells, selected.counts, asked.perturb, measure),
        states=asked.states,
        state_cells=selected.state_cells,
        state_labels=selected.state_labels,
        extent=selected.extent,
        gene_shifts=options.gene_shifts,
        dtype=options.dtype,
        token_budget=options.token_budget,
        shard_tokens=options.shard_tokens,
    )


def _same(run: Run, selected: Selected, adaptive: Adaptive | None, continues: bool) -> Run:
    """The run there, if the same was asked of it. What it decided by itself is not asked again."""
    asked, options = selected.asked, selected.asked.options
    kept = {"by": options.by, "per_cell": options.per_cell} if options.gene_shifts else None
    route = None if options.route is None else [options.state_key, *options.route]
    now: dict[str, Any] = {
        "perturb": json.loads(json.dumps(asked.perturb.record)),
        "embedding": asked.level,
        "layer": options.layer,
        "gene_shifts": kept,
        "route": route,
        "cells": selected.digest,
        "bundle": asked.bundle.weights_sha256,
    }
    then = {name: run.manifest.get(name) for name in now}
    wanted, recorded = adaptive_of(options, adaptive), run.manifest.adaptive
    if wanted is not None or not (continues or (recorded is not None and recorded.continued)):
        for field in ADAPTIVE:
            option = DERIVED.get(field, f"--{field.replace('_', '-')}")
            now[option], then[option] = getattr(wanted, field, None), getattr(recorded, field, None)
        if wanted is not None and recorded is not None and wanted.top > recorded.top:  # it goes on for more genes
            del now["--top"]
    then |= {"cells": run.screened.cells.sha256, "bundle": run.screened.bundle.weights_sha256}
    if options.states is not None or options.route is None:
        now["states"], then["states"] = dict(asked.states), run.manifest["states"]
    if options.dtype != "auto":
        now["dtype"], then["dtype"] = options.dtype, run.screened.dtype
    for name in ("token_budget", "shard_tokens"):
        if getattr(options, name) is not None:
            now[name], then[name] = getattr(options, name), getattr(run.screened, name)
    for name in now:
        if now[name] != then[name]:
            texts = (_short(json.dumps(x)) for x in (then[name], now[name]))
            raise InputError(
                "{} was prepared with {} {}, asked is {}: give another --out".format(run.path, name, *texts)
            )
    return run


def _short(text: str) -> str:
    return text if len(text) < 80 else text[:77] + "…"
