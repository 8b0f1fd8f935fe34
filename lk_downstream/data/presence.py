"""Which classes the samples of a data set have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset

from lk_downstream.data.class_counts import each_pixels
from lk_downstream.data.classification import ClassFolder
from lk_downstream.data.coco_index import CocoIndex


class Presence(NamedTuple):
    """The classes of each sample, as pairs of both: a table of ImageNet's would have 1.3 GB.

    Attributes:
        samples: int64 (P,), numbers of samples, rising.
        classes: int64 (P,), a class of each of these; no pair stands twice.
        shape: Number of samples, and of classes.
    """

    samples: np.ndarray
    classes: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, table: np.ndarray) -> Presence:
        """That of a table, bool (N, classes)."""
        return cls(*np.nonzero(table), table.shape)

    def counts(self) -> np.ndarray:
        """Samples with each class, int64 (classes,)."""
        return np.bincount(self.classes, minlength=self.shape[1])

    def any(self) -> np.ndarray:
        """Whether each sample has a class, bool (N,)."""
        return np.bincount(self.samples, minlength=self.shape[0]) > 0

    def largest(self, values: np.ndarray, none: float = 0.0) -> np.ndarray:
        """The largest of the ``values`` (classes,) of the classes of each sample (N,); ``none`` where it has none."""
        found = np.full(self.shape[0], none, dtype=np.result_type(values))
        first = np.flatnonzero(np.diff(self.samples, prepend=-1))
        if len(first):
            found[self.samples[first]] = np.maximum.reduceat(values[self.classes], first)
        return found

    def taken(self, samples: np.ndarray) -> Presence:
        """That of some samples, int64 (M,), in any order."""
        first = np.searchsorted(self.samples, np.arange(self.shape[0] + 1))
        counts = np.diff(first)[samples]
        owners = np.repeat(np.arange(len(samples)), counts)
        places = np.arange(len(owners)) + np.repeat(first[samples] - (counts.cumsum() - counts), counts)
        return Presence(owners, self.classes[places], (len(samples), self.shape[1]))


def presence(dataset: Dataset, classes: int) -> Presence:
    """Which of so many classes each sample has.

    All masks of a segmentation are read for it. Crowd regions of a detection do not count.
    """
    if isinstance(dataset, Subset):
        return presence(dataset.dataset, classes).taken(np.asarray(dataset.indices, dtype=np.int64))
    if isinstance(dataset, ConcatDataset):
        parts = [presence(part, classes) for part in dataset.datasets]
        starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        samples = np.concatenate([part.samples + start for part, start in zip(parts, starts)])
        return Presence(samples, np.concatenate([part.classes for part in parts]), (int(starts[-1]), classes))
    if hasattr(dataset, "dataset"):  # it changes the samples of another
        return presence(dataset.dataset, classes)
    if isinstance(dataset, ClassFolder):
        labels = dataset.samples[1]
        if labels.ndim == 2:
            return Presence.of(labels)
        return Presence(np.arange(len(labels)), labels.astype(np.int64), (len(labels), classes))
    index = getattr(dataset, "index", None)
    if isinstance(index, CocoIndex):
        number = len(index.files)
        owners = np.repeat(np.arange(number), np.diff(index.first))
        pairs = np.unique(owners[~index.crowd] * classes + index.labels[~index.crowd])
        return Presence(*np.divmod(pairs, classes), (number, classes))
    held = [np.flatnonzero(pixels) for pixels in each_pixels(dataset, range(len(dataset)), classes)]
    samples = np.repeat(np.arange(len(held)), [len(own) for own in held])
    return Presence(samples, np.concatenate([np.zeros(0, np.int64), *held]), (len(held), classes))
