"""BERT: names in its configurations and checkpoints, and its encoder for inference; no head, no padding, no mask.

It does not train, and it refuses by name what it does not implement.

Shapes: T packed rows of a batch, P lists, N rows of a list, D hidden size, H heads, E head size, F intermediate size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from rankshift.kernels.first_row_attention import first_row_attention
from rankshift.kernels.perturbed_lists import PerturbedLists
from rankshift.kernels.rank_shift import EmbeddingTables, rank_shift
from rankshift.kernels.token_rows import token_rows
from rankshift.screen.errors import InputError
from rankshift.screen.families.operators import ACTIVATIONS, Operators, Runs, Weight
from rankshift.screen.families.originals import Rows, place
from rankshift.screen.families.sizes import Sizes

T = TypeVar("T")  # a tensor, or what is known of it
PREFIXES = ("bert.", "", "model.bert.", "base_model.model.bert.")
ANCHOR = "embeddings.word_embeddings.weight"
EPS = 1e-12  # of a LayerNorm, where the configuration does not say it


class Bert:
    """The family: BertModel of transformers and every model around it."""

    model_type = "bert"
    name = "BERT"
    counts = (
        "vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    )  # fmt: skip

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Refuse, by name, a BertConfig that asks for what this encoder does not do."""
        eps = config.get("layer_norm_eps", EPS)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
            raise InputError(f"layer_norm_eps is {eps!r}, a small positive number is needed: repair config.json")
        if config.get("hidden_act") not in list(ACTIVATIONS):
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
            raise InputError(
                f"hidden_size {config['hidden_size']} is no multiple of {config['num_attention_heads']} heads"
            )

    def sizes(self, config: Mapping[str, Any]) -> Sizes:
        """The shape of a model."""
        d, f = int(config["hidden_size"]), int(config["intermediate_size"])
        return Sizes(
            layers=int(config["num_hidden_layers"]),
            hidden_size=d,
            intermediate_size=f,
            heads=int(config["num_attention_heads"]),
            vocabulary=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
            layer_weights=4 * d * d + 2 * d * f,
        )

    def tables(self, config: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
        """The embeddings that a checkpoint must hold."""
        d = config["hidden_size"]
        return {
            "word": (ANCHOR, [config["vocab_size"], d]),
            "position": ("embeddings.position_embeddings.weight", [config["max_position_embeddings"], d]),
        }

    def shapes(self, config: Mapping[str, Any]) -> dict[str, tuple[int | None, ...]]:
        """Shapes of all tensors of the encoder, by their names in it; None: any number of rows."""
        d, f = config["hidden_size"], config["intermediate_size"]
        word, position = (tuple(shape) for _, shape in self.tables(config).values())
        table, norm = "embeddings.{}_embeddings.weight", {"LayerNorm.weight": (d,), "LayerNorm.bias": (d,)}
        of: dict[str, tuple[int | None, ...]] = {ANCHOR: word, table.format("position"): position}
        of |= {table.format("token_type"): (None, d), **{f"embeddings.{name}": shape for name, shape in norm.items()}}
        attention = [f"attention.self.{name}" for name in ("query", "key", "value")] + ["attention.output.dense"]
        linear = {**dict.fromkeys(attention, (d, d)), "intermediate.dense": (f, d), "output.dense": (d, f)}
        for i in range(config["num_hidden_layers"]):
            at = f"encoder.layer.{i}."
            for name, shape in linear.items():
                of |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
            for block in ("attention.output.", "output."):
                of |= {f"{at}{block}{name}": shape for name, shape in norm.items()}
        return of

    def layer_name(self, tensor: str) -> str | None:
        """Name within BertModel, as `encoder.layer.0.attention.self.query.weight`; None of a head's tensor."""
        name = tensor.removeprefix("base_model.model.").removeprefix("bert.")
        return name if name.startswith(("encoder.", "embeddings.")) else None

    def encoder_weights(self, found: Mapping[str, T]) -> dict[str, T] | None:
        """The encoder's tensors among those of a model, without the prefix of the model around it; None if it has none."""
        prefix = next((p for p in PREFIXES if p + ANCHOR in found), None)
        if prefix is None:
            return None
        modern = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
        encoder: dict[str, T] = {}
        for key, value in found.items():
            if key.startswith(prefix + "embeddings.") or key.startswith(prefix + "encoder."):
                short = key.removeprefix(prefix)
                for old, new in modern.items():
                    short = short.replace(old, new)
                encoder[short] = value
        return encoder

    def load(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], operators: Operators) -> "BertModel":
        """The encoder on a device. Raises KeyError naming a tensor that is missing."""
        return BertModel(config, self.sizes(config), weights, operators)


BERT = Bert()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Weights of one encoder layer, [in, out] so that a batch is multiplied from the left."""

    qkv: Weight  # (D, 3D)
    qkv_bias: Tensor
    out: Weight  # (D, D)
    out_bias: Tensor
    norm: tuple[Tensor, Tensor]
    up: Weight  # (D, F)
    up_bias: Tensor
    down: Weight  # (F, D)
    down_bias: Tensor
    down_norm: tuple[Tensor, Tensor]


class BertModel:
    """The weights of a BERT encoder on a device, and the steps of its forward pass."""

    def __init__(
        self, config: Mapping[str, Any], sizes: Sizes, weights: Mapping[str, Tensor], operators: Operators
    ) -> None:
        self._do, self._sizes = operators, sizes
        self.eps: float = config.get("layer_norm_eps", EPS)
        self.activation: str = config["hidden_act"]
        self.tables = self._tables(weights)
        self.layers = [self._layer(weights, i) for i in range(sizes.layers)]
        self._wide: dict[int, tuple[Tensor, Tensor]] = {}

    def _tables(self, w: Mapping[str, Tensor]) -> EmbeddingTables:
        e, held = "embeddings.", self._do.float
        return EmbeddingTables(
            word=held(w[ANCHOR]),
            position=held(w[e + "position_embeddings.weight"]),
            type_row=held(w[e + "token_type_embeddings.weight"][0]),
            gamma=held(w[e + "LayerNorm.weight"]),
            beta=held(w[e + "LayerNorm.bias"]),
            eps=self.eps,
        )

    def _layer(self, w: Mapping[str, Tensor], i: int) -> Layer:
        at, do = f"encoder.layer.{i}.", self._do

        def matrix(*names: str) -> Weight:
            return do.matrix(torch.cat([w[f"{at}{n}.weight"] for n in names]))

        def bias(*names: str) -> Tensor:
            return do.vector(torch.cat([w[f"{at}{n}.bias"] for n in names]))

        def norm(name: str) -> tuple[Tensor, Tensor]:
            return do.float(w[f"{at}{name}.weight"]), do.float(w[f"{at}{name}.bias"])

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

    def embed(self, lists: PerturbedLists) -> Tensor:
        """The rows (T, D) that the first layer reads."""
        return rank_shift(lists, self.tables, torch.float32)

    def embed_tokens(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The same for single tokens [n] that stand at `positions` [n]."""
        return token_rows(tokens, positions, self.tables)

    def qkv(self, layer: int, x: Tensor, rows: Rows | None = None) -> Tensor:
        """Queries, keys and values (T, 3D) of a layer; queries are not scaled."""
        weights = self.layers[layer]
        return self._do.product(x, weights.qkv, weights.qkv_bias, place(rows, layer, "qkv"))

    def queries_and_keys(self, layer: int, x: Tensor) -> Tensor:
        """The first two thirds of `qkv`."""
        d, weights = self._sizes.hidden_size, self.layers[layer]
        return self._do.product(x, weights.qkv[:, : 2 * d], weights.qkv_bias[: 2 * d])

    def finish(self, layer: int, x: Tensor, attended: Tensor, rows: Rows | None = None) -> Tensor:
        """The layer behind its attention: output projection, two-layer perceptron, both residuals and LayerNorms."""
        w = self.layers[layer]
        out, up_at, down_at = (place(rows, layer, name) for name in ("out", "up", "down"))
        x = self._do.norm_of_sum(x, attended, w.out, w.out_bias, w.norm, self.eps, out)
        up, down = (w.up, w.up_bias), (w.down, w.down_bias)
        return self._do.perceptron(x, up, down, self.activation, w.down_norm, self.eps, (up_at, down_at))

    def _wide_qkv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Weights (D, 3D) and bias of queries, keys and values in float32, kept: of the one layer that is measured."""
        if layer not in self._wide:
            weights = self.layers[layer]
            self._wide[layer] = weights.qkv.float(), weights.qkv_bias.float()
        return self._wide[layer]

    def first_rows(self, layer: int, x: Tensor, runs: Runs, start: Tensor, rows: Rows | None = None) -> Tensor:
        """A layer's output at the first row of every list, (P, D), from the rows of the layer below.

        Keys and values are never projected: q.(Wk h) = (Wk^T q).h and sum p (Wv h) = Wv (sum p h); the keys' bias adds a
        constant to all logits of a query and drops out of the softmax.
        """
        d, h = self._sizes.hidden_size, self._sizes.heads
        first_PD = x[start[:-1]]
        weight, bias = self._wide_qkv(layer)
        q_PHE = torch.addmm(bias[:d], first_PD, weight[:, :d]).view(-1, h, d // h)
        w_key, w_value = (weight[:, i * d : (i + 1) * d].view(d, h, d // h) for i in (1, 2))
        u_PHD = torch.einsum("phe,dhe->phd", q_PHE, w_key) * (d // h) ** -0.5
        rows_PHD = first_row_attention(x, u_PHD, runs, start)
        attended_PD = torch.einsum("phd,dhe->phe", rows_PHD, w_value).reshape(-1, d) + bias[2 * d :]
        return self.finish(
            layer, first_PD, attended_PD.to(self._do.dtype), None if rows is None else rows.of_first_rows
        )
