"""How to step: learning rate and its schedule, weight decay, clipping, precision, and how often to look up from it."""

import math
from dataclasses import dataclass

import torch

from rankshift.screen.errors import InputError

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Options of the optimizer and the loop. Raises InputError for values that cannot train."""

    learning_rate: float = 1e-3  # the peak, as published for V1-10M
    schedule: str = "linear"  # after the warm-up: linear (V1-10M) or cosine (95M series) down to 0, or constant
    warmup: float = 0.02  # below 1 a share of the steps (10,000 of 570,963 published ones), from 1 on a number of steps
    weight_decay: float = 0.001  # as published; not on biases and LayerNorms
    clip: float = 1.0  # limit of the gradient's norm, the default of the published trainer
    accumulate: int = 1  # passes a batch is cut into, for batches larger than the memory
    dtype: str = "auto"  # matrix products: bfloat16 on a GPU, where it is about five times faster, else float32
    seed: int = 0
    judge_every: int | None = None  # steps between two judgements on held-out data; None: after every epoch
    log_every: int = 10  # steps that a row of the metrics is the mean of
    save_every: float = 600.0  # seconds between two saves of the unfinished training

    def __post_init__(self) -> None:
        for name, least in (("accumulate", 1), ("log_every", 1), ("judge_every", 1), ("seed", 0), ("save_every", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"{name} is {value}: give at least {least}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}: give a positive number")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay is {self.weight_decay}: give 0 or a positive number")
        if not 0 <= self.warmup < math.inf or (self.warmup > 1 and self.warmup != int(self.warmup)):
            raise InputError(f"warmup is {self.warmup}: give a share below 1, or a whole number of steps")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule {self.schedule!r} is unknown: use {', '.join(SCHEDULES)}")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            # float16 needs a loss scaler, whose skipped steps would have to be part of the resumable state.
            raise InputError(f"dtype {self.dtype!r} cannot train: use auto, float32 or bfloat16")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step 1 to `steps`, taken at the middle of the step.

        >>> [round(Recipe(learning_rate=1, warmup=2, schedule=s).rate(6, 8), 4) for s in ("linear", "cosine", "constant")]
        [0.4167, 0.3706, 1.0]
        """
        warm = min(self.warmup * steps if self.warmup < 1 else self.warmup, steps)
        done = step - 0.5
        if done < warm:
            return self.learning_rate * done / warm
        left = (steps - done) / (steps - warm)
        shape = {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}
        return self.learning_rate * shape[self.schedule]

    def half(self, device: torch.device) -> bool:
        """Are matrix products bfloat16 on this device?"""
        return self.dtype == "bfloat16" or (self.dtype == "auto" and device.type == "cuda")


def adamw(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the parameters that train: it lets matrices decay, and leaves biases and LayerNorms alone."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
