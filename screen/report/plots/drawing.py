"""A figure in the words of plotly.js: traces and a layout, as the page draws them. Plotly's Python package is not needed.

`Drawing.figure` hands it to that package where it is installed: what a notebook shows.
"""

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rankshift.screen.extras import need

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(slots=True)
class Drawing:
    """Traces and layout; numpy arrays stay what they are until `json` is asked for."""

    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def trace(self, kind: str, **values: Any) -> None:
        """Add a trace of a plotly type, such as scatter."""
        self.data.append({"type": kind, **values})

    def axis(self, name: str, **values: Any) -> None:
        """Add to what is said of xaxis or yaxis; a title is its text."""
        if "title" in values:
            values["title"] = {"text": values["title"]}
        self.layout.setdefault(name, {}).update(values)

    def note(self, **values: Any) -> None:
        """Add a text, with an arrow or without."""
        self.layout.setdefault("annotations", []).append(values)

    def across(self, y: float, line: dict[str, Any]) -> None:
        """A line over the whole width."""
        self._shape(type="line", x0=0, x1=1, xref="x domain", y0=y, y1=y, yref="y", line=line)

    def upright(self, x: float, line: dict[str, Any]) -> None:
        """A line over the whole height."""
        self._shape(type="line", x0=x, x1=x, xref="x", y0=0, y1=1, yref="y domain", line=line)

    def band(self, low: float, high: float, colour: str) -> None:
        """A band over the whole height, below the points."""
        self._shape(
            type="rect", x0=low, x1=high, xref="x", y0=0, y1=1, yref="y domain", fillcolor=colour, line={"width": 0},
            layer="below",
        )  # fmt: skip

    def _shape(self, **values: Any) -> None:
        self.layout.setdefault("shapes", []).append(values)

    def json(self) -> dict[str, Any]:
        """Traces and layout of plain values, which json.dumps takes and plotly.js reads."""
        return {"data": _plain(self.data), "layout": _plain(self.layout)}

    def figure(self) -> "Figure":
        """The same for a notebook. Raises InputError where plotly is not installed."""
        need("plots", "a figure in a notebook", "plotly")
        from plotly.graph_objects import Figure  # an extra, and a second to import

        return Figure({"data": self.data, "layout": self.layout})


def _plain(value: Any) -> Any:
    """Floats of an array are sent as their bytes, as plotly.js takes them: no digit is lost and none is written."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            return value.tolist()
        floats = np.ascontiguousarray(value, "<f8")
        return {"dtype": "f8", "bdata": base64.b64encode(floats.tobytes()).decode()}
    return value.item() if isinstance(value, np.generic) else value
