"""Where names of points go: each at the nearest free place around its point, all in pixels. What finds no place has none."""

import math
from collections.abc import Iterator, Sequence

Box = tuple[float, float, float, float]  # left, low, right, high
POINT = 5.0  # half the width kept free around a named point
REACH = range(10, 130, 7)  # distances tried
TURN = 15  # degrees between the directions tried


def text_size(text: str, points: float) -> tuple[float, float]:
    """Width and height of a bold line of text of that size, rather too large than too small."""
    wide = sum(0.40 if c in "iIlj1.,:;|'()[] -" else 0.92 if c in "mwMW@%" else 0.70 for c in text)
    return wide * points + 5, 1.25 * points


def places(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    taken: Sequence[Box] = (),
    first: Sequence[float] | None = None,
) -> list[tuple[float, float] | None]:
    """For each point, in the order of their importance, the offset of the centre of its name, or None.

    sizes: width and height of the names. taken: boxes where nothing may be written. first: degrees of the direction that
    is tried first, to the right by default. Names lie within `frame` and cover neither each other nor a named point.

    >>> places([(50, 50), (52, 50)], [(20, 10), (20, 10)], (0, 0, 100, 100))
    [(20.0, 0.0), (0.0, 10.0)]
    """
    held = [*taken, *((x - POINT, y - POINT, x + POINT, y + POINT) for x, y in points)]
    found: list[tuple[float, float] | None] = []
    for point, size, angle in zip(points, sizes, first or [0.0] * len(points), strict=True):
        box = next((b for b in _around(point, size, angle) if _free(b, frame, held)), None)
        if box is None:
            found.append(None)
            continue
        held.append(box)
        found.append((round((box[0] + box[2]) / 2 - point[0], 1), round((box[1] + box[3]) / 2 - point[1], 1)))
    return found


def _around(point: tuple[float, float], size: tuple[float, float], first: float) -> Iterator[Box]:
    """Boxes of the size around the point, the nearest first, in the direction `first` before others."""
    (x, y), (wide, high) = point, size
    turns = sorted(range(0, 360, TURN), key=lambda angle: abs((angle - first + 180) % 360 - 180))
    for far in REACH:
        for angle in turns:
            dx, dy = far * math.cos(math.radians(angle)), far * math.sin(math.radians(angle))
            left = x + dx - (wide if dx < -1 else 0 if dx > 1 else wide / 2)
            yield (left, y + dy - high / 2, left + wide, y + dy + high / 2)


def _free(box: Box, frame: Box, held: Sequence[Box]) -> bool:
    inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
    return inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in held)
