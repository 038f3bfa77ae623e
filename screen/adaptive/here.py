"""Screens computed in this process, without Ray: the full ones of module `screener`, and the adaptive ones."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from rankshift.screen.adaptive.driving import asked_for_more, compute_adaptive, compute_rest
from rankshift.screen.adaptive.plans import Plan
from rankshift.screen.adaptive.rows_of_run import predict_part, unpredicted
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.device import default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.options import Adaptive, Options
from rankshift.screen.engine.prepare import prepare, silent
from rankshift.screen.engine.screener import Screener, Watch, compute_all, finish
from rankshift.screen.engine.shifts import Done
from rankshift.screen.files.object_store import fetched
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.writing import tidied
from rankshift.screen.tokenizer.source import CellSource


class Here:
    """Hands of this process. done, watch: as for `screener.run`."""

    def __init__(self, bundle: Bundle, done: Done, watch: Watch | None) -> None:
        self._bundle, self._done, self._watch = bundle, done, watch
        self._encoders: dict[str, Encoder] = {}

    def _encoder(self, dtype: str) -> Encoder:
        if dtype not in self._encoders:
            self._encoders[dtype] = Encoder(self._bundle, device=default_device(), dtype=dtype)
        return self._encoders[dtype]

    def predict(self, screener: Screener) -> None:
        """Write the predictions that the run lacks; they are no perturbations, so `done` is not told of them."""
        left = unpredicted(screener)
        rows = screener.run.manifest.lists or 0
        if left:
            with nullcontext(lambda n: None) if self._watch is None else self._watch("predictions", rows, 0) as step:
                for part in left:
                    step(predict_part(screener, part, self._encoder("float32")))

    def measure(self, screener: Screener, plans: list[Plan]) -> int:
        """Commit the shards of rounds that the run lacks; returns how many rows they have."""
        there = screener.run.done
        left = [(plan, shard) for plan in plans for shard in plan.shards if shard.name not in there]
        rows, fresh = sum(len(plan.cell) for plan in plans), sum(shard.lists for _, shard in left)
        if left:
            encoder = self._encoder(screener.run.screened.dtype)
            watch = self._watch
            with nullcontext(self._done) if watch is None else watch("perturbations", rows, rows - fresh) as step:
                for plan, shard in left:
                    screener.compute(shard, encoder, step, plan.lists_of(shard))
        return fresh

    def floor(self, screener: Screener) -> None:
        """Record the noise floor of a run that has all rows."""
        finish(screener, self._bundle)


def run_here(
    cells: CellSource,
    bundle: Path | str,
    out: Path | str,
    options: Options,
    *,
    adaptive: Adaptive | None = None,
    budget: int | None = None,
    continue_full: bool = False,
    resume: bool = False,
    done: Done = lambda n: None,
    say: Callable[[str], None] = silent,
    watch: Watch | None = None,
) -> Run:
    """Screen cells in this process and return the run; the arguments are those of `screener.run` and of adaptive screens."""
    opened = Bundle.open(fetched(bundle))
    prepared = prepare(cells, opened, out, options, adaptive=adaptive, continues=continue_full, resume=resume, say=say)
    with tidied(prepared.path):
        if prepared.manifest.adaptive is None:
            return compute_all(prepared, opened, done, watch)
        opened.check(prepared.screened.bundle.weights_sha256)
        screener = asked_for_more(
            Screener.open(prepared.place, opened), None if adaptive is None else adaptive.top, continue_full
        )
        hands = Here(opened, done, watch)
        if screener.run.partial:
            return compute_adaptive(screener, hands, str(out), say, budget)
        compute_rest(screener, hands)
        return Run.open(prepared.place)
