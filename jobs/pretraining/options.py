"""What to pretrain and how: shape of the model, sizes of the data, and the recipe of the steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankshift.jobs.training.families.family import trained_family
from rankshift.jobs.training.recipe import Recipe
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import FAMILIES, PUBLISHED
from rankshift.screen.files.json_file import read_object
from rankshift.screen.files.one_line import first_line
from rankshift.screen.genes.vocabulary import Vocabulary

# Shapes of the published models (TS 1) and, where it is known, how they were trained (TS 2.5). The recipes
# of the 20-layer and the V2 models were not published: they have that of the 95M series, which is nearest.
_SERIES_95M = {"learning_rate": 5e-4, "schedule": "cosine"}
PRESETS: dict[str, dict[str, Any]] = {
    "v1-10m": {"layers": 6, "heads": 4, "width": 256, "inner": 512, "input_size": 2048},
    "12l-30m": {"layers": 12, "heads": 8, "width": 512, "inner": 1024, "input_size": 2048},
    "12l-95m": {"layers": 12, "heads": 8, "width": 512, "inner": 1024, "input_size": 4096, **_SERIES_95M},
    "20l-95m": {"layers": 20, "heads": 14, "width": 896, "inner": 1792, "input_size": 4096, **_SERIES_95M},
    "v2-104m": {"layers": 12, "heads": 12, "width": 768, "inner": 3072, "input_size": 4096, **_SERIES_95M},
    "v2-316m": {"layers": 18, "heads": 18, "width": 1152, "inner": 4608, "input_size": 4096, **_SERIES_95M},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining(Recipe):
    """How to pretrain. The shape is that of the smallest published model, V1-10M (TS 1)."""

    layers: int = 6
    width: int = 256
    heads: int = 4  # 64 dimensions each, as in every published model
    inner: int = 512  # twice the width, as in the 30M and 95M series
    input_size: int | None = None  # positions; None: the longest list, because a place no cell reaches is never trained
    dropout: float = 0.02  # hidden and attention, as published
    initializer: float = 0.02  # standard deviation of new weights, as published; narrow models learn sooner with more
    config: Mapping[str, Any] | None = None  # values of a model's configuration instead of these six
    hidden_share: float = 0.15  # share of the genes, as published
    epochs: int = 3  # as published
    batch_tokens: int = 24_576  # places of a step, padding included: 12 cells of 2048, the published batch of one GPU
    held_out: float = 0.05  # share of the cells that is never trained on; the published trainer keeps none

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        for name in ("layers", "width", "heads", "inner", "epochs", "batch_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.width % self.heads:
            raise InputError(f"width {self.width} is no multiple of {self.heads} heads: give 64 dimensions a head")
        for name in ("hidden_share", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a share between 0 and 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}: give a share from 0 to below 1")
        if not 0 < self.initializer < float("inf"):
            raise InputError(f"initializer is {self.initializer}: give a positive number")
        if self.input_size is not None and self.positions != self.input_size:
            raise InputError(
                f"input_size {self.input_size} is not the config's {self.positions} positions: give one of them"
            )

    @property
    def positions(self) -> int | None:
        """Positions of the model, from the config or the input size; None: as many as the longest list needs."""
        return (self.config or {}).get("max_position_embeddings", self.input_size)

    @staticmethod
    def preset(name: str, **given: Any) -> "Pretraining":
        """Options of a published model, with others in place of its own where `given`.

        >>> Pretraining.preset("v2-104m", epochs=1).width
        768
        """
        if name not in PRESETS:
            raise InputError(f"preset {name!r} is unknown: use {', '.join(PRESETS)}")
        return Pretraining(**{**PRESETS[name], **given})


def read_config(path: Path) -> dict[str, Any]:
    """The values of a model's configuration in a config.json, without those of a vocabulary or a checkpoint.

    Raises InputError for a model of no known family, or one that `rankshift screen` could not run.
    """
    content = read_object(path)
    kind = content.get("model_type", PUBLISHED)
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = " or ".join(repr(name) for name in FAMILIES)
        names = " or ".join(family.name for family in FAMILIES.values())
        raise InputError(f"model_type of {path} is {kind!r}, not {known}: give the config of a {names} model")
    family = FAMILIES[kind]
    training = trained_family(family)
    kept = training.own_values(content)
    try:
        family.check_config(training.config(kept).to_dict())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (
        Exception
    ) as error:  # the file's values are all that goes in, and each validator of transformers has its own error
        raise InputError(f"{path} is no {training.config_name} ({first_line(error)}): repair it") from error
    return kept


def model_config(options: Pretraining, vocabulary: Vocabulary, places: int) -> Any:
    """The model's configuration in transformers; what the options do not name is as in every published model (TS 1)."""
    given = options.config
    training = trained_family(FAMILIES[(given or {}).get("model_type", PUBLISHED)])
    if given is None:
        given = training.shape(
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            inner=options.inner,
            dropout=options.dropout,
            initializer=options.initializer,
        )
    tokens = {"vocab_size": vocabulary.size, "pad_token_id": vocabulary.special.pad}
    return training.config({**given, "max_position_embeddings": places, **tokens})
