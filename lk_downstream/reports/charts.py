"""Charts of a page, as the numbers that its template draws: lines or points over two axes, and values with intervals.

They are plain SVG, whose colours are those of the page: light or dark, on a screen or on paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

WIDTH, HEIGHT = 400, 250  # of a chart, in units of which a letter has 12
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 34  # margins
MOST_POINTS = 400  # of a line
MOST_MARKED = 60  # points of a line, of more none is marked


class Line(NamedTuple):
    """A row of points of a :class:`Chart`; what is not finite is left out.

    Attributes:
        name: in the legend; lines of one name have one colour, as the runs of one model.
        x: rising, or in any order with ``points``.
        y: as many.
        points: whether they are marked and not joined.
        weak: whether the line stands behind the others, such as a loss before it is smoothed.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    points: bool = False
    weak: bool = False


class Tick(NamedTuple):
    """A mark of an axis: its place in the chart, and its text."""

    place: float
    text: str


class Drawn(NamedTuple):
    """A line as it is drawn: the path that joins its points, and the points that are marked, each with its text."""

    name: str
    path: str
    marks: list[tuple[float, float, str]]
    weak: bool
    colour: int


class Axis:
    """From values to places, along one axis of a chart."""

    def __init__(self, values: np.ndarray, low: float, high: float, log: bool = False, zero: bool = False):
        self.log = log and len(values) > 0 and bool((values > 0).all())
        values = np.log10(values) if self.log else values
        least, most = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        if zero and not self.log and least > 0 and least < 0.5 * most:
            least = 0.0
        if most - least <= 1e-12 * max(abs(most), abs(least)):
            margin = 0.1 * abs(most) or 1.0
            least, most = least - margin, most + margin
        margin = 0.04 * (most - least)
        self.first = least if zero and least == 0 else least - margin
        self.last, self.low, self.high = most + margin, low, high

    def place(self, value: float) -> float:
        """Where a value lies, to a tenth."""
        value = math.log10(value) if self.log else value
        share = (value - self.first) / (self.last - self.first)
        return round(self.low + share * (self.high - self.low), 1)

    def ticks(self) -> list[Tick]:
        """Three to seven round values."""
        if self.log and self.last - self.first > 1.5:
            step = max(1, round((self.last - self.first) / 5))
            values = [10.0**power for power in range(math.ceil(self.first), math.floor(self.last) + 1, step)]
        else:
            first, last = (10**self.first, 10**self.last) if self.log else (self.first, self.last)
            rough = (last - first) / 5
            unit = 10.0 ** math.floor(math.log10(rough))
            step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
            values = [step * number for number in range(math.ceil(first / step), math.floor(last / step) + 1)]
        return [Tick(self.place(value), f"{value:.4g}") for value in values]


@dataclass(frozen=True)
class Chart:
    """Lines, or points with ``Line(points=True)``, over two axes, as a training curve or accuracy over latency.

    Args:
        lines: In the order of the legend.
        title: What stands above; it is also what a reader of the screen is told.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        log_x: Whether the horizontal axis is logarithmic, if all its values are positive.
        log_y: Likewise.
        top: Where the vertical axis ends, as a few large losses at the start would flatten the rest; None: at the
            highest value.
    """

    kind: ClassVar[str] = "chart"
    lines: Sequence[Line]
    title: str = ""
    x: str = ""
    y: str = ""
    log_x: bool = False
    log_y: bool = False
    top: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return WIDTH, HEIGHT

    def drawing(self) -> dict[str, Any]:
        """Frame, ticks and lines, in units of the chart."""
        rows = [self._finite(line) for line in self.lines]
        xs, ys = (np.concatenate([row[at] for row in rows] or [np.zeros(0)]) for at in (0, 1))
        marked = any(line.points for line in self.lines)
        across = Axis(xs, LEFT, WIDTH - RIGHT, self.log_x)
        up = Axis(ys, HEIGHT - BOTTOM, TOP, self.log_y, zero=not marked)
        lines, colours = [], {}
        for line, (x, y) in zip(self.lines, rows):
            places = [(across.place(a), up.place(b)) for a, b in zip(*_thinned(x, y, line.points))]
            path = "" if line.points else "M" + "L".join(f"{a:g} {b:g}" for a, b in places) if places else ""
            few = line.points or len(x) <= MOST_MARKED
            marks = [(*place, f"{a:.6g}, {b:.4g}") for place, a, b in zip(places, x, y)]
            marks = marks if few and not line.weak else []
            colour = colours.get(line.name, len(colours))
            if not line.weak:  # a line behind another has its colour
                colours[line.name] = colour
            lines.append(Drawn(line.name, path, marks, line.weak, colour % 8))
        frame = {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
        return {"frame": frame, "x": across.ticks(), "y": up.ticks(), "lines": lines}

    def _finite(self, line: Line) -> tuple[np.ndarray, np.ndarray]:
        x, y = (np.asarray(values, dtype=np.float64) for values in (line.x, line.y))
        known = np.isfinite(x) & np.isfinite(y)
        if self.log_x:
            known &= x > 0
        if self.log_y:
            known &= y > 0
        return x[known], y[known] if self.top is None else np.minimum(y[known], self.top)


def _thinned(x: np.ndarray, y: np.ndarray, points: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of a long line the lowest and the highest of each stretch, so that no peak is lost."""
    if points or len(x) <= MOST_POINTS:
        return x, y
    stretches = np.array_split(np.arange(len(x)), MOST_POINTS // 2)
    kept = np.unique([index for part in stretches for index in (part[y[part].argmin()], part[y[part].argmax()])])
    return x[kept], y[kept]


@dataclass(frozen=True)
class Intervals:
    """A row for each of several things: its value, and the interval within which it lies, as of several seeds.

    Args:
        names: Of the rows, first at the top.
        values: Of each.
        low: Where its interval begins; None: there are none.
        high: Where it ends.
        title: What stands above.
        x: Name of the axis.
    """

    kind: ClassVar[str] = "intervals"
    names: Sequence[str]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    title: str = ""
    x: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return WIDTH, TOP + 26 * len(self.names) + BOTTOM

    def drawing(self) -> dict[str, Any]:
        """Ticks and rows, in units of the chart."""
        low, high = (self.values if ends is None else ends for ends in (self.low, self.high))
        ends = np.array([*low, *high, *self.values], dtype=np.float64)
        across = Axis(ends[np.isfinite(ends)], 12, WIDTH - 12)
        rows = []
        for number, (name, value, least, most) in enumerate(zip(self.names, self.values, low, high)):
            if math.isfinite(value):
                places = [across.place(number if math.isfinite(number) else value) for number in (least, value, most)]
                span = f" ({least:.4g} to {most:.4g})" if self.low is not None else ""
                rows.append({"name": name, "y": TOP + 26 * number + 18, "places": places, "text": f"{value:.4g}{span}"})
            else:
                rows.append({"name": name, "y": TOP + 26 * number + 18, "places": [], "text": "-"})
        return {"x": across.ticks(), "rows": rows, "bottom": self.size[1] - BOTTOM}
