"""Colours and shapes of rows by the values of a column.

Colours are told apart without red and green (Okabe and Ito 2008; viridis, magma); beyond eight, shapes change, too.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SHAPES = "o^sDv"
NONE = "#c4ccd4"


@dataclass(frozen=True, kw_only=True, eq=False)
class Colouring:
    """How n rows are coloured by the values of a column: few values get a colour and a shape each, numbers a scale.

    Whole numbers of up to as many values as there are colours count as names (days, batches), as do texts and truth values.
    If there are more names than colours and shapes, the most frequent keep theirs and the others share one.
    """

    title: str
    values: list[Any]
    palette: tuple[str, ...] = PALETTE

    @cached_property
    def is_scale(self) -> bool:
        """Whether the values are a range of numbers."""
        there = [v for v in self.values if v is not None]
        numbers = all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in there)
        few = len(set(there)) <= len(self.palette) and all(isinstance(v, int | np.integer) for v in there)
        return bool(there) and numbers and not few

    @cached_property
    def names(self) -> list[str]:
        """What the rows are called in the legend, if they are names."""
        count = Counter(v for v in self.values if v is not None)
        most = len(self.palette) * len(SHAPES)
        kept = set(count) if len(count) <= most else {v for v, _ in count.most_common(most - 1)}
        others = f"{len(count) - len(kept)} others"
        return ["none" if v is None else str(v) if v in kept else others for v in self.values]

    @cached_property
    def legend(self) -> list[tuple[str, str, str]]:
        """(name, colour, shape) of each name: numbers by size, texts by letter, then the others, then none."""
        last = {"none": 2, **{name: 1 for name in self.names if name.endswith(" others")}}
        order = sorted(set(self.names), key=lambda name: (last.get(name, 0), _number(name), name))
        styled = []
        for i, name in enumerate(order):
            colour = NONE if name == "none" else self.palette[i % len(self.palette)]
            styled.append((name, colour, SHAPES[i // len(self.palette) % len(SHAPES)]))
        return styled

    @cached_property
    def numbers(self) -> np.ndarray:
        """float64 [n] of a scale, NaN for none."""
        return np.array([np.nan if v is None else float(v) for v in self.values])


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return np.inf


def draw_legend(figure: Any, colouring: Colouring, count: Counter[str]) -> None:
    """A legend of the names that `count` has, beside the figure."""
    # Late: a command that draws nothing must not wait for matplotlib.
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker=shape, color=colour, markersize=7, label=f"{name} ({count[name]:,})")
        for name, colour, shape in colouring.legend
        if count[name]
    ]
    figure.legend(
        handles=handles,
        title=colouring.title,
        loc="outside right upper",
        frameon=False,
        ncols=1 + (len(handles) - 1) // 24,
        alignment="left",
        handletextpad=0.2,
    )
