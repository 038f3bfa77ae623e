"""What rankshift asks of a family of encoders, and the families there are; no code here knows an architecture.

The registry is a room below `bundle`, because a bundle must know the names and shapes of a checkpoint's tensors before there
is an encoder. A family is a file of its own and its line in FAMILIES; one that can also be trained has a file in
jobs/training/families. All have learnt places and self-attention of every row over all rows of its list (rotary places
would need another first layer, kernel `first_layer`).

Shapes: T packed rows of a batch, P lists, D hidden size.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

from rankshift.kernels.perturbed_lists import PerturbedLists
from rankshift.screen.errors import InputError
from rankshift.screen.families.bert import BERT
from rankshift.screen.families.operators import Operators, Runs
from rankshift.screen.families.originals import Rows
from rankshift.screen.families.sizes import Sizes

T = TypeVar("T")  # a tensor, or what is known of it


class Model(Protocol):
    """The weights of an encoder on a device, and the steps of a forward pass. The residual stream x is float32 [T, D].

    rows: where the rows stand among those of originals, for products on differences; None where there are none. Every linear
    layer hands its place among them (`originals.place`, under a name of its own) to its product.
    """

    def embed(self, lists: PerturbedLists) -> Tensor:
        """The rows that the first layer reads."""

    def embed_tokens(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The same for single tokens [n] int64 that stand at `positions` [n] int64."""

    def qkv(self, layer: int, x: Tensor, rows: Rows | None = None) -> Tensor:
        """Queries, keys and values (T, 3D) of a layer (from 0); queries are not scaled."""

    def queries_and_keys(self, layer: int, x: Tensor) -> Tensor:
        """The first two thirds of `qkv`."""

    def finish(self, layer: int, x: Tensor, attended: Tensor, rows: Rows | None = None) -> Tensor:
        """The layer behind its attention. Takes x over. The last layer also does what the model does at its end."""

    def first_rows(self, layer: int, x: Tensor, runs: Runs, start: Tensor, rows: Rows | None = None) -> Tensor:
        """The layer's output (P, D) at the first row of every list; the lists begin in `start` [P+1], which ends with T."""


class Family(Protocol):
    """One architecture: the names in its configurations and checkpoints, and its forward pass."""

    @property
    def model_type(self) -> str:
        """As config.json says it."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def counts(self) -> tuple[str, ...]:
        """Values of a configuration that must be whole numbers from 1."""

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Refuse, by name, a configuration that asks for what the family's `load` does not do."""

    def sizes(self, config: Mapping[str, Any]) -> Sizes:
        """The shape of a model."""

    def tables(self, config: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
        """{word, position: (how the name of its tensor ends, shape)}, which a checkpoint must hold."""

    def shapes(self, config: Mapping[str, Any]) -> dict[str, tuple[int | None, ...]]:
        """{tensor of the encoder: shape} of all that `load` reads, named as by `encoder_weights`; None: any number of rows."""

    def layer_name(self, tensor: str) -> str | None:
        """Name within the encoder of a checkpoint's or an adapter's tensor; None of one that is not the encoder's."""

    def encoder_weights(self, found: Mapping[str, T]) -> dict[str, T] | None:
        """The encoder's tensors among those of a model, without the prefix of the model around it; None if it has none."""

    def load(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], operators: Operators) -> Model:
        """The encoder on a device. Raises KeyError naming a tensor that is missing."""


FAMILIES: dict[str, Family] = {
    BERT.model_type: BERT,
}
PUBLISHED = BERT.model_type  # of all published models, where a configuration to train from names none


def family_of(config: Mapping[str, Any], where: object = "the configuration") -> Family:
    """The family of a model by its configuration; where: of which file or folder, for the message."""
    found = config.get("model_type")
    if not isinstance(found, str) or found not in FAMILIES:
        known = " or ".join(repr(name) for name in FAMILIES)
        raise InputError(f"model_type of {where} is {found!r}, not {known}: give a Geneformer model")
    return FAMILIES[found]


def encoder_weights(found: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The encoder's tensors among those of a model whose configuration is not at hand; None if no family knows their names."""
    for family in FAMILIES.values():
        weights = family.encoder_weights(found)
        if weights is not None:
            return weights
    return None


def measured_layers(config: Mapping[str, Any], layer: int) -> int:
    """How many encoder layers run for the hidden states of `layer`, counted back from the last layer's output.

    0 is the output of the last layer, -1 of the second to last (PS 3.1), -L of L layers the embeddings below the first.
    """
    count = family_of(config).sizes(config).layers
    if not -count <= layer <= 0:
        raise InputError(
            f"layer {layer} is not measured: the model has {count} layers, give 0 (the last) down to -{count} (below the first)"
        )
    return count + layer
