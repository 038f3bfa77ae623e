"""A family that only the tests have: RoBERTa with LayerNorm in front of each block, places that begin behind <pad>'s number,
and one LayerNorm at the end. What stands here is all that a family's file has to hold."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rankshift.kernels.perturbed_lists import PerturbedLists
from rankshift.kernels.rank_shift import EmbeddingTables, rank_shift
from rankshift.screen.errors import InputError
from rankshift.screen.families.operators import ACTIVATIONS, Operators, Runs, Weight
from rankshift.screen.families.originals import Rows, place
from rankshift.screen.families.sizes import Sizes

PREFIX = "roberta_prelayernorm."


class PreLayerNorm:
    """The family."""

    model_type = "roberta-prelayernorm"
    name = "RoBERTa-PreLayerNorm"
    counts = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads")

    def check_config(self, config: Mapping[str, Any]) -> None:
        if config["hidden_act"] not in ACTIVATIONS:
            raise InputError(f"hidden_act {config['hidden_act']!r} is not implemented")

    def sizes(self, config: Mapping[str, Any]) -> Sizes:
        d, f = config["hidden_size"], config["intermediate_size"]
        return Sizes(
            layers=config["num_hidden_layers"],
            hidden_size=d,
            intermediate_size=f,
            heads=config["num_attention_heads"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"] - config["pad_token_id"] - 1,
            layer_weights=4 * d * d + 2 * d * f,
        )

    def tables(self, config: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
        rows = {"word": config["vocab_size"], "position": config["max_position_embeddings"]}
        return {part: (f"embeddings.{part}_embeddings.weight", [n, config["hidden_size"]]) for part, n in rows.items()}

    def shapes(self, config: Mapping[str, Any]) -> dict[str, tuple[int | None, ...]]:
        d, f = config["hidden_size"], config["intermediate_size"]
        tables = {name: tuple(shape) for name, shape in self.tables(config).values()}
        norms = ["embeddings.LayerNorm", "LayerNorm"]
        linear = {}
        for i in range(config["num_hidden_layers"]):
            at = f"encoder.layer.{i}."
            norms += [f"{at}attention.LayerNorm", f"{at}intermediate.LayerNorm"]
            linear |= {f"{at}attention.self.{name}": (d, d) for name in ("query", "key", "value")}
            linear |= {
                f"{at}attention.output.dense": (d, d),
                f"{at}intermediate.dense": (f, d),
                f"{at}output.dense": (d, f),
            }
        out = {**tables, "embeddings.token_type_embeddings.weight": (None, d)}
        out |= {f"{name}.weight": shape for name, shape in linear.items()}
        out |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
        return out | {f"{name}.{part}": (d,) for name in norms for part in ("weight", "bias")}

    def layer_name(self, tensor: str) -> str | None:
        name = tensor.removeprefix("base_model.model.").removeprefix(PREFIX)
        return name if name.startswith(("encoder.", "embeddings.", "LayerNorm.")) else None

    def encoder_weights(self, found: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        inside = {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}
        return inside or None

    def load(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], operators: Operators) -> "Loaded":
        return Loaded(config, self.sizes(config), weights, operators)


class Loaded:
    """The weights of a model on a device, by the names of the checkpoint."""

    def __init__(self, config: Mapping[str, Any], sizes: Sizes, w: Mapping[str, Tensor], operators: Operators) -> None:
        self.do, self.sizes, self.eps = operators, sizes, config["layer_norm_eps"]
        self.activate = ACTIVATIONS[config["hidden_act"]]
        self.tables = EmbeddingTables(
            word=operators.float(w["embeddings.word_embeddings.weight"]),
            position=operators.float(w["embeddings.position_embeddings.weight"][config["pad_token_id"] + 1 :]),
            type_row=operators.float(w["embeddings.token_type_embeddings.weight"][0]),
            gamma=operators.float(w["embeddings.LayerNorm.weight"]),
            beta=operators.float(w["embeddings.LayerNorm.bias"]),
            eps=self.eps,
        )
        self.norms = {key: operators.float(value) for key, value in w.items() if "LayerNorm" in key}
        self.linear: dict[str, tuple[Weight, Tensor]] = {}
        for i in range(sizes.layers):
            at = f"encoder.layer.{i}."
            three = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
            self._hold(f"{at}qkv", w, three)
            for name in ("attention.output.dense", "intermediate.dense", "output.dense"):
                self._hold(at + name, w, [at + name])

    def _hold(self, name: str, w: Mapping[str, Tensor], parts: list[str]) -> None:
        weight, bias = (torch.cat([w[f"{part}.{kind}"] for part in parts]) for kind in ("weight", "bias"))
        self.linear[name] = self.do.matrix(weight), self.do.vector(bias)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        d = self.sizes.hidden_size
        return F.layer_norm(x, (d,), self.norms[f"{name}.weight"], self.norms[f"{name}.bias"], self.eps)

    def embed(self, lists: PerturbedLists) -> Tensor:
        return rank_shift(lists, self.tables, torch.float32)

    def embed_tokens(self, tokens: Tensor, positions: Tensor) -> Tensor:
        t = self.tables
        return self._norm(t.word[tokens] + t.position[positions] + t.type_row, "embeddings.LayerNorm")

    def qkv(self, layer: int, x: Tensor, rows: Rows | None = None) -> Tensor:
        at = f"encoder.layer.{layer}."
        normed = self._norm(x, f"{at}attention.LayerNorm")
        return self.do.product(normed, *self.linear[f"{at}qkv"], place(rows, layer, "qkv"))

    def queries_and_keys(self, layer: int, x: Tensor) -> Tensor:
        return self.qkv(layer, x)[:, : 2 * self.sizes.hidden_size]

    def finish(self, layer: int, x: Tensor, attended: Tensor, rows: Rows | None = None) -> Tensor:
        at = f"encoder.layer.{layer}."
        out, up, down = (place(rows, layer, name) for name in ("out", "up", "down"))
        x = self.do.add_product(x, attended, *self.linear[f"{at}attention.output.dense"], out)
        normed = self._norm(x, f"{at}intermediate.LayerNorm")
        inner = self.activate(self.do.product(normed, *self.linear[f"{at}intermediate.dense"], up))
        x = self.do.add_product(x, inner, *self.linear[f"{at}output.dense"], down)
        return self._norm(x, "LayerNorm") if layer == self.sizes.layers - 1 else x

    def first_rows(self, layer: int, x: Tensor, runs: Runs, start: Tensor, rows: Rows | None = None) -> Tensor:
        attended = self.do.attention(self.qkv(layer, x, rows), runs, start, self.sizes.heads)
        return self.finish(layer, x[start[:-1]], attended[start[:-1]], None if rows is None else rows.of_first_rows)
