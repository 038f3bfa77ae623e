"""A screen from the command line or a driver: prepare, give the shards to this process or to Ray workers, say how it went."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from rankshift.jobs.executor.executor import Executor
from rankshift.jobs.executor.registry import executor
from rankshift.jobs.executor.shard_work import fan_out
from rankshift.jobs.verbs.adaptive import Workers
from rankshift.screen import notebook
from rankshift.screen.adaptive.allocation import PREDICTION, STRATA
from rankshift.screen.adaptive.driving import asked_for_more, compute_adaptive, compute_rest
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.cost import EFFICIENCY, kept_bytes, memory_bytes, product_rate
from rankshift.screen.encoder.device import KEPT_BYTES, Device
from rankshift.screen.engine.decide import Decision, Request, decide, shard_tokens
from rankshift.screen.engine.noise import TRIAL_LISTS
from rankshift.screen.engine.options import Adaptive, Options
from rankshift.screen.engine.prepare import count, prepare
from rankshift.screen.engine.screener import Screener, finish, missing
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.families.operators import DELTA, DTYPES
from rankshift.screen.files.object_store import everywhere, fetched, url_of
from rankshift.screen.progress import progress
from rankshift.screen.runs.markers import notes
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.writing import tidied
from rankshift.screen.tokenizer.source import CellSource

Say = Callable[[str], None]


def screen(
    cells: CellSource,
    bundle: Path | str,
    out: Path | str,
    *,
    perturb: str,
    genes: str | Sequence[str] = "all",
    how: str = "each",
    embedding: str = "auto",
    layer: int = -1,
    states: Path | None = None,
    state_key: str | None = None,
    start: str | None = None,
    goal: str | None = None,
    alt: Sequence[str] = (),
    where: str | None = None,
    max_cells: int | None = None,
    dtype: str = "auto",
    token_budget: int | None = None,
    shard_tokens: int | None = None,
    reference_overflow: bool = False,
    refill: bool = False,
    anchor: str | None = None,
    rank_shift: int | None = None,
    to: float | None = None,
    gene_shifts: bool = False,
    by: str | None = None,
    per_cell: bool = False,
    gene_column: str | None = None,
    counts_layer: str | None = None,
    background: int | None = None,
    top: int | None = None,
    bottom: bool = False,
    absolute: bool = False,
    rank_by: str | None = None,
    confidence: float | None = None,
    seed: int | None = None,
    min_cells: int | None = None,
    strata: str | None = None,
    fdr: float | None = None,
    budget: int | None = None,
    continue_full: bool = False,
    workers: int | None = None,
    resume: bool = False,
    say: Say = print,
) -> notebook.Run:
    """`rankshift.screen.run` on Ray workers: the same arguments, and `workers` (0: this process, None: what there is).

    >>> screen("cells.parquet", "bundle", "run", perturb="delete", workers=8)  # doctest: +SKIP
    """
    given = dict(locals())
    made = run_screen(
        cells,
        bundle,
        out,
        Options.of(given),
        workers=workers,
        resume=resume,
        adaptive=Adaptive.asked(given),
        budget=budget,
        continue_full=continue_full,
        say=say,
    )
    return notebook.Run.of(made)


def run_screen(
    cells: CellSource,
    bundle: Path | str,
    out: Path | str,
    options: Options,
    *,
    workers: int | None = None,
    resume: bool = False,
    adaptive: Adaptive | None = None,
    budget: int | None = None,
    continue_full: bool = False,
    say: Say = print,
) -> Run:
    """Screen a token table and return the run. workers: Ray workers; 0: this process; None: what the machine has.
    adaptive: measure only what finds the strongest genes; budget: passes of that at most. continue_full: with `resume`, measure
    all that an adaptive screen has not.

    What depends on a device is decided where the workers are. Stopped or crashed, it goes on with `resume`.
    """
    opened = Bundle.open(fetched(bundle))
    with executor(workers, what=f"screen {Path(redacted(out)).name}", say=say) as there:

        def decide_there(request: Request) -> Decision:
            """The decision of a worker, which finds the bundle where the driver was told it is."""
            return there.call(decide, replace(request, bundle=everywhere(bundle)))

        run = prepare(
            cells,
            opened,
            out,
            options,
            adaptive=adaptive,
            continues=continue_full,
            resume=resume,
            say=say,
            decide=decide_there,
        )
        top = None if adaptive is None else adaptive.top
        with tidied(run.path):
            return _compute(run, opened, bundle, there, str(out), say, budget, top, continue_full)


def resume_screen(
    run: Path | str,
    bundle: Path | str | None = None,
    *,
    workers: int | None = None,
    top: int | None = None,
    budget: int | None = None,
    continue_full: bool = False,
    say: Say = print,
) -> Run:
    """Go on with a screen from what its folder holds: cells, perturbations and what was decided; without it being asked again.

    bundle: where the run's is now, by default where it was. Raises InputError where it is not, or is another. top, budget: of
    an adaptive screen, more than was asked before; continue_full: measure all that it has not.
    """
    found = Run.open(run)
    if continue_full and (top is not None or budget is not None):
        raise InputError("--continue-full measures all rows: leave out --top and --budget")
    if found.manifest.adaptive is None and (top is not None or budget is not None or continue_full):
        raise InputError(f"{found.path} is no adaptive screen: leave out --top, --budget and --continue-full")
    used = found.screened.bundle
    place = used.path if bundle is None else bundle
    if bundle is None and not Path(place).exists():
        raise InputError(f"the bundle of {found.path} is no longer at {place}: say where it is with --bundle")
    opened = Bundle.open(fetched(place))
    opened.check(used.weights_sha256)
    with executor(workers, what=f"screen {Path(redacted(run)).name}", say=say) as there, tidied(found.path):
        return _compute(found, opened, place, there, str(run), say, budget, top, continue_full)


def _compute(
    run: Run,
    opened: Bundle,
    bundle: Path | str,
    there: Executor,
    out: str,
    say: Say,
    budget: int | None,
    top: int | None,
    continue_full: bool,
) -> Run:
    """Compute what is missing of a prepared run, and say how it went. out: the run as the user wrote it."""
    screener = Screener.open(run.place, opened)
    hands = Workers(bundle, there)
    if run.manifest.adaptive is not None:
        screener = asked_for_more(screener, top, continue_full)
    rows = run.manifest.lists or 0
    began = perf_counter()
    if run.manifest.adaptive is None:
        left = list(missing(screener))
        already = rows - sum(shard.lists for shard in left)
        if left or run.manifest.noise_floor is None:
            with progress("perturbations", rows, already) as done:
                fan_out(screener, bundle, there, done, say)
    elif screener.run.partial:
        return compute_adaptive(screener, hands, out, say, budget)
    else:
        already = rows - compute_rest(screener, hands)
    run = finish(screener, opened)
    took = perf_counter() - began
    fresh = rows - already
    again = f", {already:,} were there" if already else ""
    rate = fresh / max(took, 1e-9)
    say(f"{fresh:,} perturbations of {len(screener.cells)} cells in {took:.1f} s ({rate:.1f}/s){again}")
    for note in notes(run.committed.values()):
        say(note)
    for column, floor in (run.manifest.noise_floor or {}).items():
        if floor.max == 0:  # float32 in the same batches: the same sums once more, and no measure of noise
            say(
                f"{column}: {floor.n} lists computed again in float32 are the same, beside a spread of {floor.spread:.1e}"
            )
            continue
        say(
            f"noise floor of {column}: median {floor.median:.1e}, p99 {floor.p99:.1e}, max {floor.max:.1e} "
            f"over {floor.n} lists, beside a spread of {floor.spread:.1e}"
        )
    ask = "SELECT symbols, avg(similarity) AS s FROM shifts GROUP BY ALL ORDER BY s LIMIT 10"
    say(f'next: rankshift query {shlex.quote(redacted(url_of(out) or out))} "{ask}"')
    return run


def say_cost(
    cells: CellSource, bundle: Path | str, options: Options, say: Say = print, adaptive: Adaptive | None = None
) -> None:
    """Say what a screen would cost on this machine's device, and what only its start decides. Nothing is embedded."""
    selected = count(cells, Bundle.open(fetched(bundle)), options, adaptive=adaptive, say=say)
    asked, chosen, device = selected.asked, selected.cells, Device.here()
    dtype = options.dtype
    if dtype == "auto":
        dtype = device.dtype or ("float32" if selected.lists < TRIAL_LISTS else "auto")
    rows = options.shard_tokens or shard_tokens(
        asked.bundle, asked.layers, selected.extent, options.gene_shifts, device
    )
    budget, delta = options.token_budget or device.token_budget, dtype.endswith(DELTA)
    # Nothing is promised of products on differences: what they win over float32 hangs on the processor (docs/precision.md).
    rate = product_rate(device.kind, DTYPES.get("float32" if delta else dtype, DTYPES["bfloat16"]))
    memory = memory_bytes(asked.bundle.sizes, budget, selected.longest)
    if delta:
        held = max(budget, selected.longest) * kept_bytes(asked.bundle.sizes, asked.layers)
        memory += min(KEPT_BYTES[device.kind], held)
    seconds = selected.flops / (rate * EFFICIENCY)
    say(f"cells             {len(chosen):,}")
    say(f"encoder passes    {selected.lists:,} perturbed + {len(chosen):,} original, {asked.layers} layers each")
    say(f"shards            {len(selected.shards(rows)):,}")
    say(f"operations        {selected.flops:.3g} FLOP")
    say(f"memory            about {memory / 2**30:.1f} GiB a worker")
    say(f"time              about {duration(seconds)} on one worker (measured product rate {rate / 1e9:.0f} GFLOP/s)")
    if dtype == "auto":
        say("dtype auto: decided when the run starts")
    if adaptive is not None:
        pilot = (1 + STRATA + PREDICTION) * len(chosen)
        full = selected.lists + len(chosen)
        say(
            f"with --top        predictions and pilot {pilot:,} passes ({pilot / full:.1%} of them); all in all 5 to 30 %"
        )


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use.

    >>> duration(42), duration(4200), duration(420000)
    ('42 s', '1.2 h', '4.9 d')
    """
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
