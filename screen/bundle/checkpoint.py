"""Weight files of a checkpoint: which there are, what their headers promise, and pickled ones turned into safetensors.

Nothing here loads code from a checkpoint: pickles are read with torch's tensors-only loader.
"""

import json
import math
import pickle
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rankshift.screen.errors import InputError
from rankshift.screen.files.json_file import read_object
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.text_file import readable

_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
STRETCHED = (
    4  # the most bytes of tensors for a byte stored: views over the same numbers (expand) may ask for any number
)
_BITS |= {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFiles:
    """Weight files of a checkpoint in name order, the safetensors index if sharded, and whether they are pickles."""

    weights: tuple[Path, ...]
    index: tuple[Path, ...] = ()
    pickled: bool = False


def checkpoint_files(folder: Path) -> CheckpointFiles:
    """Find the weights of a Hugging Face checkpoint, safetensors before pickles; a shard that is missing is refused."""
    for stem, pickled in (("model.safetensors", False), ("pytorch_model.bin", True)):
        single, index = folder / stem, folder / f"{stem}.index.json"
        if single.is_file():
            return CheckpointFiles(weights=(readable(single),), pickled=pickled)
        if index.is_file():
            files = tuple(readable(folder / shard) for shard in _shards(index))
            return CheckpointFiles(weights=files, index=() if pickled else (index,), pickled=pickled)
    raise InputError(f"{folder} has neither model.safetensors nor pytorch_model.bin: give the folder of a checkpoint")


def _shards(index: Path) -> list[str]:
    """Names of the weight files of an index, in order."""
    try:
        shards = sorted(set(read_object(index, "repair the checkpoint")["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{index} is not an index of weights ({first_line(error)}): repair the checkpoint") from error
    if not shards or any(not isinstance(shard, str) or not shard or Path(shard).name != shard for shard in shards):
        raise InputError(f"{index} names no weight file of its own folder: repair the checkpoint")
    return shards


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint's safetensors files, on the CPU; the files stay mapped while the tensors live."""
    found: dict[str, torch.Tensor] = {}
    for path in checkpoint_files(folder).weights:
        found |= tensors_of(path)
    return found


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, mapped."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({first_line(error)}): copy the checkpoint again"
        ) from error


def read_header(path: Path) -> dict[str, list[int]]:
    """{tensor: shape} of a safetensors file, checked."""
    return {name: [int(n) for n in tensor["shape"]] for name, tensor in _header(path).items()}


def read_types(path: Path) -> dict[str, str]:
    """{tensor: type as the file calls it} of a safetensors file, checked."""
    return {name: str(tensor["dtype"]) for name, tensor in _header(path).items()}


def _header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of each tensor, after checking that every tensor's bytes lie within the file.

    By hand, although `safe_open` makes the same checks: it does not say how many bytes there are and how many there should
    be, from which a user sees that a copy was cut short.
    """
    size = readable(path).stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise InputError(f"{path} is truncated: its header alone needs {length + 8} bytes of {size}: copy it again")
        raw = file.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        header.pop("__metadata__", None)
        shapes = {name: [int(n) for n in tensor["shape"]] for name, tensor in header.items()}
        ends = []
        for name, tensor in header.items():
            begin, end = tensor["data_offsets"]
            if not 0 <= begin <= end or (end - begin) * 8 != math.prod(shapes[name]) * _BITS[tensor["dtype"]]:
                raise InputError(
                    f"{path}: tensor {name} has {end - begin} bytes, not those of its shape: copy the file again"
                )
            ends.append(end)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a safetensors file ({first_line(error)}): copy it again") from error
    promised = 8 + length + max(ends, default=0)
    if promised != size:
        raise InputError(f"{path} is truncated or damaged: {size} bytes, its header promises {promised}: copy it again")
    return header


def convert_pickled(paths: Sequence[Path], out: Path) -> None:
    """Write the tensors of pytorch_model*.bin as one safetensors file.

    Tensors that are one and the same (a decoder tied to the word embeddings) are stored once, under the first name;
    transformers ties them again on loading.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        for name, value in _load_tensors(path).items():
            if not isinstance(value, torch.Tensor):
                raise InputError(
                    f"{path}: {name} is a {type(value).__name__}, not a tensor: save the model's state_dict"
                )
            if value.is_quantized or value.is_meta or value.layout != torch.strided or value.is_complex():
                kind = "meta" if value.is_meta else "complex" if value.is_complex() else "quantized or sparse"
                raise InputError(f"{path}: {name} is a {kind} tensor: save the plain weights of the model")
            tensors[name] = value
    seen: set[tuple[Any, ...]] = set()
    kept = {}
    stored, needed = sum(path.stat().st_size for path in paths), 0
    for name in sorted(tensors, key=lambda name: ("embeddings" not in name, name)):
        tensor = tensors[name]
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        needed += tensor.nbytes
        if needed > STRETCHED * stored:
            raise InputError(
                f"{paths[0]}: {name} is of shape {list(tensor.shape)}, and the tensors up to it have {needed:,} bytes where "
                f"{stored:,} are stored: save the plain weights of the model"
            )
        kept[name] = tensor.contiguous().clone()  # a slice of a larger storage must not drag the rest along
    save_file(kept, out, metadata={"format": "pt"})


def _load_tensors(path: Path) -> dict[str, Any]:
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        # torch's own message advises to load the file without the restriction, which runs what it names.
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"names {named[1]}, which is never run here" if named else "its pickle is none of a state_dict"
        raise InputError(f"{path} holds more than tensors ({what}): save the state_dict as safetensors") from error
    except MemoryError:
        raise  # no fault of the file
    except Exception as error:  # a damaged file can raise almost anything
        raise InputError(f"{path} is not a readable torch file ({first_line(error)}): copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state_dict: save the model's state_dict")
    return content
