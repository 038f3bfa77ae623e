"""An unfinished training as one safetensors file: weights, both moments of AdamW, and a record of where it stood.

It holds no random state: every step of a training seeds itself. It holds no frozen weights: those are where they came from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.one_line import one_line
from rankshift.screen.files.seal import BLANK, KEY, check_seal, seal

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
        save_file(tensors, temporary, metadata={"record": json.dumps(record), KEY: BLANK})
        seal(temporary)


def load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Set weights and moments from the folder of an unfinished training and return its record.

    Raises InputError where the file is damaged, or is whole but of another model; nothing was set then. Whatever else goes
    wrong on the way, as a device that is out of memory, is no fault of the file and passes through.
    """
    record = read_record(folder)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with _opened(folder) as file, torch.no_grad():
        _check_shapes(folder, file, learning)
        _check_values(folder, file)
        step = torch.tensor(float(record["step"]))
        for name, parameter in learning.items():
            parameter.copy_(file.get_tensor(f"weight.{name}"))
            moments = {m: file.get_tensor(f"{m}.{name}").to(parameter.device) for m in MOMENTS}
            optimizer.state[parameter] = {"step": step.to(parameter.device, copy=True), **moments}
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """The record of an unfinished training, without its weights; every byte of the file is as it was written."""
    with _opened(folder) as file:
        metadata = file.metadata()
    check_seal(folder / STATE, metadata, "remove the folder and train again")
    try:
        record = dict(json.loads(metadata["record"]))
        float(record["step"])
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise _damaged(folder, error) from error
    return record


def _opened(folder: Path) -> Any:
    """The file, after its header has promised no more bytes than it has; a context manager."""
    try:
        return safe_open(folder / STATE, framework="pt")
    except SafetensorError as error:
        raise _damaged(folder, error) from error
    except OSError as error:
        raise InputError(
            f"{folder / STATE} cannot be read ({one_line(error)}): mend that and go on with --resume, nothing needs removing"
        ) from error


def _check_shapes(folder: Path, file: Any, learning: Mapping[str, torch.nn.Parameter]) -> None:
    """The file holds weight and moments of every parameter that learns, in its shape, and no others."""
    wanted = {
        f"{kind}.{name}": list(parameter.shape) for kind in ("weight", *MOMENTS) for name, parameter in learning.items()
    }
    there = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            raise InputError(
                f"{folder} is not an unfinished training of this model ({name} is {_shape(there.get(name))}, the model's "
                f"is {_shape(wanted.get(name))}): give the model and options it began with, or another --out"
            )


def _check_values(folder: Path, file: Any) -> None:
    """Every value is a finite number: from others no step gets anywhere."""
    for name in file.keys():  # noqa: SIM118 (not a mapping)
        tensor = file.get_tensor(name)
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise _damaged(folder, ValueError(f"{name} holds values that are no finite numbers"))


def _shape(shape: list[int] | None) -> str:
    return "absent" if shape is None else str(shape)


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder} is not an unfinished training of this model: its {STATE} is damaged ({one_line(error)}); "
        "remove the folder and train again"
    )
