"""Which training samples are drawn more often than others."""

from __future__ import annotations

import csv
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset

from lk_downstream import trust
from lk_downstream.data.classification import ClassFolder
from lk_downstream.data.coco_index import CocoIndex
from lk_downstream.data.presence import presence
from lk_downstream.errors import InputError, near_names, some


class Sampling(ABC):
    """A rule for how often a sample is drawn in a pass over a data set."""

    @abstractmethod
    def draws(self, dataset: Dataset, classes: Sequence[str]) -> np.ndarray:
        """How often each sample is drawn in a pass on average, float64 (N,); a pass has as many as their sum.

        Args:
            dataset: The training data.
            classes: Names of the classes.
        """


class ClassBalanced(Sampling):
    """Draws all classes equally often; a pass is as long as the data set.

    The weight of a sample is one over the number of samples with its class; of several classes, the rarest counts.

    Args:
        power: Of the weights; 1 is full balance, 0.5 half way to it, and 0 none.
    """

    def __init__(self, power: float = 1.0):
        if not 0 <= power <= 1:
            raise InputError(f"power of ClassBalanced is {power}: it must be from 0 to 1")
        self.power = power

    def draws(self, dataset: Dataset, classes: Sequence[str]) -> np.ndarray:
        """See :meth:`Sampling.draws`."""
        held = presence(dataset, len(classes))
        weights = held.largest(np.maximum(held.counts(), 1.0) ** -self.power)
        weights[~held.any()] = weights[held.any()].min(initial=1.0)
        return weights * len(weights) / weights.sum()


class RepeatFactor(Sampling):
    """Repeats the samples of rare classes (Gupta et al., "LVIS", CVPR 2019, appendix B).

    A class that is in a share f of the samples has the factor max(1, sqrt(threshold / f)), a sample the largest of its
    classes. A pass has the sum of the factors; what is left of a factor above a whole number is the chance of one
    repeat more.

    Args:
        threshold: Share of the samples below which a class is rare; LVIS has 0.001.
    """

    def __init__(self, threshold: float = 0.001):
        if not 0 < threshold <= 1:
            raise InputError(f"threshold of RepeatFactor is {threshold}: it must be above 0 and at most 1")
        self.threshold = threshold

    def draws(self, dataset: Dataset, classes: Sequence[str]) -> np.ndarray:
        """See :meth:`Sampling.draws`."""
        held = presence(dataset, len(classes))
        shares = np.maximum(held.counts(), 1) / max(held.shape[0], 1)
        return np.maximum(held.largest(np.sqrt(self.threshold / shares)), 1.0)


class WeightColumn(Sampling):
    """Draws samples by the weights of a table; a pass is as long as the data set.

    Args:
        table: A CSV file with a heading.
        weight: Its column of weights, 0 or more.
        name: Its column of names: those of the samples, or of their files.
    """

    def __init__(self, table: str, weight: str = "weight", name: str = "name"):
        self.table, self.weight, self.name = table, weight, name

    def draws(self, dataset: Dataset, classes: Sequence[str]) -> np.ndarray:
        """See :meth:`Sampling.draws`."""
        try:
            rows = list(csv.DictReader(io.StringIO(trust.read_bytes(self.table).decode("utf-8-sig"))))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"data.sampling.table: {self.table} cannot be read as text ({error})") from error
        for column in (self.name, self.weight):
            if not rows or column not in rows[0]:
                found = rows[0] if rows else ("no rows",)
                hint = near_names(column, found) or f"; it has {some(found)}"
                raise InputError(f"{self.table} has no column {column!r}{hint}")
        try:
            known = {_stem(row[self.name]): float(row[self.weight]) for row in rows}
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.table}: the column {self.weight!r} must hold numbers ({error})") from error
        names = sample_names(dataset)
        lacking = [name for name in names if _stem(name) not in known]
        if lacking:
            raise InputError(
                f"{self.table} has no weight of {len(lacking)} of {len(names)} samples, such as {lacking[0]!r}"
                f"{near_names(_stem(lacking[0]), known)}: give one for each"
            )
        weights = np.array([known[_stem(name)] for name in names], dtype=np.float64)
        if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
            raise InputError(f"{self.table}: the weights must be 0 or more, and not all 0")
        return weights * len(weights) / weights.sum()


def sample_names(dataset: Dataset) -> list[str]:
    """The name of each sample, or of its file."""
    if isinstance(dataset, Subset):
        names = sample_names(dataset.dataset)
        return [names[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [name for part in dataset.datasets for name in sample_names(part)]
    if hasattr(dataset, "dataset"):
        return sample_names(dataset.dataset)
    if isinstance(dataset, ClassFolder):
        return [os.fsdecode(name) for name in dataset.samples[0]]
    index = getattr(dataset, "index", None)
    return list(index.files) if isinstance(index, CocoIndex) else [sample[0] for sample in dataset.samples]


def _stem(name: str | None) -> str:
    return os.path.splitext(str(name).replace("\\", "/"))[0]
