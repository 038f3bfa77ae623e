"""The frame of a token list: the special tokens that stand before and after its genes.

Whoever counts genes, their ranks or the room for them asks a `Frame`. Which tokens a frame consists of is known to
`FrameTokens`, for those who write and check lists; a family of models with other special tokens adds a line to FRAMES. All
lists of a table have the same frame. What is a gene and what a special token is the vocabulary's to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

Place = TypeVar("Place", int, np.ndarray)
Record: TypeAlias = bool | list[int]

# Special tokens by name, in front and behind, of the families of models that frame their lists. A vocabulary has the first
# frame whose tokens it all holds, or none.
FRAMES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ((("<cls>",), ("<eos>",)),)  # Geneformer V2


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """How many special tokens stand in front of the genes of a list (head) and behind them (tail).

    Where there is a head, its first token is the one whose embedding stands for the cell, as <cls> does.

    >>> frame = Frame(head=1, tail=1)
    >>> frame.room(2048), [2, 10, 11, 12, 3][frame.inner(5)]
    (2046, [10, 11, 12])
    """

    head: int = 0
    tail: int = 0

    def __post_init__(self) -> None:
        if self.head < 0 or self.tail < 0:
            raise ValueError(f"a frame of {self.head} and {self.tail} tokens: count from 0")

    @property
    def size(self) -> int:
        """Special tokens of a list."""
        return self.head + self.tail

    def room(self, limit: Place) -> Place:
        """Genes of a list of `limit` tokens."""
        return limit - self.size

    def inner(self, length: int) -> slice:
        """The places of the genes in a list of `length` tokens."""
        return slice(self.head, length - self.tail)

    def holds_gene(self, place: np.ndarray, length: np.ndarray) -> np.ndarray:
        """bool: does a gene stand at `place` (from 0) of a list of `length` tokens?"""
        return np.asarray((place >= self.head) & (place < length - self.tail))

    def rank(self, place: Place) -> Place:
        """Rank of the gene at `place`; 1 is the top."""
        return place - self.head + 1

    def tail_moves(self, size: Place, length: Place) -> list[tuple[Place, Place]]:
        """(from, to) of each token of the tail, one after the other, when a list of `size` tokens is cut to `length`.

        The tail moves up over the genes that are cut; these stand behind it then, out of the list.

        >>> Frame(head=1, tail=2).tail_moves(9, 6)
        [(7, 4), (8, 5)]
        """
        return [(size - self.tail + i, length - self.tail + i) for i in range(self.tail)]

    @property
    def record(self) -> Record:
        """As run.json has it under `framed`: whether <cls> and <eos> are there; of other frames the two counts."""
        known = {Frame(): False, Frame(head=1, tail=1): True}
        return known.get(self, [self.head, self.tail])

    @staticmethod
    def of_record(framed: Record) -> "Frame":
        """The frame of a `record`.

        >>> Frame.of_record(True), Frame.of_record([2, 1]).record
        (Frame(head=1, tail=1), [2, 1])
        """
        if isinstance(framed, bool):
            return Frame(head=int(framed), tail=int(framed))
        head, tail = framed
        return Frame(head=head, tail=tail)


PLAIN = Frame()  # lists of genes alone, as of Geneformer V1


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameTokens:
    """The special tokens in front of a list (head) and behind it (tail), with their names for messages."""

    head: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    names: tuple[str, str] = ("nothing", "nothing")

    @staticmethod
    def of(token_of: Mapping[str, int]) -> "FrameTokens":
        """The frame of lists of a vocabulary, {name: token}.

        >>> FrameTokens.of({"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}).head
        (2,)
        """
        for head, tail in FRAMES:
            if all(name in token_of for name in (*head, *tail)):
                return FrameTokens(
                    head=tuple(token_of[name] for name in head),
                    tail=tuple(token_of[name] for name in tail),
                    names=(" ".join(head) or "nothing", " ".join(tail) or "nothing"),
                )
        return FrameTokens()

    @property
    def frame(self) -> Frame:
        """How many they are."""
        return Frame(head=len(self.head), tail=len(self.tail))

    def around(self, ids: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """bool [n] twice: does list i, ids[begin[i]:end[i]], begin with the head, and does it end with the tail?

        Every list holds at least one gene.
        """
        last = len(ids) - 1  # a place outside a short list is no match: one of its own genes stands before it
        opens, closes = np.ones(len(begin), bool), np.ones(len(begin), bool)
        for i, token in enumerate(self.head):
            opens &= ids[np.minimum(begin + i, last)] == token
        for i, token in enumerate(reversed(self.tail)):
            closes &= ids[np.maximum(end - 1 - i, 0)] == token
        return opens, closes
