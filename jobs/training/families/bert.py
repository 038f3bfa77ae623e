"""BERT in transformers: the classes that are trained, and the names inside them.

Shapes: B cells, N places, M rows, D hidden size, V tokens.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

# Values of a config.json that belong to a vocabulary or a checkpoint, not to the shape of a model.
_NO_SHAPE = (
    "vocab_size",
    "pad_token_id",
    "architectures",
    "transformers_version",
    "dtype",
    "model_type",
    "_name_or_path",
)

# Numbers of a config.json that only the layers made from them would check, and what they are at most.
_SHARES = {"hidden_dropout_prob": 1, "attention_probs_dropout_prob": 1, "classifier_dropout": 1, "initializer_range": 1}

# Counts that make layers and tables, and what they are at most: far beyond any encoder of cells, and made in seconds.
_COUNTS = {
    "num_hidden_layers": 1000,
    "hidden_size": 1 << 16,
    "num_attention_heads": 1 << 16,
    "intermediate_size": 1 << 18,
    "type_vocab_size": 1 << 16,
}


class TrainedBert:
    """The family: BertForMaskedLM and the two classifiers."""

    config_name = "BertConfig"
    adapter_targets = ("query", "value")  # as published, and peft's own choice for BERT
    heads = ("classifier.", "bert.pooler.")
    full_precision = ("classifier", "pooler")

    def shape(self, **values: Any) -> dict[str, Any]:
        """Values of a new model's configuration; what the options do not name is as in every published model (PS 1)."""
        return {
            "hidden_size": values["width"],
            "num_hidden_layers": values["layers"],
            "num_attention_heads": values["heads"],
            "intermediate_size": values["inner"],
            "hidden_act": "relu",
            "hidden_dropout_prob": values["dropout"],
            "attention_probs_dropout_prob": values["dropout"],
            "layer_norm_eps": 1e-12,
            "initializer_range": values["initializer"],
        }

    def own_values(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Those values of a config.json that BertConfig knows, without those of a vocabulary or a checkpoint."""
        known = BertConfig().to_dict()
        return {name: value for name, value in content.items() if name in known and name not in _NO_SHAPE}

    def config(self, values: Mapping[str, Any]) -> BertConfig:
        """A BertConfig. Raises ValueError for a number that its models would refuse, or never be made of."""
        made = BertConfig(**values)
        for name, most in _COUNTS.items():
            value = getattr(made, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r:.40}, a count from 1 to {most:,} is needed")
        for name, most in _SHARES.items():
            value = getattr(made, name)
            if value is not None and not 0 <= value <= most:
                raise ValueError(f"{name} is {value}, 0 to {most:g} is needed")
        return made

    def stored_config(self, content: Mapping[str, Any]) -> BertConfig:
        """The BertConfig in a config.json."""
        return BertConfig.from_dict(dict(content))

    def gene_model(self, config: BertConfig) -> BertForMaskedLM:
        """A new model that names hidden genes."""
        return BertForMaskedLM(config)

    def encoded(self, model: BertForMaskedLM, ids: Tensor, real: Tensor | None) -> Tensor:
        """Hidden states (B, N, D) of the last layer."""
        hidden: Tensor = model.bert(input_ids=ids, attention_mask=real).last_hidden_state
        return hidden

    def gene_logits(self, model: BertForMaskedLM, hidden_MD: Tensor) -> Tensor:
        """(M, V) from rows of the last layer."""
        logits: Tensor = model.cls(hidden_MD)
        return logits

    def gene_bias(self, model: BertForMaskedLM) -> nn.Parameter:
        """(V), what is added to the logits."""
        bias: nn.Parameter = model.cls.predictions.bias
        return bias

    def classifier(self, config: BertConfig, per_row: bool) -> nn.Module:
        """A new model with logits at every row, or one row a cell."""
        model: nn.Module = (BertForTokenClassification if per_row else BertForSequenceClassification)(config)
        return model

    def classifier_name(self, per_row: bool) -> str:
        """Name of the classifier's class."""
        return (BertForTokenClassification if per_row else BertForSequenceClassification).__name__

    def encoder(self, model: nn.Module) -> nn.Module:
        """The BertModel of a classifier."""
        encoder: nn.Module = model.get_submodule("bert")
        return encoder

    def is_head(self, name: str) -> bool:
        """The pooler reads the first row for a classifier."""
        return name.startswith("pooler.")

    def layers(self, model: nn.Module) -> nn.ModuleList:
        """The encoder's layers, from the lowest."""
        layers = model.get_submodule("bert.encoder.layer")
        assert isinstance(layers, nn.ModuleList)
        return layers


FAMILY = TrainedBert()
