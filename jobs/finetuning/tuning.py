"""Search for settings with Ray Tune: every trial is a training like any other, judged on an inner part of the training units.

The test part is never looked at. The seed is no setting: the published search draws it too, and so chooses luck.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa

from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.finetuning.preparation import FinetuneJob
from rankshift.screen.encoder.device import default_device
from rankshift.screen.errors import InputError, Stopped, TrainingFailed
from rankshift.screen.extras import need
from rankshift.screen.progress import Step

TRIALS = "trials.parquet"
RECORDED = ("trial", "score", "seconds")  # columns of the table that are no settings


def space(options: Finetuning) -> dict[str, Any]:
    """What is drawn (TS 3.7), wide enough to hold the options as they are.

    The published warm-up is 100 to 2000 of about 7000 steps, here it is a share (a number of steps is left as it is). The
    published polynomial schedule is left out: its default power of 1 makes it the linear one.
    """
    # Late: only a search needs Ray Tune, and optuna is optional.
    from ray import tune

    return {
        "learning_rate": tune.loguniform(min(1e-6, options.learning_rate), max(1e-3, options.learning_rate)),
        "weight_decay": tune.uniform(0.0, max(0.3, options.weight_decay)),
        "schedule": tune.choice(sorted({"linear", "cosine", options.schedule})),
        **({"warmup": tune.uniform(0.0, max(0.3, options.warmup))} if options.warmup < 1 else {}),
    }


def tuned(job: FinetuneJob, settings: Mapping[str, Any]) -> FinetuneJob:
    """The job with these settings."""
    return replace(job, options=replace(job.options, **settings))


def check_trials(trials: int) -> None:
    """Refuse a search that cannot be done here."""
    if trials < 1:
        raise InputError(f"--tune {trials}: give at least 1 trial")
    need("tune", "--tune")


def _trial(settings: Mapping[str, Any], job: FinetuneJob, folder: Path) -> dict[str, float]:
    """Train with these settings and judge on the inner cut."""
    # Late: only a search needs Ray Tune, and optuna is optional.
    import torch
    from ray import tune

    from rankshift.jobs.finetuning.fit import inner_score

    began = perf_counter()
    trial = replace(tuned(job, settings), out=folder / tune.get_context().get_trial_id())
    try:
        score = inner_score(trial, torch.device(default_device()))
    finally:
        shutil.rmtree(trial.unfinished, ignore_errors=True)
    return {"score": score, "seconds": perf_counter() - began}


def search(job: FinetuneJob, trials: int, folder: Path, done: Step) -> pa.Table:
    """Run the trials on the Ray cluster that is connected and return them: trial, settings, score, seconds; the best first.

    The first trial is the job as it is, so that the search cannot end below it. The sampler is Optuna's TPE. A GPU per
    trial where there are any, else a CPU.
    """
    # Late: only a search needs Ray Tune, and optuna is optional.
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    trainable = tune.with_resources(tune.with_parameters(_trial, job=job, folder=folder), {"cpu": 1, "gpu": gpus})
    drawn = space(job.options)
    given = {name: getattr(job.options, name) for name in drawn}
    grid = tune.Tuner(
        trainable,
        param_space=drawn,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=trials,
            search_alg=OptunaSearch(points_to_evaluate=[given], seed=job.options.seed),
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(folder.resolve()), verbose=0, callbacks=[_progress(done)]
        ),
    ).fit()
    rows = [
        {
            **{name: result.config[name] for name in drawn},
            "score": result.metrics["score"],
            "seconds": result.metrics["seconds"],
        }
        for result in grid
        if result.error is None and result.metrics and "score" in result.metrics
    ]
    if len(grid) < trials:
        raise Stopped(f"stopped after {len(grid)} of {trials} trials: the search begins again with --resume")
    if not rows:
        raise TrainingFailed(f"all {trials} trials failed, the first with: {grid.errors[0]}")
    rows.sort(key=lambda row: -row["score"])
    return pa.Table.from_pylist([{"trial": i, **row} for i, row in enumerate(rows)])


def _progress(done: Step) -> Any:
    # Late: only a search needs Ray Tune, and optuna is optional.
    from ray.tune import Callback

    class Progress(Callback):
        """Says when a trial is over."""

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            done(1, f"score {trial.last_result.get('score', float('nan')):.3f}")

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            done(1, "failed")

    return Progress()
