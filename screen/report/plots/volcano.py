"""The volcano: how far each perturbation moves the cells against how sure that is, with names on the strongest.

Where nothing could be tested, for too few cells, the height is the number of cells instead, and the axis says so.
"""

from typing import Any

import numpy as np

from rankshift.screen.report.findings import Findings
from rankshift.screen.report.plots import theme
from rankshift.screen.report.plots.drawing import Drawing
from rankshift.screen.report.plots.label_placement import Box, places, text_size
from rankshift.screen.stats.arithmetic.false_discovery import SIGNIFICANT

MARGIN = {"l": 64, "r": 16, "t": 40, "b": 52}
KEPT_CLEAR = 200  # hits that no name is written over
NAMED = 16  # as many of the strongest perturbations have their name shown
LEAST = 1e-300  # an FDR below the smallest number there is is drawn there
SHOWN = ("symbols", "gene_ids", "cells", "effect", "low", "high", "fdr", "note")  # columns of customdata


def plot_volcano(findings: Findings, *, width: int | None = None, height: int = 480, named: int = NAMED) -> Drawing:
    """Effect against −log10 of the FDR that decides. `named` strongest rows get their names, placed for `width` pixels."""
    effect, heights = findings.effect, _heights(findings)
    drawn = np.isfinite(effect) & np.isfinite(heights)
    if not drawn.any():
        return theme.empty(height, "no perturbation has a value to draw")
    tested = bool(np.isfinite(findings.fdr).any())
    x_range, y_range = _span(effect[drawn], findings.goal is not None), _span(heights[drawn], False)
    if tested:  # without hits, too, the line they would have to pass is seen
        y_range[1] = max(y_range[1], -1.3 * np.log10(SIGNIFICANT))
    made = theme.figure(height, width, margin=MARGIN, xaxis={"range": x_range}, yaxis={"range": y_range})
    made.axis("xaxis", title=theme.plain(findings.axis), zeroline=True)
    made.axis("yaxis", title=f"−log<sub>10</sub> {_name(findings)}" if tested else "cells")
    _marks(made, findings, tested)
    rows = customdata(findings)
    for name, those, colour, symbol, size in _classes(findings):
        some = np.flatnonzero(those & drawn)
        if not len(some):
            continue
        made.trace(
            "scatter",
            x=effect[some],
            y=heights[some],
            mode="markers",
            name=f"{name} ({len(some):,})",
            marker={
                "color": colour,
                "symbol": symbol,
                "size": size,
                "opacity": 0.6 if colour == theme.OTHER else 0.9,
            },
            customdata=[rows[i] for i in some],
            hovertemplate=_hover(findings),
            meta={"rows": some.tolist()},
        )
    strongest = np.flatnonzero(drawn)[:named].tolist()
    _write_names(made, findings, strongest, heights, (width or 1040, height), (x_range, y_range))
    return made


def _name(findings: Findings) -> str:
    return "FDR" if findings.judging.by is None else f"FDR over {theme.plain(findings.judging.by)}"


def _heights(findings: Findings) -> np.ndarray:
    """float64 [G]: −log10 FDR, NaN where there is none; cells where no perturbation has one."""
    if not np.isfinite(findings.fdr).any():
        return findings.column("cells")
    return -np.log10(np.maximum(findings.fdr, LEAST))


def _span(values: np.ndarray, signed: bool) -> list[float]:
    """A range with room around: zero is inside for signed values; the others begin just below zero."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    room = 0.08 * (high - low) or 1.0
    return [low - (room if signed else 0.35 * room), high + room]


def _classes(findings: Findings) -> list[tuple[str, np.ndarray, str, str, int]]:
    """Name, rows, colour, symbol and size of the kinds of points, those that matter on top."""
    hit = findings.hit
    if findings.goal is None:
        return [
            ("no hit", ~hit, theme.OTHER, "circle", 6),
            ("changes the cell", hit, theme.TOWARDS, "diamond", 9),
        ]
    up = findings.effect > 0
    goal = theme.plain(findings.goal)
    return [
        ("no hit", ~hit, theme.OTHER, "circle", 6),
        (f"away from {goal}", hit & ~up, theme.AWAY, "triangle-down", 10),
        (f"towards {goal}", hit & up, theme.TOWARDS, "triangle-up", 10),
    ]


def _marks(made: Drawing, findings: Findings, tested: bool) -> None:
    """The line of the FDR and the band of the noise floor."""
    quiet = {"color": theme.OTHER, "width": 1, "dash": "dot"}
    if tested:
        made.across(-np.log10(SIGNIFICANT), line=quiet)
        made.note(
            text=f"FDR {100 * SIGNIFICANT:.0f} %", x=1, xref="paper", xanchor="right", y=-np.log10(SIGNIFICANT),
            yanchor="bottom", showarrow=False, font={"size": 11, "color": theme.OTHER},
        )  # fmt: skip
    if findings.floor is not None and (p99 := findings.floor.p99) > 0:
        made.band(-p99, p99, theme.FLOOR)


def customdata(findings: Findings) -> list[list[Any]]:
    """What a point shows when pointed at, a row per perturbation in the order of SHOWN; ready for plotly's labels."""
    low, high = findings.interval
    below, enough = findings.marked("below_noise_floor"), findings.marked("enough_cells")
    notes = [
        "below the noise floor" if b else "" if e else f"fewer than {findings.judging.min_cells} cells, not tested"
        for b, e in zip(below.tolist(), enough.tolist(), strict=True)
    ]
    columns = [
        [theme.plain(s) for s in findings.strings("symbols")],
        [theme.plain(s) for s in findings.strings("gene_ids")],
        findings.column("cells").astype(int).tolist(),
        *([_short(v) for v in values.tolist()] for values in (findings.effect, low, high, findings.fdr)),
        notes,
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _short(value: float) -> str:
    return "–" if value != value else f"{value:.3g}"


def _hover(findings: Findings) -> str:
    return (
        "<b>%{customdata[0]}</b>  %{customdata[1]}<br>"
        f"{theme.plain(findings.axis)}: %{{customdata[3]}}<br>"
        "95 % interval: %{customdata[4]} to %{customdata[5]}<br>"
        f"{_name(findings)}: %{{customdata[6]}} · cells: %{{customdata[2]}}<br>%{{customdata[7]}}<extra></extra>"
    )


def _write_names(
    made: Drawing,
    findings: Findings,
    rows: list[int],
    heights: np.ndarray,
    size: tuple[int, int],
    ranges: tuple[list[float], list[float]],
) -> None:
    """Names beside the points of `rows`, the strongest first, none over another, for a figure of `size` pixels."""
    wide, high = size[0] - MARGIN["l"] - MARGIN["r"], size[1] - MARGIN["t"] - MARGIN["b"]
    (left, right), (low, top) = ranges

    def pixels(i: int) -> tuple[float, float]:
        across, up = (float(findings.effect[i]) - left) / (right - left), (float(heights[i]) - low) / (top - low)
        return across * wide, up * high

    points = [pixels(i) for i in rows]
    others = [pixels(i) for i in np.flatnonzero(findings.hit & np.isfinite(heights))[:KEPT_CLEAR].tolist()]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in others]
    names = [shortened(findings.strings("symbols")[i]) for i in rows]
    frame: Box = (0.0, 0.0, float(wide), float(high))
    offsets = places(points, [text_size(n, theme.SIZE - 1) for n in names], frame, taken)
    for i, name, offset in zip(rows, names, offsets, strict=True):
        if offset is not None:
            made.note(
                text=f"<b>{theme.plain(name)}</b>", x=float(findings.effect[i]), y=float(heights[i]), ax=offset[0],
                ay=-offset[1], arrowwidth=1, arrowhead=0, standoff=4, font={"size": theme.SIZE - 1}, name="gene",
            )  # fmt: skip


def shortened(name: str, most: int = 18) -> str:
    """A name that fits beside a point; for a joint perturbation of many genes, its beginning."""
    return name if len(name) <= most else name[: most - 1] + "…"
