"""How often classes occur in the masks of a segmentation data set."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset

from lk_downstream import machine

MOST_MASKS = 1000  # by which the shares of classes are estimated


def class_pixels(dataset: Dataset, classes: int, most: int | None = MOST_MASKS) -> np.ndarray:
    """Pixels of each class in masks that are evenly spread over a data set.

    Args:
        dataset: A segmentation data set, or any whose items have ``mask``, class indices and 255, uint8 (H, W); or
            parts of such, put together and changed by transforms, which do not count.
        classes: Number of classes.
        most: Largest number of masks; None: all.

    Returns:
        int64 (masks, classes).

    Raises:
        InputError: A file cannot be read.
    """
    total = len(dataset)
    number = total if most is None else min(most, total)
    chosen = np.unique(np.linspace(0, total - 1, number).round().astype(int)).tolist()
    return np.stack(list(each_pixels(dataset, chosen, classes)))


def each_pixels(dataset: Dataset, chosen: Sequence[int], classes: int) -> Iterator[np.ndarray]:
    """Pixels of each class in some masks, int64 (classes,) of each, see :func:`class_pixels`."""

    def count(index: int) -> np.ndarray:
        owner, number = inner(dataset, index)
        read = getattr(owner, "read_labels", None)  # which leaves the image alone
        mask = np.asarray(read(owner.samples[number][2]) if read else owner[number]["mask"])
        return np.bincount(mask.ravel(), minlength=256)[:classes]

    with ThreadPoolExecutor(max(1, min(8, machine.cores()))) as pool:  # decoders let other threads run
        yield from pool.map(count, chosen)


def inner(dataset: Dataset, index: int) -> tuple[Dataset, int]:
    """The data set that an item comes from, and its place there."""
    while True:
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        elif isinstance(dataset, ConcatDataset):
            part = bisect.bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
        elif hasattr(dataset, "dataset"):  # it changes the items of another
            dataset = dataset.dataset
        else:
            return dataset, index


def median_frequency_weights(pixels: np.ndarray) -> np.ndarray:
    """Weights of classes by "median frequency balancing" (Eigen and Fergus, ICCV 2015, section 6.3.2).

    The frequency of a class is its share of the pixels of those masks that have it. A class that no mask has gets the
    largest weight of the others.

    Args:
        pixels: Of each class in each mask, int64 (masks, classes).

    Returns:
        float64 (classes,): the median of the frequencies divided by that of the class.
    """
    here = pixels > 0
    within = (here * pixels.sum(1, keepdims=True)).sum(0)
    seen = within > 0
    if not seen.any():
        return np.ones(pixels.shape[1])
    frequencies = pixels.sum(0)[seen] / within[seen]
    weights = np.zeros(pixels.shape[1])
    weights[seen] = np.median(frequencies) / frequencies
    weights[~seen] = weights.max()
    return weights
