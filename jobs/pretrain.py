"""Masked-gene pretraining: hide genes of a cell's rank list and learn to name them from the rest, in one plain loop.

It makes the first bundle of a vocabulary. It trains one encoder on one device; it reads token tables, never counts.

Shapes: B cells of a batch, N places of its longest list, M hidden genes, D hidden size, V tokens.
"""

import hashlib
import math
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging

from rankshift.jobs.checkpoint import load, save, stop_flag
from rankshift.jobs.masking import Batch, hide, length_batches
from rankshift.jobs.progress import progress
from rankshift.screen.bundle import Bundle, make_bundle
from rankshift.screen.cells import Cells
from rankshift.screen.encoder import default_device
from rankshift.screen.errors import InputError
from rankshift.screen.genes import Vocabulary
from rankshift.screen.tokens import Draft

NO_LIMIT = 2**31 - 1
RECENT = 100  # steps that the training loss is averaged over
SAVE_EVERY = 600.0  # seconds between two saves of an unfinished training
SHOW_EVERY = 10  # steps between two readings of the loss, because each waits for the device
SPLIT, ORDER, HIDE, DROP, JUDGE = range(5)  # streams of random numbers: each has its seeds to itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """How to pretrain. The shape is that of the smallest published model, V1-10M (semantics 1)."""

    layers: int = 6
    width: int = 256
    heads: int = 4  # of 64 dimensions, as in every published model
    inner: int = 512  # twice the width, as in the 30M and 95M series
    input_size: int | None = None  # positions; None: the longest list, because a place no cell reaches is never trained
    dropout: float = 0.02  # hidden and attention, as published
    hidden_share: float = 0.15  # of the genes, as published
    initializer: float = 0.02  # standard deviation of new weights, as published; narrow models learn sooner with more
    epochs: int = 3  # as published
    batch_tokens: int = 24_576  # places of a batch, padding included: 12 cells of 2048, the published batch of a GPU
    learning_rate: float = 1e-3  # peak, as published for V1-10M
    warmup: float = 0.02  # share of the training: 10,000 of 570,963 published steps
    weight_decay: float = 0.001  # as published; not on biases and LayerNorms
    clip: float = 1.0  # length of the gradient at most, the default of the published trainer
    held_out: float = 0.05  # share of the cells that is never trained on; the published trainer keeps none
    dtype: str = "auto"  # of matrix products: bfloat16 on a GPU, where it is about five times faster, else float32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            *((n, 1) for n in ("layers", "width", "heads", "inner", "epochs", "batch_tokens")),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: give at least {least}")
        if self.width % self.heads:
            raise InputError(f"width {self.width} is no multiple of {self.heads} heads: give 64 dimensions a head")
        for name in ("hidden_share", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a share between 0 and 1")
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a share from 0 to below 1")
        for name in ("learning_rate", "clip", "initializer"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}: give a positive number")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay is {self.weight_decay}: give 0 or a positive number")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise InputError(f"dtype {self.dtype!r} cannot train: use auto, float32 or bfloat16")


def pretrain(
    cells: Path | str,
    vocabulary: Path | str,
    out: Path | str,
    options: Pretraining | None = None,
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Bundle:
    """Pretrain an encoder on a token table and write it, with its vocabulary, as the bundle `out`.

    The losses, in nats per hidden gene, stay in the bundle's config.json under `pretraining`, beside the entropy of the
    genes' frequencies. Stopped (Ctrl-C), it leaves `<out>.training`, from which `resume` goes on to the same weights.
    Raises InputError on what does not fit, before training.
    """
    cells, out, options = Path(cells), Path(out), options or Pretraining()
    unfinished = out.with_name(out.name + ".training")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists: give another --out")
    if unfinished.exists() and not resume:
        raise InputError(f"{unfinished} is an unfinished training: continue it with --resume, or remove it")
    draft = Draft.open(Path(vocabulary), options.input_size or NO_LIMIT)
    table = Cells.read(cells, draft)
    for note in table.notes:
        say(note)
    train, judged = split(len(table), options)
    known = table.take(train).ids
    unigram = {
        "unigram_entropy": unigram_entropy(known, draft.vocabulary),
        "held_out_unigram": unigram_loss(known, table.take(judged).ids, draft.vocabulary),
    }
    identity = {**asdict(options), "cells_sha256": _digest(table), "tokens_sha256": draft.vocabulary.tokens_sha256}
    places = options.input_size or int(table.lengths.max())
    device = torch.device(default_device())
    with torch.random.fork_rng():  # the caller's random numbers stay as they were
        torch.manual_seed(options.seed)
        model = new_model(options, draft.vocabulary, known, places).to(device)
        training = Training(model=model, optimizer=adamw(model, options), loss=torch.zeros((), device=device))
        if unfinished.exists():
            training.load(unfinished, identity)
            say(f"going on after step {training.step}")
        weights = sum(p.numel() for p in model.parameters())
        say(f"{len(train):,} cells to train on, {len(judged):,} held out; {weights:,} weights on {device}")
        try:
            fit(training, table, train, draft.vocabulary, options, lambda: training.save(unfinished, identity))
        except KeyboardInterrupt:
            say(f"stopped after step {training.step}: {unfinished} keeps the training for --resume")
            raise
        judgement = held_out_loss(model, table, judged, draft.vocabulary, options)
    losses = {"loss": float(training.loss), "held_out_loss": judgement, **unigram}
    say(summary(losses))
    model.config.pretraining = {**losses, "steps": training.step, "train_cells": len(train), **identity}
    bundle = _write(model, Path(vocabulary), out)
    unfinished.unlink(missing_ok=True)
    say(f"{out}: weights {bundle.weights_sha256[:12]}")
    return bundle


@dataclass(kw_only=True, slots=True)
class Training:
    """A training under way. step: steps done. loss: mean over the last RECENT of them, nats per hidden gene."""

    model: BertForMaskedLM
    optimizer: torch.optim.Optimizer
    loss: Tensor
    step: int = 0

    def save(self, path: Path, identity: dict) -> None:
        """Write everything it needs to go on; `identity` says which training it is."""
        save(path, self.model, self.optimizer, {"step": self.step, "loss": float(self.loss), "identity": identity})

    def load(self, path: Path, identity: dict) -> None:
        """Continue the training saved at `path`, if it is this one."""
        record = load(path, self.model, self.optimizer)
        if record["identity"] != identity:
            raise InputError(f"{path} is a training of other cells or options: give those again, or remove it")
        self.step = record["step"]
        self.loss.fill_(record["loss"])


def fit(
    training: Training,
    table: Cells,
    train: np.ndarray,
    vocabulary: Vocabulary,
    options: Pretraining,
    keep: Callable[[], None],
) -> None:
    """Train to the end, from the step the training is at. `keep` is called now and then, and before a stop is passed on.

    Every step has its own seeds and its place in the schedule, so where it is interrupted leaves no trace.
    """
    model, optimizer, device, lengths = training.model, training.optimizer, training.loss.device, table.lengths
    step, seen, total, kept, note = 0, 0, options.epochs * len(train), monotonic(), ""
    model.train()
    with stop_flag() as stopped, progress("cells", total) as done:
        for epoch in range(options.epochs):
            for rows in length_batches(train, lengths, options.batch_tokens, (options.seed, ORDER, epoch)):
                middle = (seen + len(rows) / 2) / total
                seen, step = seen + len(rows), step + 1
                if step > training.step:
                    batch = hide(table, rows, vocabulary, options.hidden_share, (options.seed, HIDE, step)).to(device)
                    torch.manual_seed(_seed(options.seed, DROP, step))
                    with torch.autocast(device.type, torch.bfloat16, enabled=_half(options, device)):
                        loss = masked_loss(model, batch)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
                    for group in optimizer.param_groups:
                        group["lr"] = options.learning_rate * schedule(middle, options.warmup)
                    optimizer.step()
                    optimizer.zero_grad()
                    training.step = step
                    training.loss += (loss.detach() - training.loss) / min(step, RECENT)
                    if monotonic() - kept > SAVE_EVERY:
                        keep()
                        kept = monotonic()
                    if step % SHOW_EVERY == 0:
                        note = f"loss {float(training.loss):.3f}"
                done(len(rows), note)
                if stopped():
                    keep()
                    raise KeyboardInterrupt


def masked_loss(model: BertForMaskedLM, batch: Batch) -> Tensor:
    """Mean cross-entropy over the hidden genes, in nats. The head sees their rows only: (M, V) logits, never (B, N, V)."""
    hidden_BND = model.bert(input_ids=batch.shown, attention_mask=batch.real).last_hidden_state
    logits_MV = model.cls(hidden_BND[batch.hidden])
    return F.cross_entropy(logits_MV.float(), batch.genes)


@torch.no_grad()
def held_out_loss(
    model: BertForMaskedLM, table: Cells, rows: np.ndarray, vocabulary: Vocabulary, options: Pretraining
) -> float:
    """Mean loss over the hidden genes of cells that were not trained on; the same genes are hidden every time."""
    total, count = 0.0, 0
    model.eval()
    for i, some in enumerate(length_batches(rows, table.lengths, options.batch_tokens, (options.seed, JUDGE))):
        batch = hide(table, some, vocabulary, options.hidden_share, (options.seed, JUDGE, i)).to(model.device)
        total += float(masked_loss(model, batch)) * len(batch.genes)
        count += len(batch.genes)
    return total / count


def schedule(done: float, warmup: float) -> float:
    """Share of the peak learning rate when a share `done` of the training is over: up linearly, then down to 0.

    >>> schedule(0.125, 0.25), schedule(0.25, 0.25), schedule(1.0, 0.25)
    (0.5, 1.0, 0.0)
    """
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def unigram_entropy(ids: np.ndarray, vocabulary: Vocabulary) -> float:
    """Entropy of the genes' frequencies in nats, -sum p log p: the loss of a model that knows nothing else."""
    count = np.bincount(ids[vocabulary.is_gene[ids]])
    p = count[count > 0] / count.sum()
    return float(-(p * np.log(p)).sum())


def unigram_loss(known: np.ndarray, ids: np.ndarray, vocabulary: Vocabulary) -> float:
    """Mean loss in nats, on the genes of `ids`, of a model that knows only how often each gene is in `known`."""
    return float(-unigram_logs(known, vocabulary)[ids[vocabulary.is_gene[ids]]].mean())


def unigram_logs(ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Log frequency by token [V]; half a sighting is added to each, so what was not seen is rare, not impossible."""
    count = np.bincount(ids, minlength=vocabulary.size) * vocabulary.is_gene + 0.5
    return np.asarray(np.log(count / count.sum()))


def summary(losses: Mapping[str, float]) -> str:
    """The losses in a sentence, each beside what gene frequencies alone give."""
    return (
        f"loss {losses['loss']:.3f} nats a gene (unigram entropy {losses['unigram_entropy']:.3f}), "
        f"on held-out cells {losses['held_out_loss']:.3f} (unigram {losses['held_out_unigram']:.3f})"
    )


def split(cells: int, options: Pretraining) -> tuple[np.ndarray, np.ndarray]:
    """Random rows to train on and rows held out, each in rising order."""
    if cells < 2:
        raise InputError(f"{cells} cell cannot be split into training and held-out cells: give at least 2")
    order = np.random.default_rng((options.seed, SPLIT)).permutation(cells)
    n = min(max(1, round(options.held_out * cells)), cells - 1)
    return np.sort(order[n:]), np.sort(order[:n])


def new_model(options: Pretraining, vocabulary: Vocabulary, ids: np.ndarray, places: int) -> BertForMaskedLM:
    """Random weights, and in the head's bias the log frequencies of the genes in `ids`.

    The first loss is then about the unigram entropy, and no step is spent on learning how common genes are.
    """
    model = BertForMaskedLM(bert_config(options, vocabulary, places))
    with torch.no_grad():
        model.cls.predictions.bias.copy_(torch.from_numpy(unigram_logs(ids, vocabulary)))
    return model


def bert_config(options: Pretraining, vocabulary: Vocabulary, places: int) -> BertConfig:
    """The model's configuration; what the options do not name is as in every published model (semantics 1)."""
    return BertConfig(
        vocab_size=vocabulary.size,
        pad_token_id=vocabulary.special.pad,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=options.inner,
        max_position_embeddings=places,
        hidden_act="relu",
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        layer_norm_eps=1e-12,
        initializer_range=options.initializer,
    )


def adamw(model: BertForMaskedLM, options: Pretraining) -> torch.optim.AdamW:
    """AdamW that lets matrices decay, and leaves biases and LayerNorms alone."""
    weights = list(model.parameters())
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in weights if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)


def _half(options: Pretraining, device: torch.device) -> bool:
    return options.dtype == "bfloat16" or (options.dtype == "auto" and device.type == "cuda")


def _seed(*stream: int) -> int:
    return int(np.random.SeedSequence(stream).generate_state(1)[0])


def _digest(cells: Cells) -> str:
    return hashlib.sha256(cells.ids.tobytes() + cells.offsets.tobytes()).hexdigest()


def _write(model: BertForMaskedLM, vocabulary: Path, out: Path) -> Bundle:
    out.parent.mkdir(parents=True, exist_ok=True)
    making = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.model")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of writing one small file
    try:
        model.save_pretrained(making)
        return make_bundle(making, vocabulary, out)
    finally:
        if bars:
            logging.enable_progress_bar()
        shutil.rmtree(making, ignore_errors=True)
