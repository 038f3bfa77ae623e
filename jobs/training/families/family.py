"""What a training asks of a family of encoders; no code here knows an architecture.

The file of a family bears the model_type of its `screen.families` entry and is found by that name, so that a family needs
no line here. Nothing here trains.

Shapes: B cells, N places, M rows, D hidden size, V tokens.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from rankshift.screen.errors import InputError
from rankshift.screen.families.family import FAMILIES, Family, family_of


class TrainedFamily(Protocol):
    """The classes of transformers for one family, and the names inside them."""

    config_name: str  # of the configuration's class, for messages
    adapter_targets: tuple[str, ...]  # linear layers that LoRA adapts, as peft names them
    heads: tuple[str, ...]  # how the names of parameters behind the encoder begin
    full_precision: tuple[str, ...]  # modules that are never held in 4 bits

    def shape(self, **values: Any) -> dict[str, Any]:
        """Values of a new model's configuration from its layers, width, heads, inner, dropout and initializer."""

    def own_values(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Those values of a config.json that the configuration's class knows, without those of a vocabulary or checkpoint."""

    def config(self, values: Mapping[str, Any]) -> Any:
        """A configuration of transformers. Raises what its class raises for values it does not take."""

    def stored_config(self, content: Mapping[str, Any]) -> Any:
        """The configuration in a config.json."""

    def gene_model(self, config: Any) -> nn.Module:
        """A new model that names hidden genes."""

    def encoded(self, model: nn.Module, ids: Tensor, real: Tensor | None) -> Tensor:
        """Hidden states (B, N, D) of the last layer."""

    def gene_logits(self, model: nn.Module, hidden_MD: Tensor) -> Tensor:
        """(M, V) from rows of the last layer."""

    def gene_bias(self, model: nn.Module) -> nn.Parameter:
        """(V), what is added to the logits."""

    def classifier(self, config: Any, per_row: bool) -> nn.Module:
        """A new model with logits at every row, or one row a cell."""

    def classifier_name(self, per_row: bool) -> str:
        """Name of the classifier's class in transformers."""

    def encoder(self, model: nn.Module) -> nn.Module:
        """The encoder of a classifier, whose tensors have the names of `screen.families`."""

    def is_head(self, name: str) -> bool:
        """Is this tensor of the `encoder` one that a classifier draws anew?"""

    def layers(self, model: nn.Module) -> nn.ModuleList:
        """The encoder's layers, from the lowest."""


def trained_family(family: Family) -> TrainedFamily:
    """How to train models of a family; InputError where it can only be screened."""
    # A late import: of the families, only the one that is trained is loaded, and it brings its part of transformers.
    name = f"{__package__}.{family.model_type}"
    try:
        found: TrainedFamily = importlib.import_module(name).FAMILY
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError(f"{family.name} models can be screened, not trained: give a {_trainable()} model") from error
    return found


def family_of_config(config: Any) -> TrainedFamily:
    """How to train models that have this configuration of transformers."""
    return trained_family(family_of({"model_type": config.model_type}))


def _trainable() -> str:
    there = [f.name for f in FAMILIES.values() if importlib.util.find_spec(f"{__package__}.{f.model_type}")]
    return " or ".join(there)
