"""Plots of runs as PNG files. They show what SQL over the run gives, and say which genes they chose."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.report.plots.label_placement import places, text_size
from rankshift.screen.runs.layout import shift_column
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import literal, quoted

MANY, FEW = "#b8c4ce", "#c2410c"  # all genes, the labelled ones
INK = "#1f2933"
NAME_SIZE = 10  # points
DPI = 150


def genes_of(run: Run, state: str, least_cells: int) -> pa.Table:
    """Per single gene of a run: gene (symbol), cells, rank (mean place, 1 the top), shift (mean of `shift_<state>`), error.

    error: standard error of the mean. Ordered by falling `shift - error`, so that few cells do not win by chance. Genes of
    fewer than `least_cells` cells are left out, for one cell's shift says little, and so are genes that no cell has.
    """
    if state not in run.states:
        raise InputError(f"{run.path} has no state {state!r}: its states are {', '.join(run.states) or 'none'}")
    cells, genes = (literal(str((run.path / f"{name}.parquet").resolve())) for name in ("cells", "perturbations"))
    shift = quoted(shift_column(state))
    return run.sql(f"""
        WITH places AS (
            SELECT token, avg(place) AS rank FROM (
                SELECT unnest(input_ids) AS token, generate_subscripts(input_ids, 1) AS place FROM read_parquet({cells})
            ) GROUP BY token
        )
        SELECT any_value(s.symbols) AS gene, count(*) AS cells, any_value(p.rank) AS rank,
               avg({shift}) AS shift, stddev_samp({shift}) / sqrt(count(*)) AS error
        FROM shifts s
        JOIN read_parquet({genes}) g ON g.perturbation = s.perturbation AND len(g.tokens) = 1
        JOIN places p ON p.token = g.tokens[1]
        GROUP BY s.perturbation HAVING count(*) >= {int(least_cells)} ORDER BY shift - error DESC, gene
    """)


def plot_shifts(
    runs: Sequence[Run], state: str, out: Path, *, least_cells: int = 3, labels: int = 8, note: str = ""
) -> None:
    """Mean shift of every gene towards `state` against its mean rank, one panel a run, to a PNG.

    The first `labels` genes of `genes_of` are named. note: a line below, in small print.
    """
    # Late: a command that draws nothing must not wait for matplotlib.
    import matplotlib

    matplotlib.use("agg")
    # Late: a command that draws nothing must not wait for matplotlib.
    from matplotlib import pyplot as plt

    tables = [genes_of(run, state, least_cells) for run in runs]
    for run, table in zip(runs, tables, strict=True):
        if not len(table):
            raise InputError(f"no gene of {run.path} is in {least_cells} cells: screen more cells, or ask for fewer")
    exponent = _exponent(max(float(np.abs(table["shift"].to_numpy()).max()) for table in tables))
    with plt.rc_context({"font.size": 11, "axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK}):
        figure, panels = plt.subplots(
            1, len(runs), figsize=(6.4 * len(runs), 5.6), squeeze=False, layout="constrained", dpi=DPI
        )
        for panel, run, table in zip(panels[0], runs, tables, strict=True):
            _panel(panel, table, 10.0**-exponent, labels)
            cells = run.screened.cells.count
            panel.set_title(f"{run.manifest.perturb.kind} each gene\n", loc="left", fontsize=14, fontweight="bold")
            panel.text(
                0, 1.02, f"{len(table):,} genes found in {least_cells} or more of {cells} cells", color="#52606d",
                transform=panel.transAxes,
            )  # fmt: skip
            panel.set_xlabel("mean rank in the cells that have the gene (1 is the top)")
        panels[0][0].set_ylabel(f"mean shift towards state {state}  (cosine × 10$^{{{-exponent}}}$)")
        if note:
            figure.supxlabel(note, fontsize=8.5, color="#7b8794", x=0.01, ha="left")
        figure.canvas.draw()
        figure.set_layout_engine("none")  # names are placed in the layout as it is now
        for panel, table in zip(panels[0], tables, strict=True):
            _name(panel, table.slice(0, labels), 10.0**-exponent)
        with replacing(Path(out)) as temporary:
            figure.savefig(temporary, format="png")
        plt.close(figure)


def _panel(panel: Any, table: pa.Table, scale: float, labels: int) -> None:
    """One run: all genes in grey, larger where more cells have them; the first `labels` in colour, with standard errors."""
    rank, shift, error, cells = (table[n].to_numpy().astype(float) for n in ("rank", "shift", "error", "cells"))
    shift, error = shift * scale, error * scale
    panel.axhline(0, color=INK, linewidth=0.8)
    panel.scatter(rank, shift, s=5 + 30 * cells / cells.max(), color=MANY, alpha=0.5, linewidths=0)
    top = slice(0, labels)
    panel.errorbar(rank[top], shift[top], error[top], fmt="none", ecolor=FEW, elinewidth=1, alpha=0.35)
    panel.scatter(rank[top], shift[top], s=28, color=FEW, linewidths=0, zorder=3)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.set_xlim(0, rank.max() * 1.06)
    low, high = panel.get_ylim()
    panel.set_ylim(low, high + 0.08 * (high - low))


def _name(panel: Any, table: pa.Table, scale: float) -> None:
    """Write the genes' names beside their points, each at the nearest place where nothing else is written.

    The figure must have its final layout, because places are found in pixels.
    """
    # Late: a command that draws nothing must not wait for matplotlib.
    from matplotlib.patheffects import withStroke

    pixel = panel.figure.dpi / 72
    points = panel.transData.transform(
        np.column_stack([table["rank"].to_numpy().astype(float), table["shift"].to_numpy().astype(float) * scale])
    )
    frame = panel.get_window_extent()
    names = table["gene"].to_pylist()
    sizes = [(wide * pixel, high * pixel) for wide, high in (text_size(name, NAME_SIZE) for name in names)]
    offsets = places([(float(x), float(y)) for x, y in points], sizes, (frame.x0, frame.y0, frame.x1, frame.y1))
    for (x, y), name, offset in zip(points, names, offsets, strict=True):
        if offset is None:
            continue
        middle = (x + offset[0], y + offset[1])
        panel.annotate(
            name,
            (x, y),
            xycoords="figure pixels",
            xytext=middle,
            textcoords="figure pixels",
            ha="center",
            va="center",
            fontsize=NAME_SIZE,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": FEW, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
        )


def _exponent(value: float) -> int:
    """The power of ten that makes `value` a number from 1 to below 10.

    >>> _exponent(0.00042), _exponent(3.0)
    (-4, 0)
    """
    return math.floor(math.log10(value)) if value > 0 else 0
