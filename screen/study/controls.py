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
PART, ENOUGH = 4, 20  # one gene in four is still near; 20 where there are so few that this is more
MAD = 1.4826  # median absolute deviations in a standard deviation, of a normal
# Of normal values, the median absolute deviation and the median need 1/0.37 and pi/2 times the values that the standard
# deviation and the mean need (Rousseeuw and Croux, JASA 88, 1273, 1993); they are not moved by a few controls with an effect.
EFFICIENCY, MEDIAN_COST = 0.37, np.pi / 2
BIAS = 0.8  # of n values, their median absolute deviation is too small by n / (n - 0.8) (Croux and Rousseeuw, Compstat 1992)
TAIL, TAIL_FEWEST = 0.9, 500  # quantile of |z| that says how heavy tails are; of 500 genes it is known to 4 %


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Controls:
    """near: int64 [G, K], numbers of the controls of every gene; a row of -1 where there are too few."""

    near: np.ndarray

    @staticmethod
    def match(detection: np.ndarray, rank: np.ndarray | None, eligible: np.ndarray) -> "Controls":
        """The MOST genes among the `eligible`, bool [G], that are nearest in detection and mean rank, float64 [G] each.

        Both as quantiles. A quarter of the eligible genes are taken at most, so that near means something (of few genes ENOUGH,
        or half of them); fewer than FEWEST are none. A gene is never its own control.
        """
        pool = np.flatnonzero(eligible)
        count = min(MOST, max(len(pool) // PART, min(ENOUGH, len(pool) // 2)))
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
        if self.count:
            for donor, own in enumerate(
                np.ascontiguousarray(values.T)
            ):  # a short row sorts several times faster than a column
                out[:, donor] = own - _median(own[self.near])
        return out

    def against(self, effect: np.ndarray, among: np.ndarray) -> "Cloud":
        """Every effect float64 [G] among those of its controls; NaN counts for nothing.

        among: bool [G], the genes whose effects say how heavy the tails are: those that may be controls.
        """
        if not self.count:
            nan = np.full(len(effect), np.nan)
            none = np.zeros(len(effect), np.int64)
            return Cloud(centre=nan, spread=nan, count=none, z=nan, p=nan, share=nan, tail=np.inf)
        others = effect[self.near]
        count = np.isfinite(others).sum(1)
        centre = _median(others)
        away = np.abs(others - centre[:, None])
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = MAD * _median(away) * count / (count - BIAS)
            z = (effect - centre) / (spread * np.sqrt(1 + MEDIAN_COST / count))
        z[~(spread > 0)] = np.nan
        tail = tail_of(z[among])
        with np.errstate(invalid="ignore"):
            farther = (away >= np.abs(effect - centre)[:, None]).sum(1)
            p = 2 * t.sf(np.abs(z) * unit(tail), np.minimum(freedom(count), tail))
        share = np.where(np.isfinite(z), (1 + farther) / (count + 1), np.nan)
        return Cloud(centre=centre, spread=spread, count=count, z=z, p=p, share=share, tail=tail)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cloud:
    """Per gene [G]: centre and robust standard deviation of its controls' effects, how many there are, z of the gene, p.

    p: two-sided, that another gene like the controls lies as far out, by Student's t with `freedom` of the robust spread, or
    `tail` degrees where that is less. share: of the controls and the gene itself that lie as far out or farther.
    """

    centre: np.ndarray
    spread: np.ndarray
    count: np.ndarray
    z: np.ndarray
    p: np.ndarray
    share: np.ndarray
    tail: float


def freedom(count: np.ndarray) -> np.ndarray:
    """Degrees of freedom of a standard deviation that is known as well as the median absolute deviation of `count` values."""
    return np.maximum(EFFICIENCY * (np.asarray(count) - 1), 1)


def tail_of(z: np.ndarray) -> float:
    """Degrees of freedom of Student's t whose 90 % quantile, over its median, is that of |z|; infinite of few values.

    Effects of genes have heavier tails than normal ones, and it is in the tail that genes are called. True effects make a tail
    look heavier than it is, which costs some of them and claims none.
    """
    size = np.abs(z[np.isfinite(z)])
    if len(size) < TAIL_FEWEST:
        return np.inf
    ratio = np.quantile(size, TAIL) / max(float(np.median(size)), np.finfo(float).tiny)
    degrees = np.geomspace(1, 200, 400)
    expected = t.ppf((1 + TAIL) / 2, degrees) / t.ppf(0.75, degrees)  # falls
    return float(np.interp(-ratio, -expected, degrees, right=np.inf)) if ratio > expected[-1] else np.inf


def unit(tail: float) -> float:
    """What a robust standard deviation is worth in units of Student's t: its own median is not that of a normal."""
    return 1.0 if np.isinf(tail) else float(MAD * t.ppf(0.75, tail))


def _median(values: np.ndarray) -> np.ndarray:
    """Median of the rows of float64 [G, K], NaN left out; NaN where fewer than FEWEST are there."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(1)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, values.shape[1] - 1)
    row = np.arange(len(values))
    return np.where(count >= FEWEST, (ordered[row, low] + ordered[row, high]) / 2, np.nan)
