"""Names beside points: none lies on another, none outside."""

import doctest

import numpy as np

from rankshift.screen.report.plots import label_placement
from rankshift.screen.report.plots.label_placement import places


def test_names_never_cover_each_other():
    assert doctest.testmod(label_placement).failed == 0
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in rng.uniform(40, 260, (30, 2))]
    sizes = [(50.0, 14.0)] * 30
    found = places(points, sizes, (0, 0, 300, 300))
    boxes = [
        (x + dx - 25, y + dy - 7, x + dx + 25, y + dy + 7)
        for (x, y), offset in zip(points, found, strict=True)
        if offset is not None
        for dx, dy in (offset,)
    ]
    assert len(boxes) >= 10
    for i, a in enumerate(boxes):
        assert a[0] >= -0.1
        assert a[2] <= 300.1
        for b in boxes[:i]:
            assert not (a[0] + 0.2 < b[2] and b[0] + 0.2 < a[2] and a[1] + 0.2 < b[3] and b[1] + 0.2 < a[3])
