"""Models: a pretrained encoder under a fresh head, always one of its family's two plain transformers classes.

A sequence classifier reads one row of a cell, the first (`cls`, `first`). A token classifier gives logits at every row: those
of genes are a gene classifier's answers, and their mean is a cell's answer under the readout `mean`. Several tasks share
one head whose outputs lie side by side. Nothing here trains.

Shapes: B cells of a batch, N places of the longest, D hidden size, S outputs of all tasks.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankshift.jobs.finetuning.labels.labels import Task
from rankshift.jobs.training.families.family import TrainedFamily, family_of_config, trained_family
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame

POOLS = ("auto", "cls", "first", "mean")
Classifier: TypeAlias = PreTrainedModel


def readout(pool: str, frame: Frame) -> str:
    """Which rows of a cell the head reads: `cls`, `first` or `mean` (of the genes).

    auto is cls where cells have it, as published, and mean where they do not: the first row of a plain cell is its
    top-ranked gene, whichever that is, and what the published classifier reads there.
    """
    if pool not in POOLS:
        raise InputError(f"--pool {pool!r} is unknown: use one of {', '.join(POOLS)}")
    if pool == "cls" and not frame.head:
        raise InputError("--pool cls needs cells framed by <cls>, these are not: use mean or first")
    if pool == "first" and frame.head:
        raise InputError("--pool first reads <cls> in framed cells: say cls")
    return ("cls" if frame.head else "mean") if pool == "auto" else pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What the outputs mean. tasks: side by side in this order. per_row: logits at every row, else one row a cell."""

    tasks: tuple[Task, ...]
    per_row: bool

    @property
    def slices(self) -> tuple[slice, ...]:
        """Outputs of each task."""
        ends = [sum(task.width for task in self.tasks[: i + 1]) for i in range(len(self.tasks))]
        return tuple(slice(end - task.width, end) for end, task in zip(ends, self.tasks, strict=True))

    @property
    def names(self) -> list[str]:
        """Name of every output: the class, or column=class where there are several tasks."""
        if len(self.tasks) == 1:
            return list(self.tasks[0].classes) or [self.tasks[0].name]
        return [f"{task.name}={name}" for task in self.tasks for name in task.classes]


def new_model(bundle: Bundle, head: Head, dropout: float | None = None) -> Classifier:
    """The bundle's encoder with a freshly drawn head (and pooler), on the CPU in float32; seed torch before.

    dropout: of the encoder and before the head; None: as the encoder was trained. A head that the bundle may have is not
    taken over: its classes are others.
    """
    bundle.family.check_config(bundle.config)
    family = trained_family(bundle.family)
    config = family.stored_config({k: v for k, v in bundle.config.items() if k not in ("finetuning", "problem_type")})
    config.id2label = dict(enumerate(head.names))
    config.label2id = {name: i for i, name in config.id2label.items()}
    if not any(task.classes for task in head.tasks):
        config.problem_type = "regression"
    if dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        config.classifier_dropout = None
    model = family.classifier(config, head.per_row)
    weights = {k: v.float() for k, v in bundle.encoder_weights().items() if not k.endswith("position_ids")}
    missing, unexpected = family.encoder(model).load_state_dict(weights, strict=False)
    lacking = [name for name in missing if not family.is_head(name)]
    if lacking or unexpected:
        raise InputError(
            f"{bundle.path} is no complete {bundle.family.name} encoder ({(lacking or unexpected)[0]}): make the bundle again"
        )
    return model


def freeze(model: Classifier, layers: int) -> None:
    """Freeze the first `layers` encoder layers; embeddings and everything above go on learning, as published."""
    there = model.config.num_hidden_layers
    if not 0 <= layers <= there:
        raise InputError(f"--freeze {layers} of {there} layers: give 0 to {there}")
    for layer in family_of_config(model.config).layers(model)[:layers]:
        layer.requires_grad_(False)


def cell_logits(model: Classifier, ids: Tensor, real: Tensor | None, frame: Frame) -> Tensor:
    """(B, S) from ids int64 (B, N) and real bool (B, N), False on padding, None where there is none.

    A model with logits at every row gives their mean over the rows of genes, without padding and special tokens.
    """
    logits = model(input_ids=ids, attention_mask=real).logits
    if logits.ndim == 2:
        return logits
    gene_BN = torch.ones_like(ids, dtype=torch.bool) if real is None else real.clone()
    last_B = gene_BN.sum(dim=1)
    for i in range(frame.tail):
        gene_BN[torch.arange(len(ids)), last_B - 1 - i] = False
    gene_BN[:, : frame.head] = False
    weight_BN = gene_BN / gene_BN.sum(dim=1, keepdim=True)
    return torch.einsum("bns,bn->bs", logits.float(), weight_BN)


def reading(family: TrainedFamily, head: Head, pool: str | None) -> str:
    """How a cell's (or gene's) logits are read off the model in plain transformers, in words for the config."""
    kind = family.classifier_name(head.per_row)
    if not head.per_row:
        return f"{kind}(input_ids).logits"
    if pool is None:
        return f"{kind}(input_ids).logits at the gene's row; of a gene, the mean probability over its rows"
    return f"{kind}(input_ids).logits, mean over the rows of genes (not <cls>, <eos>, <pad>)"


def label_slices(head: Head) -> dict[str, dict]:
    """{task: {from, to, classes}}: which outputs are whose, for the config."""
    return {
        task.name: {"from": part.start, "to": part.stop, "classes": list(task.classes), "weight": task.weight}
        for task, part in zip(head.tasks, head.slices, strict=True)
    }
