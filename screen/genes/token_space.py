"""What token tables are written and read against: a vocabulary and the longest list. It holds no weights.

A bundle is such a thing. So is a draft: the vocabulary of a model that is yet to be pretrained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import FrameTokens
from rankshift.screen.genes.vocabulary import Vocabulary, read_vocabulary

PUBLISHED_SIZE = {"v1": 2048, "v2": 4096}  # longest lists of the published models by generation


class TokenSpace(Protocol):
    """The part of a bundle that token tables depend on."""

    @property
    def path(self) -> Path:
        """The path it was read from, for messages."""

    @property
    def vocabulary(self) -> Vocabulary:
        """TokenSpace, Ensembl ids and medians."""

    @property
    def frame_tokens(self) -> FrameTokens:
        """What stands around the genes of a list."""

    @property
    def input_size(self) -> int:
        """Longest list, specials included."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """{alias or retired id: id of the vocabulary}."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class VocabularyOnly:
    """A vocabulary without a model. input_size: longest list, specials included."""

    path: Path
    vocabulary: Vocabulary
    input_size: int
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frame = self.frame_tokens.frame
        if frame.room(self.input_size) < 1:
            raise InputError(f"input size {self.input_size} has no place for a gene: give at least {frame.size + 1}")

    @property
    def frame_tokens(self) -> FrameTokens:
        """Those of the vocabulary."""
        return self.vocabulary.frame_tokens

    @staticmethod
    def open(vocabulary: Path, input_size: int | None = None) -> "VocabularyOnly":
        """Read a vocabulary.parquet; without an input size lists are as long as in the published models."""
        table = read_vocabulary(Path(vocabulary))
        size = PUBLISHED_SIZE["v1" if table.special.cls is None else "v2"] if input_size is None else input_size
        return VocabularyOnly(path=Path(vocabulary), vocabulary=table, input_size=size)
