"""Looks through a data set before a long training: which values the masks hold against those expected."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lk_downstream.data.labels import IGNORE_INDEX, OUTSIDE
from lk_downstream.data.segmentation import SegmentationDataset
from lk_downstream.data.synthetic import counted
from lk_downstream.errors import InputError, some


@dataclass
class Report:
    """What was found.

    Attributes:
        dataset: The data set.
        samples: Number of samples read.
        pixels: Pixels with each value of the mask files, int64, (256,).
        masks: Mask files that hold each value, int64, (256,).
        problems: One sentence for each sample that training would refuse.
    """

    dataset: SegmentationDataset
    samples: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    masks: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        dataset, total = self.dataset, max(1, int(self.pixels.sum()))
        lines = [
            f"{type(dataset).__name__} {dataset.split}: {len(dataset)} pictures, {self.samples} of them read",
            f"{'value':>5}  {'class':24} {'masks':>6} {'pixels':>8}",
        ]
        for value in np.flatnonzero(self.masks):
            share = 100 * self.pixels[value] / total
            lines.append(f"{value:5}  {self.meaning(value):24} {self.masks[value]:6} {share:6.2f} %")
        seen = set(dataset.label_table[np.flatnonzero(self.masks)].tolist())
        if absent := [name for index, name in enumerate(dataset.classes) if index not in seen]:
            names = ", ".join(absent[:8]) + (" ..." if len(absent) > 8 else "")
            lines.append(f"{len(absent)} of {len(dataset.classes)} classes not seen: {names}")
        if doubt := dataset.doubt(np.flatnonzero(self.masks)):
            lines.append(f"hint: {doubt}")
        lines += [f"problem: {problem}" for problem in self.problems[:20]]
        if len(self.problems) > 20:
            lines.append(f"and {len(self.problems) - 20} problems more")
        return "\n".join(lines)

    def meaning(self, value: int) -> str:
        """The class that a value of the mask files stands for."""
        label = int(self.dataset.label_table[value])
        return {IGNORE_INDEX: "(unlabelled)", OUTSIDE: "OUTSIDE THE CLASSES"}.get(label) or self.dataset.classes[label]


def check_dataset(dataset: SegmentationDataset, count: int = 200) -> Report:
    """Read samples evenly spread over a data set and collect what is in them and what is wrong.

    Args:
        dataset: The data set.
        count: Largest number of samples to read.

    Raises:
        InputError: The files cannot even be listed.
    """
    if count < 1:
        raise InputError(f"count is {count}: read at least 1 sample")
    total = len(dataset)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    report = Report(dataset, samples=len(chosen))
    for index in counted(chosen, len(chosen), "reading"):
        try:
            values = np.bincount(dataset.read_values(dataset.samples[index][2]).numpy().ravel(), minlength=256)
            report.pixels += values
            report.masks += values > 0
            dataset[index]
        except InputError as error:
            report.problems.append(str(error))
    return report


def doubts(dataset: SegmentationDataset, most_pixels: float = 3e8) -> list[str]:
    """What a training should say first: classes that no mask has, and masks that mean something else than they should.

    Masks all over the data set are read until every class was seen, or about ``most_pixels`` (two seconds). Of more
    masks than that no class is said to be absent, as it may be rare.
    """
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    values, pixels, read = np.zeros(256, dtype=bool), 0, 0
    for index in order:
        try:
            mask = dataset.read_values(dataset.samples[index][2]).numpy()
        except InputError:
            continue  # which the training names
        values[mask.ravel()] = True
        pixels, read = pixels + mask.size, read + 1
        absent = sorted(set(range(len(dataset.classes))) - set(dataset.label_table[np.flatnonzero(values)].tolist()))
        if not absent or pixels > most_pixels:
            break
    found = [doubt] if (doubt := dataset.doubt(np.flatnonzero(values))) else []
    if read == len(order) and absent:
        names = some((dataset.classes[index] for index in absent), 8)
        found.append(f"{len(absent)} of {len(dataset.classes)} classes are in none of the {read} masks: {names}")
    return found
