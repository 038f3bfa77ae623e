"""LoRA adapters: the low-rank changes of a fine-tuning, added to the weights of its base for good.

    W' = W + scale * B A        scale = alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (rslora)

A and B are the adapter's matrices of a linear layer, of rank r (Hu et al. 2021, Kalajdzievski 2023). It reads what PEFT
saves, adds what belongs to the encoder, leaves heads aside, and refuses every adapter that is more than this.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rankshift.screen.bundle.checkpoint import read_header, tensors_of
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import Family
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.json_file import read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LARGEST_ALPHA = 1e6  # far above any that is used; not-a-number is no alpha either
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # others change the base weights, too
# Options of PEFT that make an adapter more than W + scale * B A, each with the value it has when it is not used.
MORE = (
    "use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias", "alpha_pattern", "layer_replication",
    "trainable_token_indices", "arrow_config", "alora_invocation_tokens", "target_parameters",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraDelta:
    """What is added to one weight: scale * b a. a: (r, in), b: (out, r)."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with the change, computed in float32 and given in the weight's type."""
        return (weight.float() + self.scale * (self.b.float() @ self.a.float())).to(weight.dtype)


def is_adapter(folder: Path) -> bool:
    """Does the folder hold an adapter of PEFT?"""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path, family: Family) -> dict[str, LoraDelta]:
    """Changes of an adapter by the name of the linear layer in the encoder, as `encoder.layer.0.attention.self.query`.

    Raises InputError naming what makes it more than plain LoRA on the encoder's linear layers.
    """
    config = _config(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} has no {WEIGHTS}: save the adapter as safetensors")
    read_header(folder / WEIGHTS)
    tensors = tensors_of(folder / WEIGHTS)
    deltas: dict[str, LoraDelta] = {}
    for key, a in sorted(tensors.items()):
        inside = family.layer_name(key)
        if inside is None:
            continue  # a head, which is never computed
        name, _, part = inside.partition(".lora_")
        if part not in ("A.weight", "B.weight") or a.dim() != 2:
            raise InputError(f"{folder / WEIGHTS}: {key} is no matrix of plain LoRA: merge the adapter with PEFT first")
        if part == "B.weight":
            continue
        b = tensors.get(key.replace(".lora_A.", ".lora_B."))
        if b is None or b.dim() != 2 or b.shape[1] != a.shape[0] or not len(a):
            raise InputError(
                f"{folder / WEIGHTS}: {key} has no lora_B of rank {len(a)} beside it: save the adapter again"
            )
        rank = len(a)
        scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        deltas[name] = LoraDelta(a=a, b=b, scale=scale)
    if not deltas:
        raise InputError(
            f"{folder / WEIGHTS} changes no layer of the encoder ({len(tensors)} tensors): use its base alone"
        )
    return deltas


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    config = read_object(path, "it is not the configuration of an adapter, save it again")
    kind, alpha = config.get("peft_type"), config.get("lora_alpha")
    if kind != "LORA":
        raise InputError(
            f"{path}: peft_type {kind!r} is not merged here, only LORA is: merge the adapter with PEFT first"
        )
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < LARGEST_ALPHA:
        raise InputError(f"{path}: lora_alpha is {alpha!r}, not a number: save the adapter again")
    for name in MORE:
        if config.get(name):
            raise InputError(f"{path}: {name} is more than plain LoRA: merge the adapter with PEFT first")
    start = config.get("init_lora_weights")
    if start not in list(PLAIN_STARTS):
        raise InputError(
            f"{path}: init_lora_weights {start!r} changes the base, too: merge the adapter with PEFT first"
        )
    return config


def merge(adapter: Path, weights: Sequence[Path], family: Family) -> int:
    """Add an adapter to the weights of its base in the safetensors files `weights`; returns how many layers changed.

    Raises InputError when a changed layer is not in the base, or has another shape there.
    """
    deltas = read_adapter(adapter, family)
    left = set(deltas)
    for path in weights:
        with safe_open(path, framework="pt") as file:
            inside = {key: _layer(key, family) for key in file.keys()}  # noqa: SIM118 (no mapping)
            names = {key: name for key, name in inside.items() if name in left}
            metadata = file.metadata()
        if not names:
            continue
        tensors = load_file(path)
        for key, name in names.items():
            delta = deltas[name]
            wanted = (len(delta.b), delta.a.shape[1])
            if tuple(tensors[key].shape) != wanted:
                raise InputError(
                    f"{adapter} changes {name} of {wanted}, the base has {tuple(tensors[key].shape)}: give the base that "
                    "the adapter was trained on"
                )
            tensors[key] = delta.added_to(tensors[key])
        left -= set(names.values())
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    if left:
        raise InputError(
            f"{adapter} changes {min(left)}, which the base does not have: give the base it was trained on"
        )
    return len(deltas)


def _layer(key: str, family: Family) -> str:
    """The encoder's linear layer that a weight of a checkpoint belongs to."""
    return (family.layer_name(key) or "").removesuffix(".weight") if key.endswith(".weight") else ""
