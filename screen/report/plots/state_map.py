"""The map of states: cells between start and goal, and where the strongest perturbations push them.

With the bundle at hand it is a principal component analysis of cell embeddings (linear, so an arrow is the true mean
displacement, seen in two directions; a UMAP would bend it). Without, it is drawn from the cosines that every run stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.report.findings import Findings
from rankshift.screen.report.plots import theme
from rankshift.screen.report.plots.drawing import Drawing
from rankshift.screen.report.plots.label_placement import places, text_size
from rankshift.screen.report.plots.state_embedding import Embedded, embed_states
from rankshift.screen.report.plots.volcano import shortened
from rankshift.screen.runs.layout import cos_before_column, shift_column
from rankshift.screen.runs.views import quoted
from rankshift.screen.stats.arithmetic.principal import principal

ARROWS = 8
CELLS = 2000  # drawn from stored cosines
MARGIN = {"l": 64, "r": 16, "t": 40, "b": 52}
REACH = 0.35  # length of the longest arrow, as a share of the map


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StateMap:
    """Points [n, 2] by group of cells, of the state vectors, and arrows [2] by name from `origin`.

    axes: what the two directions are. notes: what the map was made of and what it lacks, in sentences.
    """

    cells: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]
    origin: np.ndarray
    arrows: dict[str, np.ndarray]
    axes: tuple[str, str]
    notes: tuple[str, ...]

    @property
    def magnified(self) -> float:
        """How many times longer than measured the arrows are drawn: 1, 2 or 5 times a power of ten."""
        longest = max((float(np.hypot(*a)) for a in self.arrows.values()), default=0.0)
        points = np.concatenate([*self.cells.values(), *(v[None] for v in self.vectors.values())])
        wanted = REACH * float(np.ptp(points, axis=0).max()) / longest if longest > 0 else 1.0
        if not np.isfinite(wanted) or wanted <= 0:
            return 1.0
        power = 10.0 ** np.floor(np.log10(wanted))
        return float(max(step for step in (1.0, 2.0, 5.0) if step * power <= wanted) * power)


def state_map(
    findings: Findings,
    genes: Sequence[int] | None = None,
    *,
    bundle: Path | None = None,
    cells: Path | None = None,
    embed: bool = True,
) -> StateMap:
    """The map for the perturbations `genes` (rows of the findings; None: the strongest).

    embed: with embeddings computed now, if the bundle is there; the notes say why not. Raises InputError when a run without
    its bundle has fewer than two states.
    """
    rows = list(range(min(ARROWS, len(findings))) if genes is None else genes)
    why = "drawn from the cosines to both states that the run stores, without the model"
    if embed:
        try:
            return _from_embeddings(
                findings, rows, embed_states(findings.run, numbers_of(findings, rows), bundle, cells)
            )
        except InputError as error:
            why += f", because {error}"
    return _from_cosines(findings, rows, why)


def plot_states(made: StateMap, *, width: int | None = None, height: int = 520) -> Drawing:
    """Cells by state, state vectors as stars, and arrows of the mean displacement, magnified as the note says."""
    heads = {name: made.origin + made.magnified * arrow for name, arrow in made.arrows.items()}
    every = np.concatenate(
        [*made.cells.values(), *(v[None] for v in made.vectors.values()), *(h[None] for h in heads.values())]
    )
    low, high = every.min(0), every.max(0)
    room = 0.08 * np.maximum(high - low, 1e-6)
    ranges = [[float(a), float(b)] for a, b in zip(low - room, high + room, strict=True)]
    figure = theme.figure(
        height, width, margin=MARGIN,
        xaxis={"range": ranges[0], "title": theme.plain(made.axes[0]), "zeroline": False},
        yaxis={"range": ranges[1], "title": theme.plain(made.axes[1]), "zeroline": False},
    )  # fmt: skip
    for i, (name, points) in enumerate(made.cells.items()):
        figure.trace(
            "scatter",
                x=points[:, 0], y=points[:, 1], mode="markers", name=f"{theme.plain(name)} ({len(points):,} cells)",
                marker={"size": 6, "opacity": 0.45, "color": theme.GROUPS[i % len(theme.GROUPS)]}, hoverinfo="name",
        )  # fmt: skip
    if made.vectors:
        colour = {name: theme.GROUPS[i % len(theme.GROUPS)] for i, name in enumerate(made.cells)}
        stars: dict[str, Any] = {"symbol": "star", "size": 15, "line": {"width": 1, "color": "#ffffff"}}
        points = np.array(list(made.vectors.values()))
        figure.trace(
            "scatter",
                x=points[:, 0], y=points[:, 1], mode="markers", name="state vector",
                marker=stars | {"color": [colour.get(name, theme.OTHER) for name in made.vectors]},
                text=[theme.plain(name) for name in made.vectors], hovertemplate="state %{text}<extra></extra>",
        )  # fmt: skip
    _draw_arrows(figure, made, heads, ranges, (width or 1040, height))
    return figure


def numbers_of(findings: Findings, rows: Sequence[int]) -> list[int]:
    """The run's numbers of perturbations by rows of the findings."""
    table = findings.run.sql("SELECT gene_ids, perturbation FROM perturbations")
    number = dict(zip(table["gene_ids"].to_pylist(), table["perturbation"].to_pylist(), strict=True))
    ids = findings.strings("gene_ids")
    return [number[ids[i]] for i in rows]


def _from_embeddings(findings: Findings, rows: Sequence[int], found: Embedded) -> StateMap:
    every = np.concatenate(list(found.states.values())).astype(np.float64)
    states = {n: np.asarray(v, np.float64) for n, v in findings.run.manifest.states.items()}
    if len(every) < 3 or every.shape[1] < 2:
        raise InputError("the run has fewer than three cells, which make no map")
    _, directions, held = principal(every)
    shares = [f"PC{i + 1} ({share:.0%} of the variance)" for i, share in enumerate(held)]
    symbols = findings.strings("symbols")
    arrows = {
        symbols[row]: found.moved[n][0].astype(np.float64) @ directions.T
        for row, n in zip(rows, numbers_of(findings, rows), strict=True)
        if n in found.moved
    }
    middle = every.mean(0)
    cells = {name: (v.astype(np.float64) - middle) @ directions.T for name, v in found.states.items()}
    used = [count for _, count in found.moved.values()]
    notes = ["Principal components of cell embeddings, computed from the bundle in float32 when this report was made."]
    if used:
        notes.append(
            f"An arrow is the mean displacement of the embedding over {_spanned(used)} cells, from the mean of the start."
        )
    return StateMap(
        cells=cells,
        vectors={name: (v - middle) @ directions.T for name, v in states.items()},
        origin=next(iter(cells.values())).mean(0),
        arrows=arrows,
        axes=(shares[0], shares[1]),
        notes=(*notes, *(f"{n[0].upper()}{n[1:]}." for n in found.notes)),
    )


def _spanned(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _from_cosines(findings: Findings, rows: Sequence[int], why: str) -> StateMap:
    """Across: cosine to the goal minus to the start; up: the mean of both."""
    run = findings.run
    route, vectors = run.manifest.route, run.manifest.states
    states = run.states[:2] if route is None else [route.start, route.goal]
    if len(states) < 2 or any(not vectors[s] for s in states):
        raise InputError("a map without the model needs two states: screen with --states or --start and --goal")
    start, goal = states
    a, b = (quoted(cos_before_column(s)) for s in states)
    points = run.sql(f"""SELECT any_value({a}) AS a, any_value({b}) AS b FROM shifts GROUP BY cell
        ORDER BY hash(cell) LIMIT {CELLS}""")
    a, b = (quoted(shift_column(s)) for s in states)
    numbers = numbers_of(findings, rows)
    moved = run.sql(f"""SELECT perturbation, avg({a}) AS a, avg({b}) AS b FROM shifts
        WHERE perturbation IN ({", ".join(map(str, numbers))}) GROUP BY 1""").to_pylist()
    by_number = {m["perturbation"]: np.array([m["b"] - m["a"], (m["a"] + m["b"]) / 2]) for m in moved}
    symbols = findings.strings("symbols")
    first, second = points["a"].to_numpy().astype(np.float64), points["b"].to_numpy().astype(np.float64)
    name = "screened" if route is None else start
    cells = {name: np.column_stack([second - first, (first + second) / 2])}
    u, v = (np.asarray(vectors[s], np.float64) for s in states)
    like = float(u @ v / (np.linalg.norm(u) * np.linalg.norm(v)))
    return StateMap(
        cells=cells,
        vectors={start: np.array([like - 1, (1 + like) / 2]), goal: np.array([1 - like, (1 + like) / 2])},
        origin=cells[name].mean(0),
        arrows={symbols[r]: by_number[n] for r, n in zip(rows, numbers, strict=True) if n in by_number},
        axes=(f"cosine to {goal} − cosine to {start}", f"mean cosine to {start} and {goal}"),
        notes=(f"{why[0].upper()}{why[1:]}.", "An arrow is the mean shift over all cells of the perturbation."),
    )


def _draw_arrows(
    figure: Drawing,
    made: StateMap,
    heads: dict[str, np.ndarray],
    ranges: list[list[float]],
    size: tuple[int, int],
) -> None:
    wide, high = size[0] - MARGIN["l"] - MARGIN["r"], size[1] - MARGIN["t"] - MARGIN["b"]
    (left, right), (low, top) = ranges

    def pixels(p: np.ndarray) -> tuple[float, float]:
        return float((p[0] - left) / (right - left) * wide), float((p[1] - low) / (top - low) * high)

    ends = [(f"state {name}", point, True) for name, point in made.vectors.items()]
    ends += [(shortened(name), head, False) for name, head in heads.items()]
    away = [float(np.degrees(np.arctan2(*np.subtract(pixels(p), pixels(made.origin))[::-1]))) for _, p, _ in ends]
    offsets = places(
        [pixels(point) for _, point, _ in ends],
        [text_size(name, theme.SIZE - 1) for name, _, _ in ends],
        (0.0, 0.0, float(wide), float(high)),
        first=away,
    )
    for head in heads.values():
        figure.note(
            x=head[0], y=head[1], ax=made.origin[0], ay=made.origin[1], axref="x", ayref="y", xref="x", yref="y",
            arrowhead=2, arrowwidth=1.8, arrowcolor=theme.TOWARDS, text="", showarrow=True,
        )  # fmt: skip
    for (name, point, state), offset in zip(ends, offsets, strict=True):
        if offset is not None:
            figure.note(
                text=f"<i>{theme.plain(name)}</i>" if state else f"<b>{theme.plain(name)}</b>", x=point[0], y=point[1],
                xshift=offset[0], yshift=offset[1], showarrow=False, font={"size": theme.SIZE - 1}, name="gene",
            )  # fmt: skip
