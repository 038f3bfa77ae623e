"""`rankshift demo`: the whole way on 271 real cells that come with the package, by the functions behind the other verbs.

It shows the tool at work. What its tiny encoder says about single genes is not evidence of anything.
"""

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter

from rankshift.jobs.executor.registry import launcher
from rankshift.jobs.finetuning.finetune import finetune
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.pool.cluster import one_pool
from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.pretrain import pretrain
from rankshift.jobs.pretraining.unigram import summary
from rankshift.jobs.show.claim import claim
from rankshift.jobs.show.shift_plot import plot_shifts
from rankshift.jobs.show.steps import Steps
from rankshift.jobs.verbs.embed import embed
from rankshift.jobs.verbs.query import query
from rankshift.jobs.verbs.screen import run_screen
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.states import read_states
from rankshift.screen.engine.options import Options
from rankshift.screen.errors import InputError
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.genes.vocabulary import Vocabulary
from rankshift.screen.report import write_report
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.options import StatOptions
from rankshift.screen.tokenizer.tokenize import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

MYOBLASTS = Path(__file__).parents[1] / "myoblasts" / "hsmm.h5ad"
PAPER = "Trapnell et al., Nature Biotechnology 2014, 32:381-386, GSE52529"
SOURCE = "data: Bioconductor HSMMSingleCell (Debian r-bioc-hsmmsinglecell), Artistic License 2.0"
CAVEAT = "A tiny encoder, trained on these 271 cells alone: this shows the tool at work, not biology."
KEY, START, GOAL = "hours", "0", "72"
KINDS = ("delete", "overexpress")
FEWEST_CELLS = 10  # of 3 cells no gene was left for the plot
LEAST_CELLS = 3  # a gene in fewer cells is left out of the table and the plot

TINY = Pretraining(
    layers=2,
    width=128,
    heads=2,
    inner=256,
    epochs=5,
    dropout=0.0,  # five passes are too few to overfit, and attention is faster without it
    hidden_share=0.4,  # few cells: every pass must teach more than at the published 0.15
    initializer=0.07,  # at the published 0.02 a model this narrow spends the minute on growing its weights
    batch_tokens=1024,  # two cells: many small steps teach more in a minute than few large ones
    learning_rate=1.5e-3,
    warmup=0.1,
    held_out=0.1,
)
TUNED = "finetuned"  # the folders of what the fine-tuned encoder says
TUNING = Finetuning(
    task="cell",
    label=(KEY,),
    where=f"{KEY} IN ('{START}', '{GOAL}')",
    epochs=4,
    learning_rate=5e-4,  # ten times the published one, because the encoder is a hundredth of the published size
    batch_tokens=4096,
    test=0.2,
)
TOP = f"""SELECT symbols AS gene, count(*) AS cells, avg(shift_{GOAL}) AS mean_shift,
       stddev_samp(shift_{GOAL}) / sqrt(count(*)) AS error
FROM shifts GROUP BY gene_ids, symbols HAVING count(*) >= {LEAST_CELLS} ORDER BY mean_shift - error DESC LIMIT 10"""

Say = Callable[[str], None]


def demo(
    out: Path | str = Path("demo"),
    *,
    workers: int = 2,
    max_cells: int = 30,
    input_size: int = 512,
    epochs: int = TINY.epochs,
    say: Say = print,
) -> None:
    """Pretrain an encoder on the myoblasts and fine-tune it, screen 0 h cells for genes that move them towards 72 h, ask, plot.

    Everything is in the folder `out`; steps whose result is complete are skipped, so a stopped demo goes on. workers: in the
    pool that trains and screens, 0 for none. max_cells: cells to screen. input_size: genes of a cell. epochs: of pretraining.
    """
    if max_cells < FEWEST_CELLS:
        raise InputError(
            f"--max-cells {max_cells}: hardly a gene is in {LEAST_CELLS} of so few cells, give at least {FEWEST_CELLS}"
        )
    out, began = Path(out), perf_counter()
    training = replace(TINY, epochs=epochs)
    claim(out, {"input_size": input_size, "max_cells": max_cells, "training": asdict(training)})
    vocabulary, cells, bundle, states, plot, page = (
        out / name
        for name in ("vocabulary.parquet", "cells.parquet", "bundle", "states.json", "shifts.png", "report.html")
    )
    tuned, tuned_states = out / TUNED / "bundle", out / TUNED / "states.json"
    runs = [out / kind for kind in KINDS]
    screens = [(kind, run, bundle, states) for kind, run in zip(KINDS, runs, strict=True)]
    screens.append((KINDS[1], out / TUNED / KINDS[1], tuned, tuned_states))
    step = Steps(say, 11, again="the same command")
    say(f"271 human skeletal muscle myoblasts, {START} to {GOAL} hours into differentiation ({PAPER}; {SOURCE}).")
    say(CAVEAT)

    step(
        "tokens and medians of the genes",
        vocabulary,
        check=lambda: Vocabulary.read(vocabulary),
        make=lambda: step.tell(build_vocabulary(MYOBLASTS, vocabulary)),
    )
    draft = VocabularyOnly.open(vocabulary, input_size)
    step(
        f"rank lists: the top {input_size} genes of every cell",
        cells,
        check=lambda: Cells.read(cells, draft),
        make=lambda: step.tell(tokenize(MYOBLASTS, draft, cells, keep=[KEY, "media"])),
    )
    left = not (bundle.exists() and tuned.exists() and all(_screened(run) for _, run, _, _ in screens))
    with one_pool(workers) if workers and left else nullcontext():
        launch = launcher(workers, say=step.tell)
        step(
            f"pretraining: {training.layers} layers of {training.width}, every cell seen {epochs} times",
            bundle,
            check=lambda: _pretrained(bundle, step.tell),
            make=lambda: pretrain(cells, vocabulary, bundle, training, resume=True, say=step.tell, launch=launch),
        )
        step(
            f"fine-tuning: {START} h against {GOAL} h",
            tuned,
            check=lambda: Bundle.open(tuned).verify(),
            make=lambda: finetune(cells, bundle, tuned, TUNING, resume=True, say=step.tell, launch=launch),
        )
        for model, vectors in ((bundle, states), (tuned, tuned_states)):
            step(
                f"state vectors: the mean embedding of the cells of each time, by {model}",
                vectors,
                check=partial(read_states, vectors, training.width, [START, GOAL]),
                make=partial(embed, cells, model, vectors, by=KEY, say=step.tell),
            )
        for kind, run, model, vectors in screens:
            options = Options(perturb=kind, states=vectors, state_key=KEY, start=START, goal=GOAL, max_cells=max_cells)
            step(
                f"screen by {model}: {kind} every gene of {max_cells} cells of {START} h, measure the shift towards {GOAL} h",
                _screened(run),
                make=partial(run_screen, cells, model, run, options, workers=workers, resume=True, say=step.tell),
            )
    step(
        "plot",
        plot,
        make=lambda: plot_shifts(
            [Run.open(run) for run in runs], GOAL, plot, least_cells=LEAST_CELLS, note=f"{PAPER}. {CAVEAT}"
        ),
    )
    last = screens[-1][1]
    step(
        f"report of {last}",
        page,
        make=lambda: write_report(
            Run.open(last), page, judging=StatOptions(min_cells=LEAST_CELLS), bundle=tuned, cells=cells, say=step.tell
        ),
    )
    for run in (*runs, last):
        say(f'\n$ rankshift query {shlex.quote(str(run))} "{TOP}"')
        query(run, TOP, say=say)
    _say_next(out, say)
    say(
        f"\nall done in {perf_counter() - began:.0f} s; the plot is {plot}. Open {page} in a browser, or look at all runs:"
    )
    named = {"deleted": runs[0], "overexpressed": runs[1], "finetuned": last}
    say("  rankshift explore " + shlex.join(f"{name}={run}" for name, run in named.items()))


def _pretrained(bundle: Path, tell: Say) -> None:
    opened = Bundle.open(bundle)
    opened.verify()
    tell(summary(opened.config["pretraining"]))


def _screened(run: Path) -> bool:
    """Is the run complete, its noise floor measured?"""
    if not run.exists():
        return False
    opened = Run.open(run)
    return opened.complete and opened.manifest.noise_floor is not None


def _say_next(out: Path, say: Say) -> None:
    here = shlex.quote(str(out))
    route = f"--states {here}/states.json --state-key {KEY} --start {START} --goal {GOAL}"
    say(f"""
To go on, with the results as Parquet under {out}/{KINDS[0]} and {out}/{KINDS[1]}:
  rankshift report {here}/delete --min-cells 5 --out {here}/delete.html
  rankshift stats {here}/delete --min-cells 5
  rankshift query {here}/delete "SELECT cell_id, symbols, similarity FROM shifts ORDER BY similarity LIMIT 5"
  rankshift query {here}/overexpress "SELECT * FROM shifts" --format parquet --out shifts.parquet
  rankshift screen {here}/cells.parquet --bundle {here}/bundle --out {here}/together --perturb overexpress \\
      --genes MYOD1,MYOG,MEF2C --how together {route}
  rankshift screen {here}/cells.parquet --bundle {here}/bundle --out {here}/all --perturb delete {route} --dry-run
  rankshift screen --help""")
