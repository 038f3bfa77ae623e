"""The shape of an encoder, whatever its family calls the values in config.json."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Counts. layer_weights: entries of the matrices of a layer, each multiplied once with every row."""

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    vocabulary: int
    positions: int
    layer_weights: int
