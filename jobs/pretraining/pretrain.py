"""`rankshift pretrain`: an encoder of a vocabulary, new or from a bundle, trained to name hidden genes, out as a bundle.

It trains in this process or on a gang of workers, and reads token tables, never counts.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rankshift.jobs.pretraining.continuation import check_vocabulary, continued, known_model
from rankshift.jobs.pretraining.objective import MaskedBatches, held_out_loss, masked_loss, new_model, split
from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.unigram import summary, unigram_entropy, unigram_loss
from rankshift.jobs.training import Trainer
from rankshift.jobs.training.alone import alone
from rankshift.jobs.training.checkpoint import STATE
from rankshift.jobs.training.families.plain_model import save_plain
from rankshift.jobs.training.gang import Rank, Report, group
from rankshift.jobs.training.job import Launch, TrainingJob
from rankshift.jobs.training.trainer import METRICS, check_identity
from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.encoder.device import default_device
from rankshift.screen.errors import InputError, Stopped
from rankshift.screen.files.atomic import scratch
from rankshift.screen.genes.token_space import VocabularyOnly

NO_LIMIT = 2**31 - 1
VOCABULARY = "vocabulary.parquet"  # in every bundle


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainJob(TrainingJob):
    """A pretraining. start: the bundle whose weights it goes on from; None: it begins with random ones."""

    cells: Path
    vocabulary: Path
    options: Pretraining
    start: Path | None = None

    def anywhere(self) -> "PretrainJob":
        """The job with absolute paths: workers have working directories of their own."""
        start = None if self.start is None else self.start.resolve()
        cells, vocabulary, out = (path.resolve() for path in (self.cells, self.vocabulary, self.out))
        return replace(self, cells=cells, vocabulary=vocabulary, out=out, start=start)


def pretrain(
    cells: Path | str,
    vocabulary: Path | str | None,
    out: Path | str,
    options: Pretraining | None = None,
    *,
    start: Path | str | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
    launch: Launch | None = None,
) -> Bundle:
    """Pretrain an encoder on a token table and write it, with its vocabulary, as the bundle `out`.

    The losses, in nats per hidden gene, stay in the bundle's config.json under `pretraining`, beside the entropy of the
    genes' frequencies; the curve in its folder `metrics`. Stopped (Ctrl-C), it leaves `<out>.training`, from which `resume`
    goes on to the same weights. launch: runs the training on a gang; None: in this process.
    start: a bundle whose weights, head, shape and vocabulary the model begins with; `vocabulary` may then be None, and another
    one is refused. Its weights are named in config.json as `from_weights_sha256`.
    Raises InputError on what does not fit, before training.
    """
    if vocabulary is None:
        if start is None:
            raise InputError("a new model needs the vocabulary of its cells: give --vocabulary, or --from BUNDLE")
        vocabulary = Path(start) / VOCABULARY
    job = PretrainJob(
        cells=Path(cells),
        vocabulary=Path(vocabulary),
        out=Path(out),
        options=options or Pretraining(),
        start=None if start is None else Path(start),
    )
    job.check_place(resume)
    data = _Data.read(job)
    done = check_identity(job.unfinished, data.identity) if (job.unfinished / STATE).exists() else 0
    for note in data.table.notes:
        say(note)
    say(f"{len(data.train):,} cells to train on, {len(data.judged):,} held out")
    if done:
        say(f"going on after step {done}")
    total = job.options.epochs * len(data.train)
    try:
        if launch is None:
            with alone("cells", total) as report:
                losses, _ = _train(Rank(), job, data, report)
        else:
            del data  # the workers read their own
            losses = launch(train, job.anywhere(), total)
    except (Stopped, KeyboardInterrupt):
        say(f"stopped: {job.unfinished} keeps the training for --resume")
        raise
    say(summary(losses))
    bundle = Bundle.open(job.out)
    say(f"{job.out}: weights {bundle.weights_sha256[:12]}")
    return bundle


def train(rank: Rank, job: PretrainJob, report: Report) -> dict[str, Any]:
    """Train as one rank of a gang; rank 0 writes the bundle. Returns the losses (see `summary`), bundle and weights."""
    losses, model = _train(rank, job, _Data.read(job), report)
    return {**losses, "bundle": str(job.out), "weights": model.state_dict()}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    """The cells of a job, split, and what is known of them before training. start: the opened bundle that it goes on from."""

    draft: VocabularyOnly
    options: Pretraining  # those of the job, with the shape of `start`
    start: Bundle | None
    table: Cells
    train: np.ndarray  # rows
    judged: np.ndarray  # rows that are held out
    unigram: dict[str, float]
    identity: dict[str, Any]  # what makes this training: one with another identity must not go on from its state

    @staticmethod
    def read(job: PretrainJob) -> "_Data":
        start = None if job.start is None else Bundle.open(job.start)
        options = job.options if start is None else continued(job.options, start)
        draft = VocabularyOnly.open(job.vocabulary, options.positions or NO_LIMIT)
        if start is not None:
            check_vocabulary(draft.vocabulary, start)
        table = Cells.read(job.cells, draft)
        train, judged = split(len(table), options)
        known = table.take(train).ids
        unigram = {
            "unigram_entropy": unigram_entropy(known, draft.vocabulary),
            "held_out_unigram": unigram_loss(known, table.take(judged).ids, draft.vocabulary),
        }
        identity = {
            **{name: value for name, value in asdict(options).items() if name not in _FREE},
            "cells_sha256": hashlib.sha256(table.ids.tobytes() + table.offsets.tobytes()).hexdigest(),
            "tokens_sha256": draft.vocabulary.tokens_sha256,
            **({} if start is None else {"from_weights_sha256": start.weights_sha256}),
        }
        return _Data(
            draft=draft,
            options=options,
            start=start,
            table=table,
            train=train,
            judged=judged,
            unigram=unigram,
            identity=identity,
        )

    def model(self) -> PreTrainedModel:
        """The model that the first step finds, on the CPU; seed torch before."""
        if self.start is not None:
            return known_model(self.start, self.options)
        places = self.options.positions or int(self.table.lengths.max())
        return new_model(self.options, self.draft.vocabulary, self.table.take(self.train).ids, places)


_FREE = ("accumulate", "judge_every", "log_every", "save_every")  # may be others when a training goes on


def _train(rank: Rank, job: PretrainJob, data: _Data, report: Report) -> tuple[dict[str, Any], PreTrainedModel]:
    options, vocabulary, table = data.options, data.draft.vocabulary, data.table
    device = torch.device(default_device())
    with torch.random.fork_rng([]):
        torch.manual_seed(options.seed)
        model = data.model().to(device)
    with group(rank, device, report.stopped) as collective:
        trainer = Trainer(
            model=model,
            loss=masked_loss,
            source=MaskedBatches(table, data.train, vocabulary, options, device, collective),
            recipe=options,
            collective=collective,
            report=report,
            folder=job.unfinished,
            identity=data.identity,
            evaluate=lambda: {
                "held_out_loss": held_out_loss(model, table, data.judged, vocabulary, options, collective)
            },
            evaluated=("held_out_loss",),
        )
        losses = {"loss": float("nan"), **trainer.fit()}
        losses = {**losses, "loss": float(trainer.recent), **data.unigram}
        if collective.first:
            facts = {"steps": trainer.step, "train_cells": len(data.train), **data.identity}
            model.config.pretraining = {**losses, **facts}
            _write(model, job, data.start)
    return losses, model


def _write(model: PreTrainedModel, job: PretrainJob, start: Bundle | None) -> None:
    """Write the bundle, with the curve of its training, in place of the unfinished training.

    Of a bundle it went on from the vocabulary stays, with its medians and symbols, and the aliases.
    """
    out = job.out
    vocabulary, aliases = (job.vocabulary, {}) if start is None else (start.path / VOCABULARY, start.aliases)
    with scratch(out) as checkpoint:
        save_plain(model, checkpoint)
        known = checkpoint / "aliases.json"
        known.write_text(json.dumps(aliases))
        make_bundle(checkpoint, vocabulary, out, aliases=known if aliases else None)
    (job.unfinished / METRICS).rename(out / METRICS)
    shutil.rmtree(job.unfinished)
