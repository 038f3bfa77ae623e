"""How figures look: colours that the colour-blind tell apart on white and on black, and the two templates.

A figure is drawn in the light template; the page exchanges it for the dark one and back. Marks have colours that stand out
on both, so only text, axes and background change. Direction is told by the shape of a mark as well as by its colour.
"""

from html import escape
from typing import Any

from rankshift.screen.report.plots.drawing import Drawing

TOWARDS, AWAY = "#e8590c", "#2b8ad6"  # contrast to white and to the dark ground at least 3:1
OTHER = "#93a1b0"
EDGE = "rgba(147, 161, 176, 0.55)"
FLOOR = "rgba(147, 161, 176, 0.22)"
GROUPS = ("#2b8ad6", "#e8590c", "#12a37a", "#c264a8", "#b8860b", "#6c7ae0", "#d1495b", "#5f8b95")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SIZE = 13  # points of text, which names are placed for

LIGHT = {"ink": "#1b2530", "quiet": "#5a6876", "line": "#e3e8ee", "ground": "#ffffff"}
DARK = {"ink": "#e8edf3", "quiet": "#9fb0c0", "line": "#2b3744", "ground": "#161d26"}


def template(colours: dict[str, str]) -> dict[str, Any]:
    """The plotly template of one set of colours."""
    axis = {
        "gridcolor": colours["line"],
        "zerolinecolor": colours["line"],
        "linecolor": colours["line"],
        "tickfont": {"color": colours["quiet"]},
        "automargin": False,
        "exponentformat": "power",
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": SIZE, "color": colours["ink"]},
            "paper_bgcolor": colours["ground"],
            "plot_bgcolor": colours["ground"],
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": colours["ground"],
                "bordercolor": colours["quiet"],
                "font": {"family": FONT, "size": SIZE, "color": colours["ink"]},
                "align": "left",
            },
            "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"color": colours["quiet"]}},
            "annotationdefaults": {"font": {"color": colours["ink"]}, "arrowcolor": colours["quiet"]},
            "hovermode": "closest",
        }
    }


def figure(height: int, width: int | None = None, **layout: Any) -> Drawing:
    """An empty figure of ours; without `width` it takes what there is."""
    made = Drawing(layout={"template": template(LIGHT), "height": height, "width": width, "dragmode": "zoom"} | layout)
    for axis in ("xaxis", "yaxis"):
        made.axis(axis, **layout.get(axis, {}))
    return made


def plain(text: object) -> str:
    """Text that plotly shows as it is: its labels know a few tags, and names of genes or cells are none."""
    return escape(str(text), quote=False)


def empty(height: int, why: str) -> Drawing:
    """A figure that says why there is nothing to draw."""
    made = figure(height, xaxis={"visible": False}, yaxis={"visible": False})
    made.note(text=plain(why), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return made
