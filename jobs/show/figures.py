"""Figures that depend on nothing but what they show: no window, no time stamp, written whole or not at all."""

from pathlib import Path
from typing import Any

from rankshift.screen.files.atomic import replacing

FORMATS = (".png", ".pdf", ".svg")
SEED = 0  # the published pictures have it (TS 5.4)


def pyplot() -> Any:
    """matplotlib's pyplot, without a window."""
    # Late: a command that draws nothing must not wait for matplotlib.
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plotting  # late, too

    return plotting


def save(figure: Any, out: Path) -> None:
    """Write a figure, whole or not at all, and without the time or the versions that would make it differ."""
    stamp = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with replacing(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:], metadata=stamp[out.suffix])
