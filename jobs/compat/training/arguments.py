"""Arguments of transformers' `TrainingArguments`, as notebooks hand them over, in the words of our own training.

Every name is honoured, known to change no number here, told by a `Deviation`, or refused; none is passed over in silence.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rankshift.compat.inputs import count, deviates
from rankshift.screen.errors import InputError

SCHEDULES = {
    "linear": "linear", "polynomial": "linear", "cosine": "cosine", "constant": "constant",
    "constant_with_warmup": "constant",
}  # fmt: skip
HONOURED = (
    "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "seed", "bf16", "fp16", "optim",
)  # fmt: skip
# How often something is written, shown or looked at, and how batches are made: the numbers do not depend on it here.
WITHOUT_EFFECT = frozenset((
    "output_dir", "overwrite_output_dir", "logging_dir", "logging_strategy", "logging_steps", "logging_first_step", "log_level",
    "disable_tqdm", "do_train", "do_eval", "do_predict", "per_device_eval_batch_size", "eval_accumulation_steps",
    "evaluation_strategy", "eval_strategy", "eval_steps", "eval_delay", "save_strategy", "save_steps", "save_total_limit",
    "save_safetensors", "save_only_model", "group_by_length", "length_column_name", "train_sampling_strategy",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_drop_last", "run_name", "label_names",
    "remove_unused_columns", "metric_for_best_model", "greater_is_better", "data_seed", "tf32", "local_rank",
    "log_on_each_node",
))  # fmt: skip
ADAMW = ("adamw_hf", "adamw_torch", "adamw_torch_fused")  # one algorithm


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingArgs:
    """What the arguments say. cells: of a pass. recipe: options of `jobs.training.recipe.Recipe`."""

    epochs: float
    cells: int
    recipe: dict[str, Any]

    @property
    def step_cells(self) -> int:
        """Cells of a step."""
        return self.cells * int(self.recipe["accumulate"])


def training_args(given: Mapping[str, Any], name: str, **default: Any) -> TrainingArgs:
    """The arguments `given`, or their defaults. name: of the dictionary, for messages. default: values of absent ones.

    Without a default of the caller's, an argument has that of transformers: 3 epochs of 8 cells a step, 5e-5, linear.
    """
    unknown = [key for key in given if key not in HONOURED and key not in WITHOUT_EFFECT and key not in _TOLD]
    if unknown:
        raise InputError(
            f"{name}[{unknown[0]!r}] is not honoured here: leave it out; those that count are {', '.join(HONOURED)}"
        )
    for key, told in _TOLD.items():
        if given.get(key) not in _NOTHING.get(key, (None, False)):
            deviates(f"{name}[{key!r}] {told}")

    def take(key: str, otherwise: Any) -> Any:
        value = given.get(key)
        return default.get(key, otherwise) if value is None else value

    half = take("fp16", False)
    if half:
        deviates(f"{name}['fp16'] is computed in bfloat16: half the bytes as well, and no loss needs scaling")
    if take("optim", ADAMW[1]) not in ADAMW:
        raise InputError(f"{name}['optim'] is {given['optim']!r}: AdamW is the only optimizer here, leave it out")
    schedule = str(getattr(take("lr_scheduler_type", "linear"), "value", take("lr_scheduler_type", "linear")))
    if schedule not in SCHEDULES:
        raise InputError(f"{name}['lr_scheduler_type'] is {schedule!r}: use one of {', '.join(SCHEDULES)}")
    cells, passes = take("per_device_train_batch_size", 8), take("gradient_accumulation_steps", 1)
    count(f"{name}['per_device_train_batch_size']", cells)
    count(f"{name}['gradient_accumulation_steps']", passes)
    epochs, seed = _number(name, "num_train_epochs", take("num_train_epochs", 3.0)), take("seed", 42)
    if not isinstance(seed, int | float) or not seed >= 0 or int(seed) != seed:
        raise InputError(f"{name}['seed'] is {seed!r}: give a whole number")
    warm, share = take("warmup_steps", 0), take("warmup_ratio", 0.0)
    clip = _number(name, "max_grad_norm", take("max_grad_norm", 1.0))
    steps = round(_number(name, "warmup_steps", warm)) if warm >= 1 else 0  # searches draw them as fractions
    recipe = {
        "learning_rate": _number(name, "learning_rate", take("learning_rate", 5e-5)),
        "schedule": SCHEDULES[schedule],
        "warmup": 0 if schedule == "constant" else steps or max(float(warm), float(share)),
        "weight_decay": _number(name, "weight_decay", take("weight_decay", 0.0)),
        "clip": clip or math.ldexp(1.0, 60),  # 0 turns clipping off there
        "accumulate": int(passes),
        "dtype": "bfloat16" if half or take("bf16", False) else "float32",
        "seed": int(seed),
    }
    return TrainingArgs(epochs=int(epochs) if epochs == int(epochs) else epochs, cells=int(cells), recipe=recipe)


_TOLD = {
    "load_best_model_at_end": "has no effect: the model of the last epoch is kept, and held-out cells choose nothing",
    "report_to": "has no effect: the curve is written as metrics.csv",
    "gradient_checkpointing": "has no effect: cut the passes with 'gradient_accumulation_steps' where memory is short",
    "torch_compile": "has no effect",
    "ddp_find_unused_parameters": "has no effect: one process trains",
    "push_to_hub": "has no effect: push the written folder yourself",
}
_NOTHING: dict[str, tuple] = {"report_to": (None, "none", [], ["none"])}


def _number(name: str, key: str, value: Any) -> float:
    """A number that is not negative; notebooks give numpy's and Python's."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf or (number == 0 and key in ("num_train_epochs", "learning_rate")):
        raise InputError(f"{name}[{key!r}] is {value!r}: give a positive number")
    return number
