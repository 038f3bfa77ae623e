"""An inference-only BERT encoder for rank lists: any Hugging Face checkpoint of the family, no head, no padding, no mask.

It computes the layers up to the one that is measured and nothing above, on lists packed one behind the other. It does not
train, and it refuses by name what it does not implement.

Shapes: T packed rows of a batch, P lists, N rows of a list, D hidden size, H heads, E head size, F inner size.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from rankshift.kernels.eight_bit import EightBit, multiplies
from rankshift.kernels.first_layer import first_layer, sharing_pays
from rankshift.kernels.rank_shift import EmbeddingTables, rank_shift
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.batches import Batch
from rankshift.screen.errors import InputError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x, inplace=True),
    "swish": lambda x: F.silu(x, inplace=True),
    "tanh": torch.tanh_,
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PRECISIONS = (*DTYPES, "int8")
Runs = list[tuple[int, int]]
BLOCK_TOKENS = 2400  # rows that run through a layer together on a CPU: its activations stay in the second-level cache
QUERY_BLOCK = 256  # queries whose logits over a list's keys are in cache together
PREFIXES = ("bert.", "", "model.bert.", "base_model.model.bert.")
ANCHOR = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Weights of one encoder layer, [in, out] so that a batch is multiplied from the left."""

    qkv: Tensor | EightBit  # (D, 3D)
    qkv_bias: Tensor
    out: Tensor | EightBit  # (D, D)
    out_bias: Tensor
    norm: tuple[Tensor, Tensor]
    up: Tensor | EightBit  # (D, F)
    up_bias: Tensor
    down: Tensor | EightBit  # (F, D)
    down_bias: Tensor
    down_norm: tuple[Tensor, Tensor]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's safetensors files, encoder weights only, without the prefix of the model around it."""
    index = folder / "model.safetensors.index.json"
    files = (
        sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    )
    found: dict[str, Tensor] = {}
    for name in files:
        try:
            with safe_open(folder / name, framework="pt") as f:
                found |= {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (safe_open is not a mapping)
        except Exception as e:
            raise InputError(f"{folder / name} cannot be read as safetensors ({e}): copy the checkpoint again") from e
    encoder = encoder_weights(found)
    if encoder is None:
        raise InputError(f"{folder} holds no BERT encoder ({ANCHOR} is missing): use a BERT checkpoint")
    return encoder


def encoder_weights(found: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The encoder's tensors among those of a model, without the prefix of the model around it; None if it has none."""
    prefix = next((p for p in PREFIXES if p + ANCHOR in found), None)
    if prefix is None:
        return None
    modern = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    encoder = {}
    for key, value in found.items():
        if key.startswith(prefix + "embeddings.") or key.startswith(prefix + "encoder."):
            short = key.removeprefix(prefix)
            for old, new in modern.items():
                short = short.replace(old, new)
            encoder[short] = value
    return encoder


def check_config(config: dict) -> None:
    """Refuse, by name, a BertConfig that asks for what this encoder does not do."""
    if config.get("hidden_act") not in ACTIVATIONS:
        raise InputError(
            f"hidden_act {config.get('hidden_act')!r} is not implemented: use one of {', '.join(ACTIVATIONS)}"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(
            f"position_embedding_type {config['position_embedding_type']!r} is not implemented: use absolute"
        )
    for flag in ("is_decoder", "add_cross_attention"):
        if config.get(flag):
            raise InputError(f"{flag} is not implemented: use a plain BERT encoder")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise InputError(f"hidden_size {config['hidden_size']} is no multiple of {config['num_attention_heads']} heads")


def measured_layers(config: dict, layer: int) -> int:
    """How many encoder layers run for the hidden states of `layer`, counted back from the last layer's output.

    0 is that of the last layer, -1 of the second to last (PS 3.1), -L for L layers the embeddings below the first.
    """
    count = int(config["num_hidden_layers"])
    if not -count <= layer <= 0:
        raise InputError(
            f"layer {layer} is not measured: the model has {count} layers, give 0 (the last) down to -{count} (below the first)"
        )
    return count + layer


def default_device() -> str:
    """cuda where there is one, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def one_thread() -> Iterator[None]:
    """Operators on one thread each, because the encoder brings its own threads; what was set before comes back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _beside_eight_bits(device: torch.device) -> torch.dtype:
    """Type of what stays wider than 8 bits, attention above all: 16 bits where they are fast."""
    if device.type == "cuda":
        return torch.float16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _alone() -> None:
    torch.set_num_threads(1)  # of this thread of ours; oneDNN and OpenMP count per thread, MKL for the process


def _attend_in_blocks(q_PHNE: Tensor, k_PHNE: Tensor, v_PHNE: Tensor, out_PNHE: Tensor) -> None:
    """Attention by batched products over blocks of queries, for 16 bits on a CPU: torch's own kernel computes those products
    at float32 speed there (60 to 70 GFLOP/s a core at 600 genes and more, this 83 to 104)."""
    scale = q_PHNE.shape[-1] ** -0.5
    for p in range(len(q_PHNE)):
        q, k, v = q_PHNE[p].contiguous(), (k_PHNE[p] * scale).transpose(1, 2).contiguous(), v_PHNE[p].contiguous()
        for block in range(0, q.shape[1], QUERY_BLOCK):
            share = torch.bmm(q[:, block : block + QUERY_BLOCK], k).softmax(-1)
            out_PNHE[p, block : block + QUERY_BLOCK] = torch.bmm(share, v).transpose(0, 1)


class Encoder:
    """The weights of one bundle on one device, ready to run packed lists.

    `dtype` is that of the matrix products and of attention; embeddings, residual stream and LayerNorm stay float32,
    because cosine shifts are small (1e-4 to 1e-2) and bfloat16 alone is about thirty times noisier on 1 - cos. int8 are
    8-bit weights and activations (kernel `eight_bit`) beside attention in 16 bits.
    weights: those of the bundle where they are in memory already (`encoder_weights`), else they are read.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        share_first_layer: bool = True,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_config(bundle.config)
        if dtype not in PRECISIONS:
            raise InputError(f"dtype {dtype!r} is unknown: use one of auto, {', '.join(PRECISIONS)}")
        self.config = bundle.config
        self.device = torch.device(device)
        self.eight_bit = dtype == "int8"
        if self.eight_bit:
            sizes = {int(bundle.config[name]) for name in ("hidden_size", "intermediate_size")}
            if lacking := multiplies(self.device, sizes):
                raise InputError(f"dtype int8 needs products of 8-bit integers, {lacking}: use --dtype auto")
        self.dtype = _beside_eight_bits(self.device) if self.eight_bit else DTYPES[dtype]
        self.heads: int = self.config["num_attention_heads"]
        self.width: int = self.config["hidden_size"]
        self.eps: float = self.config.get("layer_norm_eps", 1e-12)
        self.share_first_layer = share_first_layer
        threads = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(threads, initializer=_alone) if self.device.type == "cpu" else None
        self._activate = ACTIVATIONS[self.config["hidden_act"]]
        weights = read_weights(bundle.path) if weights is None else weights
        self.tables = self._tables(weights)
        try:
            self.layers = [self._layer(weights, i) for i in range(self.config["num_hidden_layers"])]
        except KeyError as e:
            raise InputError(
                f"{bundle.path} lacks the weight {e.args[0]}: make the bundle from a complete checkpoint"
            ) from e

    def _float(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, torch.float32, copy=True).contiguous()  # else it keeps the whole file mapped

    def _tables(self, w: Mapping[str, Tensor]) -> EmbeddingTables:
        e = "embeddings."
        return EmbeddingTables(
            word=self._float(w[e + "word_embeddings.weight"]),
            position=self._float(w[e + "position_embeddings.weight"]),
            type_row=self._float(w[e + "token_type_embeddings.weight"][0]),
            gamma=self._float(w[e + "LayerNorm.weight"]),
            beta=self._float(w[e + "LayerNorm.bias"]),
            eps=self.eps,
        )

    def _layer(self, w: Mapping[str, Tensor], i: int) -> Layer:
        at = f"encoder.layer.{i}."

        def matrix(*names: str) -> Tensor | EightBit:
            stacked = torch.cat([w[f"{at}{n}.weight"] for n in names])
            if self.eight_bit:
                return EightBit.of(stacked.to(self.device).T)
            return stacked.to(self.device, self.dtype).contiguous().T

        def bias(*names: str) -> Tensor:
            return torch.cat([w[f"{at}{n}.bias"] for n in names]).to(self.device, self.dtype)

        def norm(name: str) -> tuple[Tensor, Tensor]:
            return self._float(w[f"{at}{name}.weight"]), self._float(w[f"{at}{name}.bias"])

        qkv = [f"attention.self.{n}" for n in ("query", "key", "value")]
        return Layer(
            qkv=matrix(*qkv),
            qkv_bias=bias(*qkv),
            out=matrix("attention.output.dense"),
            out_bias=bias("attention.output.dense"),
            norm=norm("attention.output.LayerNorm"),
            up=matrix("intermediate.dense"),
            up_bias=bias("intermediate.dense"),
            down=matrix("output.dense"),
            down_bias=bias("output.dense"),
            down_norm=norm("output.LayerNorm"),
        )

    def map(
        self, batches: Iterable[Batch], work: Callable[[Batch, Tensor], Any], *, layers: int, first_rows: bool = False
    ) -> Iterator[Any]:
        """`work(block, hidden)` for every block of the batches, in order; see `hidden` for its arguments.

        A GPU runs a batch as one block. A CPU runs blocks of `BLOCK_TOKENS` rows, whose activations stay in cache, on threads
        that share nothing: no barrier inside an operator waits for a core that another program took, and the bits do not
        depend on how many threads there are. The next batch's shared attention is computed beside this one's blocks.
        """
        share = layers > (1 if first_rows else 0)
        if self._threads is None:
            for batch in batches:
                yield work(batch, self.hidden(batch, self._shared(batch) if share else None, layers, first_rows))
            return
        coming = iter(batches)
        following = next(coming, None)
        ready = self._threads.submit(self._shared, following) if share and following is not None else None
        while following is not None:
            batch, attended_TD = following, None if ready is None else ready.result()
            following = next(coming, None)
            ready = self._threads.submit(self._shared, following) if share and following is not None else None

            def task(block: Batch, attended_TD: Tensor | None = attended_TD) -> Any:
                return work(block, self.hidden(block, attended_TD, layers, first_rows))

            yield from self._threads.map(task, batch.blocks(BLOCK_TOKENS))

    @torch.inference_mode()
    def hidden(self, block: Batch, attended_TD: Tensor | None, layers: int, first_rows: bool) -> Tensor:
        """Hidden states after `layers` layers: float32 [T, D], or [P, D] of the lists' first rows with `first_rows`.

        attended_TD: first-layer attention of the batch that the block was cut from, None to compute it here.
        """
        lists = block.lists().to(self.device, non_blocking=True)
        start = lists.start[:-1]
        x = rank_shift(lists, self.tables, torch.float32)  # (T, D)
        for i, layer in enumerate(self.layers[:layers]):
            if first_rows and i == layers - 1:
                return self._first_rows(layer, x, block.runs, start)
            if i == 0 and attended_TD is not None:
                attended = attended_TD[block.first_row : block.first_row + len(x)]
            else:
                attended = self._attention(self._linear(x, layer.qkv, layer.qkv_bias), block.runs)
            x = self._finish(layer, x, attended)
        return x[start] if first_rows else x

    @torch.inference_mode()
    def layer_inputs(self, block: Batch, layers: int) -> Iterator[Tensor]:
        """What each of the first `layers` layers reads, float32 [T, D], one after the other; the next overwrites it."""
        x = rank_shift(block.lists().to(self.device, non_blocking=True), self.tables, torch.float32)
        for layer in self.layers[: layers - 1]:
            yield x
            x = self._finish(layer, x, self._attention(self._linear(x, layer.qkv, layer.qkv_bias), block.runs))
        yield x

    @torch.inference_mode()
    def attention(self, layer: int, rows_ND: Tensor) -> Iterator[Tensor]:
        """Attention weights of each head of layer number `layer` (from 0) in one list: float32 [N, N], query by key.

        rows_ND: what the layer reads (`layer_inputs`). One head at a time is in memory.
        """
        d, size, weights = self.width, self.width // self.heads, self.layers[layer]
        qk = self._linear(rows_ND, weights.qkv[:, : 2 * d], weights.qkv_bias[: 2 * d])
        for at in range(0, d, size):
            logits = (qk[:, at : at + size] @ qk[:, d + at : d + at + size].T).float()
            yield logits.mul_(size**-0.5).softmax(-1)

    def _linear(self, x: Tensor, weight: Tensor | EightBit, bias: Tensor) -> Tensor:
        if isinstance(weight, EightBit):
            return weight.product(x, bias)
        return torch.addmm(bias, x.to(self.dtype), weight)

    def _attention(self, qkv: Tensor, runs: Runs) -> Tensor:
        """Self-attention inside every list, (T, 3D) -> (T, D). Lists of one length go together: nothing is padded."""
        out = torch.empty(len(qkv), self.width, dtype=qkv.dtype, device=qkv.device)
        row = 0
        for count, n in runs:
            rows = slice(row, row + count * n)
            q, k, v = qkv[rows].view(count, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (P, H, N, E) each
            target = out[rows].view(count, n, self.heads, -1)
            if self.dtype != torch.float32 and self.device.type == "cpu":
                _attend_in_blocks(q, k, v, target)
            else:
                target.copy_(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
            row += count * n
        return out

    def _finish(self, layer: Layer, x: Tensor, attended: Tensor) -> Tensor:
        """The layer behind its attention: output projection, inner product, both residuals and LayerNorms. Takes x over."""
        x = F.layer_norm(
            self._add_product(x, attended, layer.out, layer.out_bias), (self.width,), *layer.norm, self.eps
        )
        inner = self._activate(self._linear(x, layer.up, layer.up_bias))
        return F.layer_norm(
            self._add_product(x, inner, layer.down, layer.down_bias), (self.width,), *layer.down_norm, self.eps
        )

    def _add_product(self, x: Tensor, a: Tensor, weight: Tensor | EightBit, bias: Tensor) -> Tensor:
        if isinstance(weight, EightBit):
            return x.add_(weight.product(a, bias.float()))
        if self.dtype == torch.float32:
            return x.add_(bias).addmm_(a, weight)  # the residual is the accumulator
        return x.add_(torch.addmm(bias, a, weight))

    def _first_rows(self, layer: Layer, x_TD: Tensor, runs: Runs, start: Tensor) -> Tensor:
        """A layer's output at the first row of every list, (P, D), from the rows of the layer below.

        Keys and values are never projected: q.(Wk h) = (Wk^T q).h and sum p (Wv h) = Wv (sum p h); the keys' bias adds a
        constant to all logits of a query and drops out of the softmax.
        """
        d, h = self.width, self.heads
        first_PD = x_TD[start]
        weight, bias = layer.qkv.float(), layer.qkv_bias.float()
        q_PHE = torch.addmm(bias[:d], first_PD, weight[:, :d]).view(-1, h, d // h)
        w_key, w_value = (weight[:, i * d : (i + 1) * d].view(d, h, d // h) for i in (1, 2))
        u_PHD = torch.einsum("phe,dhe->phd", q_PHE, w_key) * (d // h) ** -0.5
        parts, row, p = [], 0, 0
        for count, n in runs:
            rows_PND = x_TD[row : row + count * n].view(count, n, d)
            weight_PHN = torch.bmm(u_PHD[p : p + count], rows_PND.transpose(1, 2)).softmax(-1)
            parts.append(torch.bmm(weight_PHN, rows_PND))
            row, p = row + count * n, p + count
        attended_PD = torch.einsum("phd,dhe->phe", torch.cat(parts), w_value).reshape(-1, d) + bias[2 * d :]
        return self._finish(layer, first_PD, attended_PD.to(self.dtype))

    @torch.inference_mode()
    def _shared(self, batch: Batch) -> Tensor | None:
        """First-layer attention (T, D) of single edits of one cell, from Q, K, V of each token at its two or three places.

        None where the lists share nothing or sharing does not pay.
        """
        split = batch.split
        if split is None or not self.share_first_layer:
            return None
        a = batch.arrays
        first, n = int(a.base[0]), int(a.base_length[0])
        if not sharing_pays(n, split.at.tolist(), self.device.type):
            return None
        ids, at = batch.ids[first : first + n], torch.from_numpy(split.at)  # on the CPU: nothing here waits for a GPU
        place = torch.arange(n)
        if split.front is None:
            below, above, extra = place, (place - 1).clamp_(min=0), None
        else:
            token = torch.from_numpy(split.token)
            token = torch.where(token >= 0, token, ids[at.clamp(max=n - 1)])
            below, above = place + (place >= split.front), place
            extra = self._first_qkv(token, torch.full_like(token, split.front))
        below = below.clamp_(max=len(self.tables.position) - 1)  # the last place of a full cell is below no split
        keys = self._first_qkv(ids, below), self._first_qkv(ids, above)
        return first_layer(*keys, extra, at, front=split.front or 0, heads=self.heads).flatten(0, 1)

    def _first_qkv(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """First-layer Q, K, V (n, 3D) of `tokens` standing at `positions`."""
        t, layer = self.tables, self.layers[0]
        token, position = (x.to(self.device, torch.int64, non_blocking=True) for x in (tokens, positions))
        rows = t.word[token] + t.position[position] + t.type_row
        return self._linear(F.layer_norm(rows, (self.width,), t.gamma, t.beta, self.eps), layer.qkv, layer.qkv_bias)
