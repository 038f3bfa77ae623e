"""Collators with the published names: examples of a data set as one padded batch of tensors, for a Trainer of transformers.

Shapes: B examples, N places of the longest, or of what the padding asks for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rankshift.compat.inputs import count, one_of
from rankshift.screen.errors import InputError

PAD = "<pad>"


@dataclass
class _Collator:
    """padding: True or "longest" (of the batch), or "max_length". token_dictionary: says which token pads, else 0 does."""

    token_dictionary: Mapping[str, int] | None = None
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = -100
    return_tensors: str = "pt"

    def __post_init__(self) -> None:
        if self.padding not in (True, "longest", "max_length"):
            raise InputError(f"padding is {self.padding!r}: use True, 'longest' or 'max_length'")
        if self.padding == "max_length" and self.max_length is None:
            raise InputError("padding='max_length' needs max_length: give it")
        count("max_length", self.max_length, none=True)
        count("pad_to_multiple_of", self.pad_to_multiple_of, none=True)
        one_of("return_tensors", self.return_tensors, ("pt",))

    def _padded(self, features: Sequence[Mapping[str, Any]]) -> tuple[list[np.ndarray], dict[str, Tensor]]:
        """The lists, and input_ids int64 (B, N) with attention_mask int64 (B, N), 0 on padding."""
        lists = [np.asarray(feature["input_ids"], np.int64) for feature in features]
        size = max(map(len, lists))
        if self.padding == "max_length":
            assert self.max_length is not None
            if size > self.max_length:
                raise InputError(f"an example has {size} tokens, max_length is {self.max_length}: give at least {size}")
            size = self.max_length
        step = self.pad_to_multiple_of or 1
        size = -(-size // step) * step
        ids = np.full((len(lists), size), int((self.token_dictionary or {}).get(PAD, 0)), np.int64)
        real = np.zeros((len(lists), size), np.int64)
        for row, some in enumerate(lists):
            ids[row, : len(some)] = some
            real[row, : len(some)] = 1
        return lists, {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(real)}


@dataclass
class DataCollatorForCellClassification(_Collator):
    """Examples with input_ids and label (B,) as input_ids, attention_mask (B, N) and labels int64 (B,)."""

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch; `label` may be missing from all examples."""
        _, batch = self._padded(features)
        if "label" in features[0]:
            batch["labels"] = torch.tensor([int(feature["label"]) for feature in features])
        return batch


@dataclass
class DataCollatorForGeneClassification(_Collator):
    """Examples with input_ids and labels, one a place, as three int64 (B, N): input_ids, attention_mask and labels."""

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch; `labels` may be missing from all examples."""
        lists, batch = self._padded(features)
        if "labels" in features[0]:
            labels = torch.full_like(batch["input_ids"], self.label_pad_token_id)
            for row, (some, feature) in enumerate(zip(lists, features, strict=True)):
                told = np.asarray(feature["labels"], np.int64)
                if len(told) != len(some):
                    raise InputError(
                        f"an example has {len(some)} tokens and {len(told)} labels: give one for each token"
                    )
                labels[row, : len(some)] = torch.from_numpy(told)
            batch["labels"] = labels
        return batch
