"""An unfinished training as one safetensors file: weights, both moments of AdamW, and a record of where it stood.

It holds no random state: every step of a training seeds itself. It holds no frozen weights: those are where they came from.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing

STATE = "state.safetensors"  # lies in the folder of an unfinished training
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, record: dict[str, Any]) -> None:
    """Write a training into its folder, whole or not at all. record: plain values, among them `step`, the steps done."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[f"weight.{name}"] = parameter.detach().contiguous()
            for moment, value in optimizer.state[parameter].items():
                if moment in MOMENTS:
                    tensors[f"{moment}.{name}"] = value.contiguous()
    with replacing(folder / STATE) as temporary:
        save_file(tensors, temporary, metadata={"record": json.dumps(record)})


def load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Set weights and moments from the folder of an unfinished training and return its record."""
    try:
        with safe_open(folder / STATE, framework="pt") as file, torch.no_grad():
            record = json.loads(file.metadata()["record"])
            step = torch.tensor(float(record["step"]))
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(file.get_tensor(f"weight.{name}"))
                    moments = {m: file.get_tensor(f"{m}.{name}").to(parameter.device) for m in MOMENTS}
                    optimizer.state[parameter] = {"step": step.to(parameter.device, copy=True), **moments}
    except Exception as error:
        raise _unreadable(folder, error) from error
    return dict(record)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of an unfinished training, without its weights."""
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            return dict(json.loads(file.metadata()["record"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> InputError:
    what = " ".join(str(error).split())
    return InputError(f"{folder} is not an unfinished training of this model ({what}): remove it")
