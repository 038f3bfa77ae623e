"""`GeneformerPretrainer` with the published arguments: masked-gene training of the model that it is given.

It is no Trainer of transformers: it trains through `rankshift pretrain --from`, and refuses what that does not do.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rankshift.compat.inputs import PathLike, logger
from rankshift.compat.training.arguments import TrainingArgs, training_args
from rankshift.jobs.finetuning.models import Classifier as Model
from rankshift.jobs.pretraining.continuation import continued, known_model
from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.pretrain import pretrain
from rankshift.jobs.training.families.plain_model import save_plain
from rankshift.jobs.training.metrics import read as read_metrics
from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing

PLACE = "rankshift"  # folder in args.output_dir, with what a stopped training needs to go on
LEAST_HELD_OUT = 1e-9  # of the cells: one cell, the published trainer keeps none


class TrainOutput(NamedTuple):
    """What `train` returns, as transformers names it."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


@dataclass(slots=True)
class TrainerState:
    """log_history: {step, epoch, loss, learning_rate, eval_loss} of every row of the curve."""

    global_step: int = 0
    log_history: list[dict[str, float]] = field(default_factory=list)


class GeneformerPretrainer:
    """Masked-gene pretraining with the published arguments (docs/migrating.md has a table of them).

    model: a BertForMaskedLM, with random or learnt weights, from which it goes on. args: TrainingArguments, or a dictionary of
    them. train_dataset: a Dataset with input_ids and length, or the path of a .dataset folder. example_lengths_file has no
    effect: lengths are counted.
    """

    def __init__(
        self,
        model: Model | None = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        token_dictionary: Mapping[str, int] | None = None,
        mlm: bool = True,
        mlm_probability: float = 0.15,
        example_lengths_file: PathLike | None = None,
        **others: Any,
    ) -> None:
        fixes = {
            "data_collator": (data_collator, "genes are hidden by its own batches"),
            "eval_dataset": (eval_dataset, "give all cells as train_dataset, one of them judges"),
            **{name: (value, "a Trainer's own options are not here") for name, value in others.items()},
        }
        for name, (value, why) in fixes.items():
            if value is not None:
                raise InputError(f"{name} is not taken here ({why}): leave it out")
        if not mlm:
            raise InputError("mlm=False is not here: hidden genes are all that is learnt, leave it out")
        if not isinstance(token_dictionary, Mapping):
            raise InputError(
                f"token_dictionary is a {type(token_dictionary).__name__}: give the dictionary {{Ensembl id: token}} itself"
            )
        if model is None or not hasattr(model, "save_pretrained"):
            raise InputError(f"model is a {type(model).__name__}: give a BertForMaskedLM")
        if (
            train_dataset is not None
            and not isinstance(train_dataset, str | Path)
            and not hasattr(train_dataset, "save_to_disk")
        ):
            raise InputError(f"train_dataset is a {type(train_dataset).__name__}: give a Dataset, or the path of one")
        self.model, self.args, self.train_dataset, self.state = model, args, train_dataset, TrainerState()
        self._tokens = {str(gene): int(token) for gene, token in token_dictionary.items()}
        self._hidden = mlm_probability
        self._out, self._given = _arguments(args)
        self._options(1)

    def train(self, resume_from_checkpoint: bool | str | None = None) -> TrainOutput:
        """Train; the weights of `model` are then the learnt ones.

        A training that was stopped goes on with resume_from_checkpoint=True, from {output_dir}/rankshift.
        """
        if self.train_dataset is None:
            raise InputError("train_dataset is None: give the cells to train on")
        place = self._out / PLACE
        if (place / "bundle").exists():
            raise InputError(f"{place} holds a finished training: remove it, or give another output_dir")
        resume = bool(resume_from_checkpoint)
        if not resume or not (place / "start").exists():
            self._begin(place)
        start = Bundle.open(place / "start")
        cells = place / "cells.dataset" if (place / "cells.dataset").exists() else Path(self.train_dataset)
        longest = int(Cells.read(cells, start).lengths.max())
        made = pretrain(
            cells, None, place / "bundle", self._options(longest), start=start.path, resume=resume, say=logger.info
        )
        learnt = known_model(made, continued(Pretraining(), made)).state_dict()
        self.model.load_state_dict(learnt)
        self.state = _state(made.path / "metrics" / "metrics.csv")
        facts = made.config["pretraining"]
        return TrainOutput(self.state.global_step, float(facts["loss"]), {"train_loss": float(facts["loss"])})

    def save_model(self, output_dir: PathLike | None = None) -> None:
        """Write the model as a plain checkpoint; after `train` it is a bundle, too."""
        out = Path(self._out if output_dir is None else output_dir)
        made = self._out / PLACE / "bundle"
        out.mkdir(parents=True, exist_ok=True)
        if made.exists():
            for path in made.iterdir():
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, out / path.name)
        else:
            save_plain(self.model, out)

    def _begin(self, place: Path) -> None:
        """The cells and the bundle that the training begins with, in its folder."""
        place.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place / "start", ignore_errors=True)
        if not isinstance(self.train_dataset, str | Path):
            with replacing(place / "cells.dataset", folders=True) as making:
                self.train_dataset.save_to_disk(str(making))
        vocabulary = place / "vocabulary.json"
        with replacing(vocabulary) as temporary:
            temporary.write_text(json.dumps(self._tokens))
        with replacing(place / "model", folders=True) as making:
            making.mkdir()
            save_plain(self.model, making)
        make_bundle(place / "model", vocabulary, place / "start")
        shutil.rmtree(place / "model")

    def _options(self, longest: int) -> Pretraining:
        given = self._given
        if given.epochs != int(given.epochs):
            raise InputError(f"args['num_train_epochs'] is {given.epochs}: give a whole number")
        return Pretraining(
            **given.recipe,
            epochs=int(given.epochs),
            batch_tokens=given.step_cells * longest,
            hidden_share=self._hidden,
            held_out=LEAST_HELD_OUT,
        )


def _arguments(args: Any) -> tuple[Path, TrainingArgs]:
    """Where a training is written, and what the arguments say. Of an object those count that are not its defaults."""
    if args is None:
        raise InputError("args is None: give TrainingArguments(output_dir=…), or a dictionary of them")
    given = dict(args) if isinstance(args, Mapping) else dict(args.to_dict())
    out = given.get("output_dir")
    if not out:
        raise InputError("args names no output_dir: give the folder of the training")
    if not isinstance(args, Mapping):
        usual = type(args)(output_dir=out).to_dict()
        given = {name: value for name, value in given.items() if name not in usual or usual[name] != value}
    counted = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    return Path(out), training_args(counted, "args")


def _state(curve: Path) -> TrainerState:
    rows = []
    for row in read_metrics(curve):
        kept = {"step": int(row["step"]), "epoch": float(row["epoch"]), "loss": float(row["loss"])}
        kept["learning_rate"] = float(row["learning_rate"])
        if row["held_out_loss"]:
            kept["eval_loss"] = float(row["held_out_loss"])
        rows.append(kept)
    return TrainerState(global_step=int(rows[-1]["step"]), log_history=rows)
