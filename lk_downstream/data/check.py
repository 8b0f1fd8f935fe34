"""Looks through a data set before a long training: what is in it against what is expected, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Dataset

from lk_downstream.data.classification import ClassFolder
from lk_downstream.data.detection import DetectionDataset
from lk_downstream.data.labels import IGNORE_INDEX, OUTSIDE
from lk_downstream.data.segmentation import SegmentationDataset
from lk_downstream.data.synthetic import counted
from lk_downstream.errors import InputError, some

SMALL, LARGE = 32**2, 96**2  # pixels of an object, as COCO divides them


@dataclass
class Report:
    """What was found in a split.

    Attributes:
        dataset: The data set.
        chosen: Numbers of the samples that were read.
        sizes: int64, (N, 2), heights and widths of their images.
        problems: One sentence for each sample that training would refuse.
        columns: Headings of the table of the classes.
        counted: The one of them whose numbers can be compared between splits.
        line: How a row of it is printed.
    """

    columns: ClassVar[tuple[str, ...]]
    counted: ClassVar[str]
    line: ClassVar[str]

    dataset: Any
    chosen: np.ndarray
    sizes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    problems: list[str] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """Number of samples that were read."""
        return len(self.chosen)

    def add(self, sample: dict[str, Any]) -> None:
        """Count what a sample holds."""

    def rows(self) -> list[tuple[Any, ...]]:
        """The table of the classes: texts, whole numbers, and shares as fractions of 1."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """What else is to be said."""
        raise NotImplementedError

    def lines(self) -> list[str]:
        """The table, and what else is to be said."""
        rows = [[f"{100 * cell:.2f} %" if isinstance(cell, float) else cell for cell in row] for row in self.rows()]
        return [self.line.format(*row) for row in (self.columns, *rows)] + self.remarks()

    def extent(self) -> str:
        """The sizes of the images that were read; empty without any."""
        if not len(self.sizes):
            return ""
        order = self.sizes[self.sizes.prod(1).argsort(kind="stable")]
        smallest, median, largest = (f"{w} x {h}" for h, w in (order[0], order[len(order) // 2], order[-1]))
        return f"all {smallest}" if (order == order[0]).all() else f"sizes {smallest} to {largest}, median {median}"

    def __str__(self) -> str:
        dataset = self.dataset
        lines = [f"{type(dataset).__name__} {dataset.split}: {len(dataset)} images, {self.samples} of them read"]
        lines += [extent] if (extent := self.extent()) else []
        lines += self.lines()
        lines += [f"problem: {problem}" for problem in self.problems[:20]]
        if len(self.problems) > 20:
            lines.append(f"and {len(self.problems) - 20} problems more")
        return "\n".join(lines)


@dataclass
class MaskReport(Report):
    """What the masks of a split hold.

    Attributes:
        pixels: Pixels with each value of the mask files, int64, (256,).
        masks: Mask files that hold each value, int64, (256,).
    """

    columns = ("value", "class", "masks", "pixels")
    counted = "masks"
    line = "{:>5}  {:24} {:>6} {:>8}"

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    masks: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))

    def rows(self) -> list[tuple[Any, ...]]:
        """Each value with its class, its masks and its share of the pixels."""
        shares = (self.pixels / max(1, int(self.pixels.sum()))).tolist()
        values = np.flatnonzero(self.masks).tolist()
        return [(value, self.meaning(value), int(self.masks[value]), shares[value]) for value in values]

    def remarks(self) -> list[str]:
        """Classes that no mask has, and masks that mean something else than they should."""
        dataset = self.dataset
        seen = set(dataset.label_table[np.flatnonzero(self.masks)].tolist())
        lines = _absent([name for index, name in enumerate(dataset.classes) if index not in seen], dataset.classes)
        if doubt := dataset.doubt(np.flatnonzero(self.masks)):
            lines.append(f"hint: {doubt}")
        return lines

    def meaning(self, value: int) -> str:
        """The class that a value of the mask files stands for."""
        label = int(self.dataset.label_table[value])
        return {IGNORE_INDEX: "(unlabelled)", OUTSIDE: "OUTSIDE THE CLASSES"}.get(label) or self.dataset.classes[label]


class ObjectReport(Report):
    """What the annotations of a split hold, all of them."""

    columns = ("class", "objects", "small", "medium", "large", "crowds", "images")
    counted = "objects"
    line = "{:24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}"

    def rows(self) -> list[tuple[Any, ...]]:
        """Each class with its objects by size, and its images."""
        index = self.dataset.index
        areas = (index.boxes[:, 2:] - index.boxes[:, :2]).prod(1)
        owner = np.repeat(np.arange(len(index.files)), np.diff(index.first))
        rows = []
        for label, name in enumerate(self.dataset.classes):
            of_class = index.labels == label
            single = of_class & ~index.crowd
            small, large = (single & (areas < SMALL)).sum(), (single & (areas > LARGE)).sum()
            counts = (single.sum(), small, single.sum() - small - large, large, (of_class & index.crowd).sum())
            rows.append((name, *map(int, counts), len(np.unique(owner[of_class]))))
        return rows

    def remarks(self) -> list[str]:
        """Objects in an image, and classes without any."""
        index, lines = self.dataset.index, []
        empty = int((np.diff(index.first) == 0).sum())
        if empty:
            lines.append(f"{empty} images without any object")
        if len(index.labels):
            most = np.diff(index.first)
            lines.append(f"objects in an image: {most.mean():.1f} on average, {most.max()} at most")
        absent = [name for label, name in enumerate(self.dataset.classes) if not (index.labels == label).any()]
        return [*lines, *_absent(absent, self.dataset.classes), *(f"note: {note}" for note in index.notes)]


class LabelReport(Report):
    """What the labels of a split are, all of them."""

    columns = ("class", "images", "share")
    counted = "images"
    line = "{:24} {:>8} {:>8}"

    def counts(self) -> list[int]:
        """Images of each class."""
        labels, number = self.dataset.samples[1], len(self.dataset.classes)
        found = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=number)
        return found.astype(int).tolist()

    def rows(self) -> list[tuple[Any, ...]]:
        """Each class that has images."""
        total = len(self.dataset.samples[1])
        return [(name, count, count / total) for name, count in zip(self.dataset.classes, self.counts()) if count]

    def remarks(self) -> list[str]:
        """Classes without images."""
        classes = self.dataset.classes
        return _absent([name for name, count in zip(classes, self.counts()) if not count], classes)


def _absent(names: list[str], classes: tuple[str, ...]) -> list[str]:
    return [f"{len(names)} of {len(classes)} classes not seen: {some(names, 8)}"] if names else []


REPORTS: dict[type[Dataset], type[Report]] = {
    SegmentationDataset: MaskReport,
    DetectionDataset: ObjectReport,
    ClassFolder: LabelReport,
}


def check_dataset(dataset: Any, count: int = 200) -> Report:
    """Read samples evenly spread over a data set and collect what is in it and what is wrong.

    Args:
        dataset: The data set.
        count: Largest number of samples to read.

    Raises:
        InputError: The files cannot even be listed.
    """
    if count < 1:
        raise InputError(f"count is {count}: read at least 1 sample")
    total = len(dataset)
    kind = next(report for family, report in REPORTS.items() if isinstance(dataset, family))
    report = kind(dataset, np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)))
    sizes = []
    for index in counted(report.chosen.tolist(), report.samples, "reading"):
        try:
            if isinstance(report, MaskReport):
                values = np.bincount(dataset.read_values(dataset.samples[index][2]).numpy().ravel(), minlength=256)
                report.pixels += values
                report.masks += values > 0
            sizes.append(tuple(dataset[index]["image"].shape[-2:]))
        except InputError as error:
            report.problems.append(str(error))
    report.sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    return report
