"""What the sections of a page are made of, beside charts: facts, tables, a confusion matrix, text, figures, images."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

MOST_CLASSES = 40  # of a confusion matrix that is shown


class Cell(NamedTuple):
    """A cell of a table: its text, the number that it is sorted by, the length of its bar, whether it is the best."""

    text: str
    value: float | None = None
    bar: float | None = None  # percent
    best: bool = False


class Number(NamedTuple):
    """A metric that matters: its name, its text and what is to be known of it."""

    name: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Numbers:
    """The metrics that matter most, large."""

    kind: ClassVar[str] = "numbers"
    numbers: Sequence[Number]


@dataclass(frozen=True)
class Facts:
    """Names with a text or a number each."""

    kind: ClassVar[str] = "facts"
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Text:
    """Text as it is, such as a config or a command; a long one is folded.

    Args:
        text: In lines.
        title: What it is.
        folded: Whether it is shown only when asked for.
    """

    kind: ClassVar[str] = "text"
    text: str
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Table:
    """A table, which a reader can sort by each column.

    Args:
        columns: Headings.
        rows: Of texts and numbers; None and NaN are a dash.
        percent: Columns that hold fractions of 1, shown in percent.
        bar: A column of fractions of 1 that has bars.
        best: Columns whose largest or smallest value is marked.
        note: What stands below.
        title: What stands above.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    percent: Sequence[str] = ()
    bar: str = ""
    best: Mapping[str, Literal["max", "min"]] = field(default_factory=dict)
    note: str = ""
    title: str = ""

    def numeric(self) -> list[bool]:
        """Whether a column has numbers alone, or nothing."""
        columns = list(zip(*self.rows)) or [()] * len(self.columns)
        return [_all_numbers(column) for column in columns]

    def cells(self) -> list[list[Cell]]:
        """The rows as they are shown."""
        marked = {}
        for name, which in self.best.items():
            known = [value for row in self.rows if (value := _number(row[self.columns.index(name)])) is not None]
            marked[name] = (max if which == "max" else min)(known) if known else None
        named = ([(name, value, marked.get(name)) for name, value in zip(self.columns, row)] for row in self.rows)
        return [[self._cell(*cell) for cell in row] for row in named]

    def _cell(self, name: str, value: Any, best: float | None) -> Cell:
        number = _number(value)
        if _blank(value):
            return Cell("\N{EN DASH}")
        if number is None:
            return Cell(str(value))
        text = str(value) if isinstance(value, int) else f"{number:.4g}"
        if name in self.percent:
            text = f"{100 * number:.2f}"
        bar = round(100 * min(max(number, 0.0), 1.0), 1) if name == self.bar else None
        return Cell(text, number, bar, best is not None and number == best)


def _blank(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _all_numbers(values: Sequence[Any]) -> bool:
    numbers = [_number(value) for value in values if not _blank(value)]
    return bool(numbers) and None not in numbers


def _number(value: Any) -> float | None:
    """A number that can be compared, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix, by its shares of each true class.

    Args:
        counts: (classes, classes), whole numbers, rows are the truth.
        classes: Their names. Of more than ``MOST_CLASSES`` that occur, those with the most errors are shown.
        unit: What is counted.
    """

    kind: ClassVar[str] = "matrix"
    counts: np.ndarray
    classes: Sequence[str]
    unit: str = ""

    def shown(self) -> list[int]:
        """The classes that are shown."""
        counts = np.asarray(self.counts)
        errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        present = np.flatnonzero(counts.sum(0) + counts.sum(1))
        if len(present) > MOST_CLASSES:
            present = np.sort(present[np.argsort(-errors[present], kind="stable")[:MOST_CLASSES]])
        return present.tolist()

    def note(self) -> str:
        """What is left out."""
        counts = np.asarray(self.counts)
        present = int(((counts.sum(0) + counts.sum(1)) > 0).sum())
        return f"the {MOST_CLASSES} of {present} classes with the most errors" if present > MOST_CLASSES else ""

    def rows(self) -> list[tuple[str, list[tuple[float, str]]]]:
        """Name of each shown true class, with share and explanation of each prediction."""
        counts, shown = np.asarray(self.counts), self.shown()
        totals = np.maximum(counts.sum(1), 1)
        return [
            (self.classes[truth], [self._share(truth, other, counts[truth, other], totals[truth]) for other in shown])
            for truth in shown
        ]

    def _share(self, truth: int, other: int, count: int, total: int) -> tuple[float, str]:
        share = count / total
        pair = f"{self.classes[truth]} \N{RIGHTWARDS ARROW} {self.classes[other]}"
        return round(float(share), 4), f"{pair}: {count} {self.unit}, {100 * share:.2f} %"


@dataclass(frozen=True)
class Figure:
    """An image file's content, such as a figure that was drawn by matplotlib.

    Args:
        data: Of a PNG or JPEG file.
        title: What it shows.
    """

    kind: ClassVar[str] = "figure"
    data: bytes
    title: str = ""

    def address(self) -> str:
        """The content as an address, for which nothing is fetched."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode('ascii')}"

    @classmethod
    def of_file(cls, path: Path, title: str = "") -> Figure:
        """From a file; see :func:`lk_downstream.trust.read_bytes` for what is raised."""
        from lk_downstream import trust

        return cls(trust.read_bytes(path), title)
