"""`MTLClassifier` with the published options: several labels of a cell learnt at once, by `rankshift finetune`'s multitask.

The encoder begins with the weights of the pretrained model, which the published code never loads (TS 8.1).
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.compat.inputs import PathLike, count, deviates, generation, logger, token_file, workplace
from rankshift.compat.training.arguments import training_args
from rankshift.compat.training.learning import judged, prepared, stored_model
from rankshift.jobs.finetuning.evaluation.metrics import Predictions, classification
from rankshift.jobs.finetuning.evaluation.predictions import probabilities
from rankshift.jobs.finetuning.finetune import finetune
from rankshift.jobs.finetuning.labels.labels import NONE, CellLabels, Task
from rankshift.jobs.finetuning.labels.splits import Fold
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.verbs.export import write_pickle
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells, joined
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.genes.vocabulary import read_vocabulary

FOLDER = "GeneformerMultiTask"  # of the model, in model_save_path, as published
SPLIT = "rankshift_split"  # the column that says which data set a cell is of
CELL = "unique_cell_id"
MANUAL: dict[str, Any] = {
    "learning_rate": 1e-3, "warmup_ratio": 0.01, "weight_decay": 0.1, "dropout_rate": 0.1, "lr_scheduler_type": "cosine",
    "use_attention_pooling": False, "task_weights": None, "max_layers_to_freeze": 2,
}  # fmt: skip


@dataclass(kw_only=True)
class MTLClassifier:
    """Several labels of a cell, with the published options (docs/migrating.md has a table of them), by keyword.

    Without effect here: study_name, wandb_project, master_addr, master_port. Ours: token_dictionary_file, model_version.
    """

    task_columns: Sequence[str] | None = None
    train_path: PathLike | None = None
    val_path: PathLike | None = None
    test_path: PathLike | None = None
    pretrained_path: PathLike | None = None
    model_save_path: PathLike | None = None
    results_dir: PathLike | None = None
    trials_result_path: PathLike | None = None
    batch_size: int = 4
    n_trials: int = 15
    study_name: str = "mtl"
    max_layers_to_freeze: Any = None
    epochs: float = 1
    tensorboard_log_dir: PathLike | None = None
    use_data_parallel: bool = False
    distributed_training: bool | None = False
    master_addr: str = "localhost"
    master_port: str = "12355"
    use_attention_pooling: bool | None = None
    use_task_weights: bool | None = True
    hyperparameters: Mapping[str, Any] | None = None
    manual_hyperparameters: Mapping[str, Any] | None = None
    use_manual_hyperparameters: bool = False
    use_wandb: bool = False
    wandb_project: str | None = None
    gradient_clipping: bool = False
    max_grad_norm: float | None = None
    seed: int = 42
    gradient_accumulation_steps: int = 1
    token_dictionary_file: PathLike | None = None
    model_version: str | None = None

    def __post_init__(self) -> None:
        self._check()

    def run_manual_tuning(self) -> None:
        """Train with manual_hyperparameters and judge on val_path; writes the model and manual_run_val_preds.csv."""
        if not self.use_manual_hyperparameters:
            raise InputError("use_manual_hyperparameters is False: set it to True, or call run_optuna_study")
        self._train(None)

    def run_optuna_study(self) -> None:
        """Search n_trials settings on val_path, then train with the best; writes the model, val_preds.csv and the trials.

        With use_manual_hyperparameters it trains with those, as published.
        """
        if self.use_manual_hyperparameters:
            self._train(None)
            return
        if self.hyperparameters is not None:
            raise InputError(
                "hyperparameters: the search draws from ranges of its own (docs/training.md), leave it out, or fix values "
                "with manual_hyperparameters"
            )
        if self.max_layers_to_freeze is not None:
            raise InputError(
                "max_layers_to_freeze is not searched: leave it out, or fix it in manual_hyperparameters and call "
                "run_manual_tuning"
            )
        self._train(self.n_trials)

    def load_and_evaluate_test_model(self) -> dict[str, dict[str, Any]]:
        """Judge the model in model_save_path on test_path: writes test_preds.csv, returns the scores of each task."""
        self._check()
        self._need("test_path", "model_save_path", "results_dir")
        made = Bundle.open(Path(str(self.model_save_path)) / FOLDER)
        outputs = made.config["finetuning"]["outputs"]
        tasks = tuple(Task(name=name, classes=tuple(part["classes"])) for name, part in outputs.items())
        if [task.name for task in tasks] != list(self.task_columns or ()):
            raise InputError(
                f"the model has the tasks {', '.join(outputs)}, task_columns are {self.task_columns}: give those"
            )
        cells = Cells.read(Path(str(self.test_path)), made)
        ids = np.stack([_ids(cells, task) for task in tasks], axis=1)
        labels = CellLabels(rows=np.arange(len(cells)), tasks=tasks, values=ids)
        everyone = np.arange(len(cells))
        fold = Fold(name="test", train=everyone[:0], judged=everyone)
        options = Finetuning(
            task="multitask", label=tuple(outputs), batch_tokens=self.batch_size * int(cells.lengths.max())
        )
        job = prepared(made, cells, labels, options, fold, made.path)
        logits = judged(job, stored_model(made, job.head, made.path)).logits
        frame = {CELL: _names(cells)}
        scores = {}
        for at, (task, part) in enumerate(zip(tasks, job.head.slices, strict=True)):
            given, known = probabilities(logits[:, part]), ids[:, at] != NONE
            some = Predictions(fold="test", units=everyone[known], truth=ids[known, at], given=given[known])
            found = classification(some, task.classes)
            scores[task.name] = {
                "f1": found["macro_f1"],
                "accuracy": found["accuracy"],
                "conf_matrix": found["confusion"],
            }
            frame |= _columns(task, ids[:, at], given)
        self._write(pd.DataFrame(frame), "test_preds.csv")
        return scores

    def save_model_without_heads(self, model_save_path: PathLike | None = None) -> None:
        """Nothing is left to do: the folder of the model is a bundle, whose encoder every class here takes as it is."""
        deviates(f"save_model_without_heads: {FOLDER} is used as it is, no second folder is written")

    def _check(self) -> None:
        if isinstance(self.task_columns, str) or not self.task_columns or len(self.task_columns) < 2:
            raise InputError(f"task_columns is {self.task_columns!r}: give a list of at least 2 columns")
        for name in ("batch_size", "n_trials", "gradient_accumulation_steps"):
            count(name, getattr(self, name))
        if self.use_wandb:
            raise InputError("use_wandb=True is not here: set it False; curves are in the model's folder metrics")
        if self.use_data_parallel or self.distributed_training:
            name = "use_data_parallel" if self.use_data_parallel else "distributed_training"
            raise InputError(
                f"{name}=True is not here: set it False, or use `rankshift finetune --task multitask --workers N`"
            )
        if self.gradient_clipping and self.max_grad_norm is None:
            raise InputError("gradient_clipping=True needs max_grad_norm: give the largest norm")
        if self.max_grad_norm is not None and not self.gradient_clipping:
            deviates("max_grad_norm has no effect without gradient_clipping=True, as published")
        manual = self.manual_hyperparameters or {}
        unknown = [name for name in manual if name not in MANUAL]
        if unknown:
            raise InputError(f"manual_hyperparameters[{unknown[0]!r}] is unknown: use {', '.join(MANUAL)}")
        if self.use_attention_pooling or manual.get("use_attention_pooling"):
            deviates(
                "use_attention_pooling: cells are read at the first row; published models are saved without their pool"
            )
        vocabulary = read_vocabulary(token_file(self.token_dictionary_file))
        generation(self.model_version, vocabulary)

    def _need(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is None:
                raise InputError(f"{name} is None: give its path")

    def _options(self, longest: int) -> tuple[Finetuning, float]:
        """The options of the training, and the dropout before the heads."""
        held = {**MANUAL, **(self.manual_hyperparameters or {})}
        given = training_args(
            {
                **{name: held[name] for name in ("learning_rate", "warmup_ratio", "weight_decay", "lr_scheduler_type")},
                "num_train_epochs": self.epochs,
                "per_device_train_batch_size": self.batch_size,
                "gradient_accumulation_steps": self.gradient_accumulation_steps,
                "max_grad_norm": self.max_grad_norm if self.gradient_clipping else 0,
                "seed": self.seed,
            },
            "manual_hyperparameters",
        )
        weights = held["task_weights"] if self.use_task_weights else None
        dropout = held["dropout_rate"]
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise InputError(f"manual_hyperparameters['dropout_rate'] is {dropout!r}: give a share from 0 to below 1")
        options = Finetuning(
            task="multitask",
            label=tuple(map(str, self.task_columns or ())),
            task_weights=tuple(map(float, weights or ())),
            split_column=SPLIT,
            pool="auto",
            freeze=int(held["max_layers_to_freeze"]) if self.use_manual_hyperparameters else 0,
            **given.recipe,
            epochs=given.epochs,
            batch_tokens=given.step_cells * longest,
        )
        return options, float(dropout)

    def _train(self, trials: int | None) -> None:
        self._check()
        self._need("train_path", "val_path", "pretrained_path", "model_save_path", "results_dir")
        out = Path(str(self.model_save_path)) / FOLDER
        if out.exists():
            raise InputError(f"model_save_path holds {FOLDER} already: remove it, or give another folder")
        with self._model() as (folder, bundle):
            cells = self._cells(bundle)
            options, _ = self._options(int(cells.lengths.max()))
            options = replace(options, pool="cls" if cells.frame.head else "first")
            cells.write(folder / "cells.parquet", bundle.vocabulary)
            finetune(folder / "cells.parquet", bundle.path, out, options, trials=trials, say=logger.info)
        tasks = Bundle.open(out).config["finetuning"]["outputs"]
        frames = [
            pq.read_table(out / "evaluation" / name / "predictions.parquet").to_pandas()
            for name in self._folders(tasks)
        ]
        frame = pd.DataFrame({CELL: frames[0]["cell_id"]})
        for name, some in zip(tasks, frames, strict=True):
            kept = {"true": f"{name}_true", "predicted": f"{name}_pred"}
            kept |= {column: f"{name}_{column}" for column in some.columns if column.startswith("probability_")}
            frame = frame.merge(
                some[["cell_id", *kept]].rename(columns={**kept, "cell_id": CELL}), on=CELL, how="outer"
            )
        self._write(frame, "manual_run_val_preds.csv" if trials is None else "val_preds.csv")
        mappings = {name: {c: i for i, c in enumerate(part["classes"])} for name, part in tasks.items()}
        for end in ("", "_val"):
            write_pickle(mappings, Path(str(self.results_dir)) / f"task_label_mappings{end}.pkl")
        if trials is not None:
            table = pd.read_parquet(out / "evaluation" / "trials.parquet")
            place = self.trials_result_path or Path(str(self.results_dir)) / "results.txt"
            with replacing(Path(place)) as temporary:
                table.to_csv(temporary, index=False)
        if self.tensorboard_log_dir is not None:
            shutil.copytree(out / "metrics", Path(self.tensorboard_log_dir), dirs_exist_ok=True)

    @staticmethod
    def _folders(tasks: Mapping[str, Any]) -> list[str]:
        """The folders of the tasks' judgements: as `evaluation.report.write` names them."""
        return ["".join(c if c.isalnum() or c in "_.-" else "_" for c in name) for name in tasks]

    @contextmanager
    def _model(self) -> Iterator[tuple[Path, Bundle]]:
        """A temporary folder and the pretrained model as a bundle in it, with the dropout before the heads."""
        source = Path(str(self.pretrained_path))
        if not (source / "config.json").is_file():
            raise InputError(f"pretrained_path {source} has no config.json: give the folder of a checkpoint")
        place = Path(str(self.model_save_path))
        place.mkdir(parents=True, exist_ok=True)
        with replacing(place / ".pretrained", folders=True) as copy:
            copy.mkdir()
            for file in source.iterdir():
                if file.is_file() and file.name != "config.json":
                    (copy / file.name).symlink_to(file.resolve())
            config = json.loads((source / "config.json").read_text())
            config["classifier_dropout"] = self._options(1)[1]
            (copy / "config.json").write_text(json.dumps(config))
        try:
            with workplace(place / ".pretrained", token_file(self.token_dictionary_file), place) as (folder, bundle):
                yield folder, bundle
        finally:
            shutil.rmtree(place / ".pretrained", ignore_errors=True)

    def _cells(self, bundle: Bundle) -> Cells:
        """Cells of both data sets, with their tasks, and which they are of."""
        parts = []
        for name, side in (("train_path", "train"), ("val_path", "valid")):
            cells = Cells.read(Path(str(getattr(self, name))), bundle)
            columns = [pa.array([f"{side}:{cell}" for cell in _names(cells)])]
            columns += [labels_of(cells.obs, column, f"{name}: task") for column in self.task_columns or ()]
            columns.append(pa.array([side] * len(cells)))
            names = ["cell_id", *map(str, self.task_columns or ()), SPLIT]
            parts.append(replace(cells, obs=pa.table(columns, names=names)))
        for column in self.task_columns or ():
            train, valid = (set(part.obs.column(column).to_pylist()) - {None} for part in parts)
            if train != valid:
                odd = sorted(train ^ valid)[0]
                raise InputError(
                    f"class {odd!r} of {column} is in one of train_path and val_path only: leave its cells out"
                )
        if parts[0].frame != parts[1].frame:
            raise InputError(
                "only one of train_path and val_path is framed by <cls> and <eos>: tokenize both the same way"
            )
        return joined(parts)

    def _write(self, frame: pd.DataFrame, name: str) -> None:
        place = Path(str(self.results_dir))
        place.mkdir(parents=True, exist_ok=True)
        with replacing(place / name) as temporary:
            frame.to_csv(temporary, index=False)


def _names(cells: Cells) -> list[str]:
    """Names of the cells: unique_cell_id where there is one, else cell_{number}, as published."""
    if CELL in cells.obs.column_names:
        return [str(name) for name in cells.obs.column(CELL).to_pylist()]
    return [f"cell_{i}" for i in range(len(cells))]


def _ids(cells: Cells, task: Task) -> np.ndarray:
    """Class ids of a task, NONE where a cell has none; a class that the model does not know is refused."""
    known = {name: i for i, name in enumerate(task.classes)}
    names = labels_of(cells.obs, task.name, "test_path: task").to_pylist()
    unknown = [name for name in names if name is not None and name not in known]
    if unknown:
        raise InputError(f"class {unknown[0]!r} of {task.name} is not among {', '.join(known)}: leave those cells out")
    return np.array([NONE if name is None else known[name] for name in names], np.int64)


def _columns(task: Task, ids: np.ndarray, given: np.ndarray) -> dict[str, Any]:
    names = np.array(task.classes, object)
    return {
        f"{task.name}_true": [None if i == NONE else names[i] for i in ids],
        f"{task.name}_pred": names[given.argmax(axis=1)],
        **{f"{task.name}_probability_{name}": given[:, i] for i, name in enumerate(task.classes)},
    }
