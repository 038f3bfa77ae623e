"""The way a screen is written today, in plain transformers: what the engine is compared with, in speed and in numbers.

The whole BertForMaskedLM with its head, all hidden states kept, perturbed lists built in Python, padded and masked,
aligned copies and one cosine call per row. It is not tuned, except that its batches are of the size that ran fastest.
"""

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BertForMaskedLM
from transformers.utils import logging

BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


def load(path: Path, device: str, dtype: torch.dtype = torch.float32) -> BertForMaskedLM:
    """The checkpoint with its head, for inference."""
    logging.disable_progress_bar()
    return BertForMaskedLM.from_pretrained(path, dtype=dtype).eval().to(device)


def perturbed(ids: list[int], place: int, kind: str, front: int) -> list[int]:
    """The list with the gene at `place` deleted, or moved to `front`."""
    rest = ids[:place] + ids[place + 1 :]
    return rest if kind == "delete" else [*rest[:front], ids[place], *rest[front:]]


@torch.no_grad()
def screen(model: BertForMaskedLM, ids: list[int], kind: str, level: str, lists: int) -> tuple[np.ndarray, float]:
    """Similarities of the first `lists` perturbations of a cell in rank order, and seconds without the original's pass."""
    front = int(level == "cls")  # behind <cls>
    first = front + (kind == "overexpress")  # the gene of highest rank has nowhere to go
    places = range(first, first + lists)
    batch = max(1, BATCH_TOKENS[model.device.type] // len(ids))
    original = torch.tensor([ids], device=model.device)
    before = model(input_ids=original, output_hidden_states=True).hidden_states[-2][0]
    similarities = []
    began = time.perf_counter()
    for start in range(0, lists, batch):
        some = places[start : start + batch]
        rows = [perturbed(ids, place, kind, front) for place in some]
        longest = max(len(row) for row in rows)
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
        after = model(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
        for i, place in enumerate(some):
            if level == "cls":
                similarities.append(F.cosine_similarity(after[i, 0], before[0], dim=-1).item())
                continue
            mine = after[i, kind == "overexpress" : len(rows[i])]
            aligned = before[[k for k in range(len(ids)) if k != place]]
            similarities.append(F.cosine_similarity(mine, aligned, dim=-1).mean().item())
    return np.array(similarities), time.perf_counter() - began
