"""The page of a data set: what is in each split, and what is doubtful."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream.reports.charts import Chart, Line
from lk_downstream.reports.page import Section, write_page
from lk_downstream.reports.parts import Figure, Number, Numbers, Table, Text

MOST_SHEET_BYTES = 2_000_000  # of the samples of a split


@dataclass(frozen=True)
class Split:
    """What was found in a split.

    Args:
        name: Of the split.
        images: How many it has.
        read: How many of them were read.
        sizes: (N, 2), heights and widths of these.
        extent: The sizes in words.
        columns: Of the table of the classes, one of which is ``class``.
        rows: Of it; shares are fractions of 1.
        counted: The column that is compared between splits.
        remarks: Sentences.
        problems: Sentences, one for each sample that a training would refuse.
        sheet: Samples as a figure, uint8 (height, width, 3); None: none could be read.
    """

    name: str
    images: int
    read: int
    sizes: np.ndarray
    extent: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    counted: str
    remarks: Sequence[str]
    problems: Sequence[str]
    sheet: np.ndarray | None = None


def write_data_page(path: str | os.PathLike, title: str, splits: Sequence[Split], compared: Sequence[str] = ()) -> Path:
    """Write the page of a data set; returns its path.

    Args:
        path: The file.
        title: The name of the data set.
        splits: In their order.
        compared: What two splits have in common that they should not, and the reverse, in sentences.
    """
    numbers = [Number(split.name, str(split.images), f"images, {split.read} of them read") for split in splits]
    wrong = sum(len(split.problems) for split in splits)
    numbers.append(Number("problems", str(wrong), "samples that a training would refuse" if wrong else ""))
    doubts = [f"{split.name}: {line}" for split in splits for line in (*split.problems, *split.remarks)]
    points = [Line(split.name, *np.unique(split.sizes, axis=0).T[::-1], points=True) for split in splits]
    sizes = Chart(points, "sizes of the images that were read", x="width", y="height")
    sections = [
        Section("Result", [Numbers(numbers), Text("\n".join([*compared, *doubts]) or "nothing doubtful")]),
        Section("Classes", [_counts(splits)] if len(splits) > 1 else [], f"{splits[0].counted} in each split"),
        Section("Sizes", [sizes] if any(len(line.x) > 1 for line in points) else []),
        *(Section(split.name, _parts(split), split.extent) for split in splits),
    ]
    return write_page(path, title, sections)


def _counts(splits: Sequence[Split]) -> Table:
    """Each class with its number in each split, by the first."""
    found: dict[str, list[Any]] = {}
    for number, split in enumerate(splits):
        name, count = (list(split.columns).index(column) for column in ("class", split.counted))
        for row in split.rows:
            found.setdefault(str(row[name]), [0] * len(splits))[number] += row[count]
    return Table(["class", *(split.name for split in splits)], [[name, *counts] for name, counts in found.items()])


def _parts(split: Split) -> list[Any]:
    shares = [name for at, name in enumerate(split.columns) if any(isinstance(row[at], float) for row in split.rows)]
    table = Table(split.columns, split.rows, percent=shares, bar=shares[0] if shares else "")
    return [table, *([_sheet(split.sheet)] if split.sheet is not None else [])]


def _sheet(figure: np.ndarray) -> Figure:
    """Coarser, where it would be too large."""
    from PIL import Image

    image = Image.fromarray(figure)
    while True:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85, optimize=True)
        if file.tell() < MOST_SHEET_BYTES:
            return Figure(file.getvalue(), "samples")
        image = image.reduce(2)
