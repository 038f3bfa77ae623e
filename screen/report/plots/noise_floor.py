"""Hits beside the noise floor: how many times larger than the arithmetic's own error each strong effect is."""

import numpy as np

from rankshift.screen.report.findings import Findings
from rankshift.screen.report.plots import theme
from rankshift.screen.report.plots.drawing import Drawing
from rankshift.screen.report.plots.volcano import shortened

ROWS = 20
LINES = (("median", "dot"), ("p99", "dash"), ("max", "solid"))


def plot_noise_floor(findings: Findings, *, width: int | None = None, height: int | None = None) -> Drawing:
    """Size of the strongest effects with their 95 % intervals, on a log axis, and the floor's median, p99 and maximum."""
    size, (low, high) = np.abs(findings.effect), findings.interval
    rows = np.flatnonzero(size > 0)[:ROWS].tolist()
    if findings.floor is None:
        return theme.empty(200, "this run has no noise floor yet: it is measured when the screen is done")
    if not rows:
        return theme.empty(200, "no perturbation has an effect to hold against the floor")
    made = theme.figure(
        height or 110 + 22 * len(rows), width, margin={"l": 130, "r": 16, "t": 48, "b": 48}, showlegend=False
    )
    symbols = findings.strings("symbols")
    names = [f"{theme.plain(shortened(symbols[i]))}" for i in rows]
    small, large = np.minimum(np.abs(low), np.abs(high))[rows], np.maximum(np.abs(low), np.abs(high))[rows]
    across = (low < 0)[rows] & (high > 0)[rows]  # an interval that holds zero reaches down to nothing
    least = min(float(v) for v in (*size[rows], findings.floor.median) if v > 0) / 3
    small = np.maximum(np.where(across, least, small), least)
    hit = findings.hit[rows]
    made.trace(
        "scatter",
            x=size[rows],
            y=list(range(len(rows))),
            mode="markers",
            marker={
                "color": np.where(hit, theme.TOWARDS, theme.OTHER).tolist(),
                "symbol": np.where(hit, "diamond", "circle").tolist(),
                "size": 9,
            },
            error_x={
                "array": np.nan_to_num(large - size[rows]), "arrayminus": np.nan_to_num(size[rows] - small),
                "thickness": 1.2, "width": 3, "color": theme.OTHER,
            },
            customdata=[[name, _times(size[i], findings.floor.p99)] for name, i in zip(names, rows, strict=True)],
            hovertemplate="<b>%{customdata[0]}</b><br>size %{x:.3g}<br>%{customdata[1]}<extra></extra>",
    )  # fmt: skip
    made.axis(
        "yaxis",
        tickvals=list(range(len(rows))),
        ticktext=names,
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    made.axis("xaxis", type="log", title="size of the effect", nticks=5, tickangle=0)
    for level, (name, dash) in enumerate(LINES):
        value = getattr(findings.floor, name)
        if value > 0:
            made.upright(value, line={"color": theme.AWAY, "width": 1.5, "dash": dash})
            made.note(
                text=f"{name} noise", x=np.log10(value), y=1, yref="paper", yanchor="bottom", yshift=2 + 13 * level,
                showarrow=False, font={"size": 11, "color": theme.AWAY},
            )  # fmt: skip
    return made


def _times(size: float, floor: float) -> str:
    return f"{size / floor:.3g} times the p99 of the noise" if floor > 0 else "no noise was measured"
