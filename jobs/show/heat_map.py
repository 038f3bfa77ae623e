"""A clustered heat map of embeddings, with the colours of a column beside its rows."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rankshift.jobs.show.colouring import Colouring, draw_legend
from rankshift.jobs.show.figures import SEED, pyplot, save
from rankshift.jobs.show.shift_plot import DPI, INK
from rankshift.screen.errors import InputError

HEAT_ROWS = 1000  # most rows of a heat map, as published; more fall below a pixel, and clustering is quadratic


def draw_heat_map(
    vectors: np.ndarray, colouring: Colouring | None, out: Path, *, title: str = "", cmap: str = "magma"
) -> None:
    """Rows and dimensions of the embeddings, both clustered (average linkage of Euclidean distances).

    Every dimension goes from 0, its least value, to 1, its largest. If there are more than `HEAT_ROWS` rows, a sample is shown.
    """
    # Late: a command that draws nothing must not wait for it.
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(vectors) < 2:
        raise InputError(f"a heat map of {len(vectors)} row shows nothing: embed at least 2")
    plt = pyplot()
    some = sample(len(vectors), HEAT_ROWS)
    kept = vectors[some]
    low, high = kept.min(0), kept.max(0)
    scaled = (kept - low) / np.where(high > low, high - low, 1)
    trees = linkage(scaled, "average"), linkage(scaled.T, "average")
    rows, columns = (leaves_list(tree) for tree in trees)
    with plt.rc_context({"font.size": 11, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}):
        figure, panels = plt.subplot_mosaic(
            [[".", ".", "over"], ["beside", "bar", "heat"]],
            figsize=(9.5, 8),
            layout="constrained",
            dpi=DPI,
            width_ratios=[0.12, 0.03, 1],
            height_ratios=[0.12, 1],
        )
        image = panels["heat"].imshow(
            scaled[rows][:, columns], aspect="auto", cmap=cmap, vmin=0, vmax=1, interpolation="nearest"
        )
        panels["heat"].set(xticks=[], yticks=[], xlabel=f"{vectors.shape[1]} dimensions", ylabel=None)
        _tree(panels["over"], trees[1], columns, upright=True)
        _tree(panels["beside"], trees[0], rows, upright=False)
        _bar(panels["bar"], colouring, some[rows])
        figure.colorbar(image, ax=panels["heat"], label="of the dimension's range", shrink=0.4)
        if colouring is not None and colouring.is_scale:
            # Late, as all of matplotlib.
            from matplotlib.cm import ScalarMappable
            from matplotlib.colors import Normalize

            extent = Normalize(np.nanmin(colouring.numbers), np.nanmax(colouring.numbers))
            scale = ScalarMappable(extent, "viridis")
            figure.colorbar(scale, ax=panels["heat"], label=colouring.title, shrink=0.4)
        elif colouring is not None:
            draw_legend(figure, colouring, Counter(colouring.names[i] for i in some))
        shown = f" ({len(some):,} of {len(vectors):,} rows)" if len(some) < len(vectors) else ""
        panels["over"].set_title(title + shown, loc="left", fontsize=12)
        save(figure, out)
        plt.close(figure)


def sample(count: int, most: int | None) -> np.ndarray:
    """Ascending numbers of at most `most` of `count` rows, the same ones every time."""
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).permutation(count)[:most])


def _bar(panel: Any, colouring: Colouring | None, rows: np.ndarray) -> None:
    """The colour of every row, beside the heat map."""
    # Late, as all of matplotlib.
    from matplotlib.colors import ListedColormap

    panel.axis("off")
    if colouring is None:
        return
    if colouring.is_scale:
        panel.imshow(colouring.numbers[rows, None], aspect="auto", cmap="viridis", interpolation="nearest")
        return
    place = {name: i for i, (name, _, _) in enumerate(colouring.legend)}
    strip = np.array([place[colouring.names[i]] for i in rows])[:, None]
    panel.imshow(
        strip,
        aspect="auto",
        cmap=ListedColormap([colour for _, colour, _ in colouring.legend]),
        vmin=-0.5,
        vmax=len(place) - 0.5,
        interpolation="nearest",
    )


def _tree(panel: Any, tree: np.ndarray, leaves: np.ndarray, *, upright: bool) -> None:
    """A dendrogram over the leaves in their order, without recursion: chains of thousands are no problem."""
    # Late, as all of matplotlib.
    from matplotlib.collections import LineCollection

    count = len(leaves)
    at, height = np.zeros(2 * count - 1), np.zeros(2 * count - 1)
    at[leaves] = np.arange(count)
    lines = []
    for i, (a, b, top, _) in enumerate(tree, count):
        a, b = int(a), int(b)
        lines.append([(at[a], height[a]), (at[a], top), (at[b], top), (at[b], height[b])])
        at[i], height[i] = (at[a] + at[b]) / 2, top
    points = np.array(lines)
    panel.add_collection(LineCollection(list(points if upright else points[..., ::-1]), colors=INK, linewidths=0.5))
    ends, tops = (-0.5, count - 0.5), (0, float(height.max()) * 1.02 or 1.0)
    panel.set(**({"xlim": ends, "ylim": tops} if upright else {"xlim": tops[::-1], "ylim": ends[::-1]}))
    panel.axis("off")
