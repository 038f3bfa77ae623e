"""Matched controls: for every gene the genes most like it in detection and rank, which say what perturbing any such gene does.

A value of a donor is adjusted by its own controls in the same donor, and an effect is held against the effects of its
controls. Legend: G genes, D donors, K controls.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata, t

MOST = 100  # controls: their spread is known to about a tenth
FEWEST = 10
MAD = 1.4826  # median absolute deviations in a standard deviation, of a normal
# Of normal values, the median absolute deviation and the median need 1/0.37 and pi/2 times the values that the standard
# deviation and the mean need (Rousseeuw and Croux, JASA 88, 1273, 1993); they are not moved by a few controls with an effect.
EFFICIENCY, MEDIAN_COST = 0.37, np.pi / 2
CHUNK = 4_000_000  # numbers held at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Controls:
    """near: int64 [G, K], numbers of the controls of every gene; a row of -1 where there are too few."""

    near: np.ndarray

    @staticmethod
    def match(detection: np.ndarray, rank: np.ndarray | None, eligible: np.ndarray) -> "Controls":
        """The MOST genes among the `eligible`, bool [G], that are nearest in detection and mean rank, float64 [G] each.

        Both as quantiles. At most half of the eligible genes are taken, so that near means something; fewer than FEWEST
        are none. A gene is never its own control.
        """
        pool = np.flatnonzero(eligible)
        count = min(MOST, len(pool) // 2)
        if count < FEWEST:
            return Controls(near=np.full((len(detection), 0), -1, np.int64))
        features = [detection] if rank is None else [detection, rank]
        place = np.column_stack([rankdata(np.nan_to_num(f, nan=np.nanmax(f))) / len(f) for f in features])
        near = pool[cKDTree(place[pool]).query(place, count + 1)[1]]
        other = near != np.arange(len(place))[:, None]
        other[other.all(1), -1] = False
        return Controls(near=near[other].reshape(len(place), count))

    @property
    def count(self) -> int:
        """K."""
        return self.near.shape[1]

    def adjusted(self, values: np.ndarray) -> np.ndarray:
        """Values float64 [G, D] minus the median of the controls' in the same donor; NaN where fewer than FEWEST have one."""
        out = np.full(values.shape, np.nan)
        if not self.count:
            return out
        step = max(1, CHUNK // (self.count * values.shape[1]))
        whole = not np.isnan(values).any()
        for begin in range(0, len(values), step):
            part = values[self.near[begin : begin + step]]
            out[begin : begin + step] = values[begin : begin + step] - (
                np.median(part, axis=1) if whole else _median(part)
            )
        return out

    def against(self, effect: np.ndarray) -> "Cloud":
        """Every effect float64 [G] among those of its controls; NaN counts for nothing."""
        if not self.count:
            nan = np.full(len(effect), np.nan)
            return Cloud(centre=nan, spread=nan, count=np.zeros(len(effect), np.int64), z=nan, p=nan)
        others = effect[self.near]
        count = np.isfinite(others).sum(1)
        centre = _median(others[:, :, None])[:, 0]
        spread = MAD * _median(np.abs(others - centre[:, None])[:, :, None])[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            z = (effect - centre) / (spread * np.sqrt(1 + MEDIAN_COST / count))
        z[~(spread > 0)] = np.nan
        return Cloud(centre=centre, spread=spread, count=count, z=z, p=2 * t.sf(np.abs(z), freedom(count)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cloud:
    """Per gene [G]: centre and robust standard deviation of its controls' effects, how many there are, z of the gene, p.

    p: two-sided, that another gene like the controls lies as far out, by Student's t with `freedom` of the robust spread.
    """

    centre: np.ndarray
    spread: np.ndarray
    count: np.ndarray
    z: np.ndarray
    p: np.ndarray


def freedom(count: np.ndarray) -> np.ndarray:
    """Degrees of freedom of a standard deviation that is known as well as the median absolute deviation of `count` values."""
    return np.maximum(EFFICIENCY * (np.asarray(count) - 1), 1)


def _median(values: np.ndarray) -> np.ndarray:
    """Median over the second axis of float64 [g, K, D], NaN left out; NaN where fewer than FEWEST are there."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(1)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, values.shape[1] - 1)
    middle = (np.take_along_axis(ordered, low[:, None], 1) + np.take_along_axis(ordered, high[:, None], 1))[:, 0] / 2
    return np.where(count >= FEWEST, middle, np.nan)
