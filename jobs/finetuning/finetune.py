"""`rankshift finetune`: a pretrained encoder learns labels of cells or genes, and stays a bundle.

It trains in this process or on a gang of workers. What it writes opens in plain transformers, and screens like the
bundle it came from.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from rankshift.jobs.finetuning import tuning
from rankshift.jobs.finetuning.evaluation import report as evaluation
from rankshift.jobs.finetuning.evaluation.predictions import predict
from rankshift.jobs.finetuning.fit import learn, stage
from rankshift.jobs.finetuning.labels.splits import Fold
from rankshift.jobs.finetuning.models import Classifier, label_slices, reading
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.finetuning.preparation import FinetuneJob, Prepared, prepare
from rankshift.jobs.finetuning.tuning import TRIALS, check_trials
from rankshift.jobs.pool.cluster import connected
from rankshift.jobs.training.alone import alone
from rankshift.jobs.training.families.family import trained_family
from rankshift.jobs.training.families.plain_model import save_plain
from rankshift.jobs.training.gang import Collective, Rank, Report, group
from rankshift.jobs.training.job import Launch
from rankshift.jobs.training.trainer import METRICS
from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.encoder.device import default_device
from rankshift.screen.errors import InputError, Stopped
from rankshift.screen.files.atomic import replacing, scratch
from rankshift.screen.files.json_file import read_json
from rankshift.screen.progress import progress

LOGITS = "logits.npy"  # lies in the folder of a stage that is done


def finetune(
    cells: Path | str,
    bundle: Path | str,
    out: Path | str,
    options: Finetuning,
    *,
    trials: int | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
    launch: Launch | None = None,
) -> Bundle:
    """Fine-tune the encoder of `bundle` on labels and write the bundle `out`, with its folder `evaluation`.

    How the logits are read stays in its config.json under `finetuning`. Stopped (Ctrl-C), it leaves `<out>.training`,
    from which `resume` goes on. trials: of a search for settings on Ray that comes first. launch: runs the training on a
    gang; None: in this process.
    Raises InputError on what does not fit, before training.
    """
    if options.genes is not None:
        options = replace(options, genes=options.genes.absolute())
    paths = {
        "cells": Path(cells),
        "bundle": Path(bundle),
        "out": Path(out),
    }  # workers are in other folders than the user
    job = FinetuneJob(**{name: path.absolute() for name, path in paths.items()}, options=options)
    if trials is not None:
        check_trials(trials)
    job.check_place(resume)
    prepared = prepare(job, inner=trials is not None)
    tell(prepared, say)
    _claim(prepared, trials)
    try:
        if trials is not None:
            prepared = prepare(_tuned(job, trials, say))
            job = prepared.job
        if launch is None:
            with alone("cells", prepared.work()) as report:
                metrics, _ = _train(Rank(), prepared, report)
        else:
            metrics = launch(train, job, prepared.work())
    except (Stopped, KeyboardInterrupt):
        say(f"stopped: {job.unfinished} keeps the training for --resume")
        raise
    for line in evaluation.summary(metrics):
        say(line)
    made = Bundle.open(job.out)
    say(f"{job.out}: weights {made.weights_sha256[:12]}, {made.config['finetuning']['reading']}")
    return made


def train(rank: Rank, job: FinetuneJob, report: Report) -> dict[str, Any]:
    """Fine-tune as one rank of a gang; rank 0 writes the bundle.

    Returns what metrics.json holds (see `evaluation.report`), with the bundle's path and the model's weights.
    """
    metrics, model = _train(rank, prepare(job), report)
    return {**metrics, "bundle": str(job.out), "weights": model.cpu().state_dict()}


def tell(prepared: Prepared, say: Callable[[str], None]) -> None:
    """One line that says what will be learnt, from what, and how it is judged."""
    for note in prepared.notes:
        say(note)
    for task, values in zip(prepared.head.tasks, prepared.truths(np.arange(len(prepared.labels.values))), strict=True):
        if task.classes:
            count = np.bincount(values[values >= 0], minlength=len(task.classes))
            what = ", ".join(f"{name} ({n})" for name, n in zip(task.classes, count, strict=True))
            say(f"{task.name}: {len(task.classes)} classes: {what}")
        else:
            say(f"{task.name}: numbers from {values.min():g} to {values.max():g}")
    splits, units = prepared.splits, "genes" if prepared.pool is None else "cells"
    folds = f", {len(splits.folds)} folds of the former" if splits.folds else ""
    say(f"{len(splits.final.train):,} {units} to learn from, {len(splits.final.judged):,} held out{folds}")


def _train(rank: Rank, prepared: Prepared, report: Report) -> tuple[dict[str, Any], Classifier]:
    """All stages, one after the other: the folds of the cross-validation, then the model that is kept."""
    device = torch.device(default_device())
    logits: dict[str, np.ndarray] = {}
    with group(rank, device, report.stopped) as collective:
        for fold in prepared.splits.folds:
            logits[fold.name] = _fold_logits(prepared, fold, device, collective, report)
        final = prepared.splits.final
        model = learn(prepared, final, device, collective, report)
        if len(final.judged):
            logits[final.name] = predict(model, prepared.eval_set(final), prepared.job.options.batch_tokens, collective)
    return {} if rank.number else _write(prepared, model, logits), model


def _fold_logits(
    prepared: Prepared, fold: Fold, device: torch.device, collective: Collective, report: Report
) -> np.ndarray:
    """Logits of a fold's model on its judged units; kept on disk, so that a fold that is done is not done again."""
    done = prepared.job.unfinished / stage(fold) / LOGITS
    if collective.any(done.exists()):
        if collective.first:
            report(round(prepared.job.options.passes * len(prepared.train_set(fold).rows)))
        return np.asarray(np.load(done))
    model = learn(prepared, fold, device, collective, report)
    found = predict(model, prepared.eval_set(fold), prepared.job.options.batch_tokens, collective)
    if collective.first:
        with replacing(done) as temporary, temporary.open("wb") as file:
            np.save(file, found)
    return found


def _tuned(job: FinetuneJob, trials: int, say: Callable[[str], None]) -> FinetuneJob:
    """The job with the settings that a search found best; one that is done is not done again."""
    table = job.unfinished / tuning.TRIALS
    if not table.exists():
        with connected(trials if torch.cuda.is_available() else 1), progress("trials", trials) as done:
            found = tuning.search(job, trials, job.unfinished / "search", done)
        with replacing(table) as temporary:
            pq.write_table(found, temporary, compression="zstd")
        shutil.rmtree(job.unfinished / "search")
    best = pq.read_table(table).to_pylist()[0]
    settings = {name: value for name, value in best.items() if name not in tuning.RECORDED}
    say(f"best of {trials} trials: score {best['score']:.3f} with {', '.join(f'{k} {v}' for k, v in settings.items())}")
    return tuning.tuned(job, settings)


def _claim(prepared: Prepared, trials: int | None) -> None:
    """Say in the folder of the unfinished training which one it is; another one must not go on there."""
    folder = prepared.job.unfinished
    record, identity = folder / "identity.json", {**prepared.identity, "trials": trials}
    if not record.exists():
        with replacing(record) as temporary:
            temporary.write_text(json.dumps(identity))
    elif read_json(record, f"remove {folder} and train again") != identity:
        raise InputError(f"{folder} is a training of other cells, labels or options: give those again, or remove it")


def _write(prepared: Prepared, model: Classifier, logits: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write the bundle with its evaluation, whole or not at all, in place of the unfinished training."""
    job, options = prepared.job, prepared.job.options
    judged = evaluation.task_reports(prepared, logits)
    linear = evaluation.baselines(prepared) if options.baseline else []
    record: dict[str, Any] = {
        "task": options.task,
        "pool": prepared.pool,
        "reading": reading(trained_family(prepared.bundle.family), prepared.head, prepared.pool),
        "outputs": label_slices(prepared.head),
        **{name: prepared.identity[name] for name in ("pretrained_sha256", "cells_sha256", "labels_sha256")},
        "options": prepared.identity,
    }
    if options.task == "regression":
        record["target_mean"], record["target_sd"] = prepared.scale(prepared.splits.final)
    model.config.finetuning = record
    with scratch(job.out) as checkpoint, replacing(job.out) as making:
        save_plain(model, checkpoint)
        aliases = checkpoint / "aliases.json"
        aliases.write_text(json.dumps(prepared.bundle.aliases))
        vocabulary = prepared.bundle.path / "vocabulary.parquet"
        make_bundle(checkpoint, vocabulary, making, aliases=aliases if prepared.bundle.aliases else None)
        facts = {"task": options.task, "train": len(prepared.splits.final.train), **_counts(prepared)}
        metrics = evaluation.write(making / "evaluation", judged, linear, facts)
        if (job.unfinished / TRIALS).exists():
            shutil.copyfile(job.unfinished / TRIALS, making / "evaluation" / TRIALS)
        for folder in sorted(job.unfinished.glob(f"*/{METRICS}")):
            shutil.copytree(folder, making / METRICS / folder.parent.name)
    shutil.rmtree(job.unfinished)
    return metrics


def _counts(prepared: Prepared) -> dict[str, int]:
    splits = prepared.splits
    return {"held_out": len(splits.final.judged), "folds": len(splits.folds)}
