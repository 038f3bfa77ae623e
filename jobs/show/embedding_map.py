"""A map of embeddings in two dimensions, coloured by a column.

The same vectors give the same map. It is for looking at: distances in it are not those of the embeddings.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from rankshift.jobs.show.colouring import NONE, PALETTE, Colouring, draw_legend
from rankshift.jobs.show.figures import SEED, pyplot, save
from rankshift.jobs.show.shift_plot import DPI, INK
from rankshift.screen.errors import InputError
from rankshift.screen.extras import installed

PROJECTIONS = ("umap", "pca")
COMPONENTS, NEIGHBOURS, LEAST_DISTANCE = 50, 15, 0.5  # as scanpy, which the published pictures are made with


def check_umap() -> None:
    """Refuse a UMAP where the package for it is not installed."""
    if not installed("umap"):
        raise InputError('a UMAP needs umap-learn: pip install "rankshift[plots]", or use --projection pca')


def project(vectors: np.ndarray, how: str = "umap") -> np.ndarray:
    """Two dimensions of embeddings, float32 [n, 2]: UMAP of the first 50 principal components, or the first two."""
    from sklearn.decomposition import PCA  # late: it takes a second, and --help needs none of it

    if len(vectors) < 4:
        raise InputError(f"a map of {len(vectors)} rows shows nothing: embed at least 4")
    kept = min(COMPONENTS if how == "umap" else 2, *vectors.shape)
    components = PCA(kept, svd_solver="full").fit_transform(vectors)
    if how == "pca":
        return np.asarray(np.pad(components, ((0, 0), (0, 2 - kept))), np.float32)
    check_umap()
    from umap import UMAP  # late: it is optional

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
    plt = pyplot()
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
            draw_legend(figure, colouring, Counter(colouring.names))
        panel.set(xlabel=f"{projection.upper()} 1", ylabel=f"{projection.upper()} 2", xticks=[], yticks=[])
        panel.set_title(title, loc="left", fontsize=12)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        save(figure, out)
        plt.close(figure)
