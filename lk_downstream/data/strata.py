"""The class of each image by which a data set is divided: its rarest one, which a part could easily lack."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lk_downstream import machine
from lk_downstream.data.detection import DetectionDataset
from lk_downstream.data.presence import Presence, presence
from lk_downstream.data.segmentation import SegmentationDataset
from lk_downstream.errors import InputError

MOST_PIXELS = 2e9  # of masks that are read, about ten seconds on two cores
CHUNK = 64  # masks


def rarest(present: Presence) -> np.ndarray:
    """Of each image the class that the fewest images have, of equal ones the first; -1 without any, int64 (N,)."""
    order = np.argsort(present.counts(), kind="stable")
    rarity = np.empty(len(order), np.int64)
    rarity[order] = -np.arange(len(order))
    return np.append(order, -1)[-present.largest(rarity, none=-len(order))]


def of_labels(labels: np.ndarray) -> np.ndarray:
    """The class of each image; of several labels, 0 and 1 (N, classes), the rarest."""
    return labels if labels.ndim == 1 else rarest(Presence.of(labels))


def of_objects(dataset: DetectionDataset) -> np.ndarray:
    """The rarest class among each image's objects."""
    return rarest(presence(dataset, len(dataset.classes)))


def of_masks(dataset: SegmentationDataset, most_pixels: float = MOST_PIXELS) -> np.ndarray | None:
    """The rarest class in each image's mask; None if the masks have more than ``most_pixels``, and are not all read.

    So many images need no strata. A mask that cannot be read, which the training will name, has no class.
    """
    present, pixels = np.zeros((len(dataset), len(dataset.classes)), dtype=bool), 0

    def values(index: int) -> tuple[np.ndarray, int]:
        try:
            labels = dataset.read_labels(dataset.samples[index][2]).numpy()
        except InputError:
            return np.zeros(len(dataset.classes), dtype=bool), 0
        return np.bincount(labels.ravel(), minlength=256)[: len(dataset.classes)] > 0, labels.size

    with ThreadPoolExecutor(max(1, min(8, machine.cores()))) as pool:  # decoders let other threads run
        for start in range(0, len(dataset), CHUNK):
            chunk = range(start, min(start + CHUNK, len(dataset)))
            for index, (seen, size) in zip(chunk, pool.map(values, chunk)):
                present[index], pixels = seen, pixels + size
            if pixels > most_pixels:
                return None
    return rarest(Presence.of(present))
