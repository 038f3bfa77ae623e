"""Pictures of embeddings: a map in two dimensions, coloured by a column, and a clustered heat map.

Colours are told apart without red and green (Okabe and Ito 2008; viridis, magma); beyond eight, shapes change, too. The
same vectors give the same picture. A map is for looking at: distances in it are not those of the embeddings.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rankshift.jobs.show.shift_plot import DPI, INK
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SHAPES = "o^sDv"
NONE = "#c4ccd4"
FORMATS = (".png", ".pdf", ".svg")
PROJECTIONS = ("umap", "pca")
SEED = 0  # the published pictures have it (TS 5.4)
COMPONENTS, NEIGHBOURS, LEAST_DISTANCE = 50, 15, 0.5  # as scanpy, which the published pictures are made with
HEAT_ROWS = 1000  # most rows of a heat map, as published; more fall below a pixel, and clustering is quadratic


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What to draw. map, heat_map: files (.png, .pdf, .svg). color: a column. projection: of the map, umap or pca."""

    map: Path | None = None
    heat_map: Path | None = None
    color: str | None = None
    projection: str = "umap"

    def __post_init__(self) -> None:
        for name, path in (("--plot", self.map), ("--heat-map", self.heat_map)):
            if path is not None and path.suffix not in FORMATS:
                raise InputError(f"{name} {path} is neither of {', '.join(FORMATS)}: name one of those")
        if self.projection not in PROJECTIONS:
            raise InputError(f"--projection {self.projection!r} is unknown: use one of {', '.join(PROJECTIONS)}")
        if not self and self.color is not None:
            raise InputError("--color is for pictures: add --plot FILE or --heat-map FILE")
        if self.map is not None and self.projection == "umap":
            check_umap()

    def __bool__(self) -> bool:
        return self.map is not None or self.heat_map is not None

    def check(self, columns: Sequence[str]) -> None:
        """Refuse a color that is not one of the rows' columns."""
        if self.color is not None and self.color not in columns:
            raise InputError(f"--color {self.color!r} is not a column: the columns are {', '.join(columns)}")


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


def check_umap() -> None:
    """Refuse a UMAP where the package for it is not installed."""
    if find_spec("umap") is None:
        raise InputError("a UMAP needs umap-learn: pip install 'rankshift[plots]', or use --projection pca")


def project(vectors: np.ndarray, how: str = "umap") -> np.ndarray:
    """Two dimensions of embeddings, float32 [n, 2]: UMAP of the first 50 principal components, or the first two."""
    from sklearn.decomposition import PCA

    if len(vectors) < 4:
        raise InputError(f"a map of {len(vectors)} rows shows nothing: embed at least 4")
    kept = min(COMPONENTS if how == "umap" else 2, *vectors.shape)
    components = PCA(kept, svd_solver="full").fit_transform(vectors)
    if how == "pca":
        return np.asarray(np.pad(components, ((0, 0), (0, 2 - kept))), np.float32)
    check_umap()
    from umap import UMAP

    umap = UMAP(
        n_neighbors=min(NEIGHBOURS, len(vectors) - 1), min_dist=LEAST_DISTANCE, random_state=SEED, n_jobs=1
    )  # one thread: a seed alone does not fix the order of several
    return np.asarray(umap.fit_transform(components), np.float32)


def draw_map(
    vectors: np.ndarray,
    colouring: Colouring | None,
    out: Path,
    *,
    projection: str = "umap",
    title: str = "",
    size: float | None = None,
) -> None:
    """The embeddings in two dimensions, one point a row. size: of a point, in square points; None: by their number."""
    plt = _pyplot()
    xy = project(vectors, projection)
    area = float(np.clip(12_000 / len(xy), 3, 60)) if size is None else size
    with plt.rc_context({"font.size": 11, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}):
        figure, panel = plt.subplots(figsize=(7.4, 5.6), layout="constrained", dpi=DPI)
        look = {"s": area, "linewidths": 0, "alpha": 0.85}
        if colouring is None:
            panel.scatter(*xy.T, color=PALETTE[0], **look)
        elif colouring.is_scale:
            empty = np.isnan(colouring.numbers)
            panel.scatter(*xy[empty].T, color=NONE, **look)
            points = panel.scatter(*xy[~empty].T, c=colouring.numbers[~empty], cmap="viridis", **look)
            figure.colorbar(points, ax=panel, label=colouring.title, shrink=0.7)
        else:
            names = np.array(colouring.names)
            shown = np.random.default_rng(SEED).permutation(len(xy))  # no name lies on top of the others
            for name, colour, shape in colouring.legend:
                of = shown[names[shown] == name]
                panel.scatter(*xy[of].T, color=colour, marker=shape, label=f"{name} ({len(of):,})", **look)
            _legend(figure, colouring, Counter(colouring.names))
        panel.set(xlabel=f"{projection.upper()} 1", ylabel=f"{projection.upper()} 2", xticks=[], yticks=[])
        panel.set_title(title, loc="left", fontsize=12)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        _save(figure, out)
        plt.close(figure)


def draw_heat_map(
    vectors: np.ndarray, colouring: Colouring | None, out: Path, *, title: str = "", cmap: str = "magma"
) -> None:
    """Rows and dimensions of the embeddings, both clustered (average linkage of Euclidean distances).

    Every dimension goes from 0, its least value, to 1, its largest. If there are more than `HEAT_ROWS` rows, a sample is shown.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(vectors) < 2:
        raise InputError(f"a heat map of {len(vectors)} row shows nothing: embed at least 2")
    plt = _pyplot()
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
            from matplotlib.cm import ScalarMappable
            from matplotlib.colors import Normalize

            extent = Normalize(np.nanmin(colouring.numbers), np.nanmax(colouring.numbers))
            scale = ScalarMappable(extent, "viridis")
            figure.colorbar(scale, ax=panels["heat"], label=colouring.title, shrink=0.4)
        elif colouring is not None:
            _legend(figure, colouring, Counter(colouring.names[i] for i in some))
        shown = f" ({len(some):,} of {len(vectors):,} rows)" if len(some) < len(vectors) else ""
        panels["over"].set_title(title + shown, loc="left", fontsize=12)
        _save(figure, out)
        plt.close(figure)


def sample(count: int, most: int | None) -> np.ndarray:
    """Ascending numbers of at most `most` of `count` rows, the same ones every time."""
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).permutation(count)[:most])


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def _legend(figure: Any, colouring: Colouring, count: Counter[str]) -> None:
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


def _bar(panel: Any, colouring: Colouring | None, rows: np.ndarray) -> None:
    """The colour of every row, beside the heat map."""
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


def _save(figure: Any, out: Path) -> None:
    stamp = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with replacing(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:], metadata=stamp[out.suffix])
