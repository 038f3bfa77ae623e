"""Tensors of a checkpoint held against what the encoder needs of them: names, shapes, plain types, finite values.

What the encoder could not load, or would load as something else (8-bit weights without their scales), is refused when a
bundle is made. Names that training wrappers have put prefixes on get their own back.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankshift.screen.bundle.checkpoint import read_header, read_types
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import Family

PLAIN = ("F64", "F32", "F16", "BF16")  # types whose values are the weights
LARGEST = 1e6  # no weight of a model that was trained comes near it; products of larger ones leave float32
WRAPPED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # torch.compile, FSDP, checkpointing
COUNTERS = ("position_ids", "token_type_ids")  # not weights: numbers that old checkpoints keep beside them


def own_name(tensor: str) -> str:
    """A tensor's name in its model, without what wrappers around the model have added.

    >>> own_name("module._orig_mod.bert.encoder.layer.0.output.dense.bias")
    'bert.encoder.layer.0.output.dense.bias'
    """
    parts = [part for part in tensor.split(".") if part not in WRAPPED]
    while len(parts) > 1 and parts[0] == "module":  # DataParallel and its kin
        parts = parts[1:]
    return ".".join(parts)


def unwrap(weights: Sequence[Path]) -> None:
    """Write the safetensors files `weights` again under the tensors' own names, where a wrapper has changed them."""
    names = [name for path in weights for name in read_header(path)]
    own = [own_name(name) for name in names]
    if own == names:
        return
    if len(set(own)) < len(own):
        twice = next(name for name in own if own.count(name) > 1)
        raise InputError(f"weights hold {twice} twice, once of them wrapped: save the state_dict of the model itself")
    if len(weights) > 1:
        raise InputError(f"weights of several files are wrapped ({names[0]}): save the state_dict of the model itself")
    with safe_open(weights[0], framework="pt") as file:
        metadata = file.metadata()
    save_file({own_name(name): tensor for name, tensor in load_file(weights[0]).items()}, weights[0], metadata=metadata)


def check_tensors(weights: Sequence[Path], config: Mapping[str, Any], family: Family) -> None:
    """Refuse weights in which a tensor of the encoder is missing, of another shape or type, or one too many."""
    shapes: dict[str, list[int]] = {}
    types: dict[str, str] = {}
    for path in weights:
        shapes |= read_header(path)
        types |= read_types(path)
    held = family.encoder_weights(shapes) or {}
    kinds = family.encoder_weights(types) or {}
    wanted = family.shapes(config)
    for name, kind in kinds.items():
        if kind not in PLAIN and not name.endswith(COUNTERS):
            raise InputError(
                f"{name} is stored as {kind}, and only the types {', '.join(PLAIN)} are read: give the checkpoint as it was "
                "before it was quantized"
            )
    for name, shape in wanted.items():
        if name not in held:
            raise InputError(f"weights lack {name}: make the bundle from a complete checkpoint")
        found = held[name]
        if len(found) != len(shape) or any(n is not None and n != m for n, m in zip(shape, found, strict=True)):
            want = ["any" if n is None else n for n in shape]
            raise InputError(f"{name} is of shape {found}, config.json asks for {want}: repair the checkpoint")
        if 0 in found:
            raise InputError(f"{name} is empty, of shape {found}: repair the checkpoint")
    extra = [name for name in held if name not in wanted and not name.endswith(COUNTERS)]
    if extra:
        raise InputError(
            f"weights hold {extra[0]} ({len(extra)} such tensors), which a plain {family.name} encoder does not have: give a "
            "checkpoint without quantization or adapters, whose config.json counts all its layers"
        )


def check_values(weights: Mapping[str, Tensor], where: object) -> None:
    """Refuse weights that are not finite, or larger than any that training makes. where: of which file or folder."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            continue
        low, high = (float(x) for x in torch.aminmax(tensor)) if tensor.numel() else (0.0, 0.0)
        if not -LARGEST <= low <= high <= LARGEST:  # not-a-number passes no comparison
            raise InputError(
                f"{where}: {name} holds values from {low:g} to {high:g}: weights are damaged, copy them again"
            )
