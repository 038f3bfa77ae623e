"""An unfinished training as one safetensors file: weights, both moments of AdamW, and a record of where it stood.

It holds no random state: every step of a training seeds itself. And it turns Ctrl-C into a question a loop can ask
between two steps, so that no step is saved half done.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rankshift.screen.atomic import replacing
from rankshift.screen.errors import InputError

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, record: dict[str, Any]) -> None:
    """Write a training, whole or not at all. record: plain values, among them `step`, the steps done."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().contiguous()
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].contiguous()
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"record": json.dumps(record)})


def load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Set weights and moments from the file and return its record."""
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            record = json.loads(file.metadata()["record"])
            step = torch.tensor(float(record["step"]))
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"weight.{name}"))
                moments = {m: file.get_tensor(f"{m}.{name}").to(parameter.device) for m in MOMENTS}
                optimizer.state[parameter] = {"step": step.to(parameter.device, copy=True), **moments}
    except Exception as error:
        what = " ".join(str(error).split())
        raise InputError(f"{path} is not an unfinished training of this model ({what}): remove it") from error
    return dict(record)


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed; a second one interrupts at once, as usual.

    Outside the main thread nothing can be caught, and the answer stays no.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
