"""A screen from the command line or a driver: prepare, give the shards to this process or to Ray workers, say how it went."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from rankshift.jobs.executor.registry import executor
from rankshift.jobs.executor.shard_work import fan_out
from rankshift.jobs.show.progress import progress
from rankshift.screen import notebook
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.cost import EFFICIENCY, memory_bytes, product_rate
from rankshift.screen.encoder.encoder import default_device
from rankshift.screen.engine.prepare import Options, prepare
from rankshift.screen.engine.screener import Screener, finish, missing
from rankshift.screen.families.operators import DTYPES
from rankshift.screen.files.object_store import fetched
from rankshift.screen.runs.run import Run
from rankshift.screen.tokenizer.source import CellSource

Say = Callable[[str], None]


def screen(
    cells: CellSource,
    bundle: Path | str,
    out: Path | str,
    *,
    perturb: str,
    workers: int | None = None,
    resume: bool = False,
    say: Say = print,
    **options: Any,
) -> notebook.Run:
    """`rankshift.screen.run` on Ray workers: the same arguments, and `workers` (0: this process, None: what there is).

    >>> screen("cells.parquet", "bundle", "run", perturb="delete", workers=8)  # doctest: +SKIP
    """
    asked = Options(perturb=perturb, **options)
    return notebook.Run.of(run_screen(cells, bundle, out, asked, workers=workers, resume=resume, say=say))


def run_screen(
    cells: CellSource,
    bundle: Path | str,
    out: Path | str,
    options: Options,
    *,
    workers: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    say: Say = print,
) -> Run:
    """Screen a token table and return the run. workers: Ray workers; 0: this process; None: what the machine has.

    With `dry_run` the cost is said and nothing is written. Stopped or crashed, it goes on with `resume`.
    """
    opened = Bundle.open(fetched(bundle))
    run = prepare(cells, opened, out, options, resume=resume, say=say, dry=dry_run)
    if dry_run:
        _say_cost(opened, run, say)
        return run
    screener = Screener.open(run.place, opened)
    left = list(missing(screener))
    rows = run.manifest.lists or 0
    already = rows - sum(shard.lists for shard in left)
    began = perf_counter()
    if left or run.manifest.noise_floor is None:
        what = f"screen {Path(out).name}"
        with progress("perturbations", rows, already) as done, executor(workers, what=what, say=say) as there:
            fan_out(screener, bundle, there, done)
    run = finish(screener, opened)
    took = perf_counter() - began
    fresh = rows - already
    again = f", {already:,} were there" if already else ""
    rate = fresh / max(took, 1e-9)
    say(f"{fresh:,} perturbations of {len(screener.cells)} cells in {took:.1f} s ({rate:.1f}/s){again}")
    for column, floor in (run.manifest.noise_floor or {}).items():
        say(
            f"noise floor of {column}: median {floor.median:.1e}, p99 {floor.p99:.1e}, max {floor.max:.1e} "
            f"over {floor.n} lists, beside a spread of {floor.spread:.1e}"
        )
    ask = "SELECT symbols, avg(similarity) AS s FROM shifts GROUP BY ALL ORDER BY s LIMIT 10"
    say(f'next: rankshift query {out} "{ask}"')
    return run


def _say_cost(bundle: Bundle, run: Run, say: Say) -> None:
    m = run.screened
    lists, layers = run.manifest.lists or 0, m.layers
    flops = m.flops or 0.0
    device = default_device()
    rate = product_rate(device, DTYPES.get(m.dtype, DTYPES["bfloat16"]))
    memory = memory_bytes(bundle.sizes, m.token_budget, m.longest or 0)
    say(f"cells             {m.cells.count:,}")
    say(f"encoder passes    {lists:,} perturbed + {m.cells.count:,} original, {layers} layers each")
    say(f"shards            {run.manifest.shards:,}")
    say(f"operations        {flops:.3g} FLOP")
    say(f"memory            about {memory / 2**30:.1f} GiB a worker")
    seconds = flops / (rate * EFFICIENCY)
    say(f"time              about {duration(seconds)} on one worker (measured product rate {rate / 1e9:.0f} GFLOP/s)")


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use.

    >>> duration(42), duration(4200), duration(420000)
    ('42 s', '1.2 h', '4.9 d')
    """
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
