"""The images of a validation that its page shows: the worst, and some that every run on the same images shows."""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np
from torch import Tensor

from lk_downstream.callbacks.plots import spared
from lk_downstream.inference.arrays import array, shown
from lk_downstream.reports.images import Box, Layer, Sample, encoded_image, encoded_outline

WORST, OTHERS = 16, 8  # images
MOST_OBJECTS, LEAST_SCORE = 30, 0.1  # detections of an image that are kept


class WorstImages:
    """Keeps the images with the lowest metrics, and some others, as they are offered.

    The others are those of the lowest checksums of their names: the same for any model, order and number of processes,
    so that runs can be shown side by side. An image is only made ready (smaller, encoded) once it is kept, which is the
    rarer the more images there were: of 2000 in any order about 150 are. What goes wrong is one line, and no further
    image of this validation is kept.

    Args:
        processes: Of the run, which share the number of the worst, so that an image is lost where one has many of them.
    """

    def __init__(self, processes: int = 1):
        self.worst: list[tuple[float, int, Sample]] = []  # heaps, of which the first goes next
        self.others: list[tuple[int, int, Sample]] = []
        self.most = max(2, WORST * 2 // processes) if processes > 1 else WORST
        self.offered, self.failed = 0, False

    def offer(self, name: str, metric: float, make: Callable[[], Sample]) -> None:
        """Keep an image of a metric, or not; ``make`` makes it ready."""
        if self.failed:
            return
        self.failed = True
        with spared("images of report.html"):
            self.offered += 1
            low, other = -metric, -checksum(name)
            bad = not math.isnan(metric) and (len(self.worst) < self.most or low > self.worst[0][0])
            chosen = len(self.others) < OTHERS or other > self.others[0][0]
            if bad or chosen:
                sample = make()
                if bad:
                    _keep(self.worst, (low, -self.offered, sample), self.most)
                if chosen:
                    _keep(self.others, (other, -self.offered, sample), OTHERS)
            self.failed = False

    def samples(self) -> list[Sample]:
        """All that were kept."""
        kept = [sample for _, _, sample in self.worst + self.others]
        return list({id(sample): sample for sample in kept}.values())


def _keep(heap: list, item: tuple, most: int) -> None:
    heapq.heappush(heap, item)
    if len(heap) > most:
        heapq.heappop(heap)


def checksum(name: str) -> int:
    """Of the name of an image, CRC-32."""
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))


def worst_first(samples: list[Sample]) -> list[Sample]:
    """Of the samples of all processes the worst, and of all images those that every run shows, the worst first."""
    ordered = sorted(samples, key=lambda sample: (math.isnan(sample.metric), sample.metric, sample.name))
    common = heapq.nsmallest(OTHERS, samples, key=lambda sample: checksum(sample.name))
    return ordered[:WORST] + [sample for sample in ordered[WORST:] if any(sample is other for other in common)]


def sample_of(name: str, image: Tensor, metric: float, facts: dict[str, str], **known: Any) -> Sample:
    """A sample with an image uint8 (3, H, W), and what else :class:`Sample` has."""
    height, width = image.shape[-2:]
    return Sample(name, encoded_image(shown(image)), (width, height), metric, facts, **known)


def layer_of_objects(
    boxes: Tensor, labels: Tensor, size: Tensor, palette: Any, scores: Tensor | None = None, masks: Tensor | None = None
) -> Layer:
    """Objects as they lie over their image.

    Args:
        boxes: (K, 4) x1, y1, x2, y2, the best first.
        labels: (K,).
        size: (2,), height and width of the image to which the boxes belong.
        palette: Colours of the classes.
        scores: (K,).
        masks: bool (K, H, W), in the pixels of the boxes.
    """
    height, width = size.tolist()
    corners = array(boxes).astype(float).clip(0, (width, height, width, height))
    found = [None] * len(labels) if scores is None else array(scores).astype(float).round(3).tolist()
    outlines = [""] * len(labels) if masks is None else map(_outline, masks, corners, labels.tolist(), repeat(palette))
    drawn = []
    for (x1, y1, x2, y2), label, score, mask in zip(corners.tolist(), labels.tolist(), found, outlines):
        place = x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height
        drawn.append(Box(*(round(part, 4) for part in place), label, score, mask))
    return Layer("", drawn)


def _outline(mask: Tensor, corners: np.ndarray, label: int, palette: Any) -> str:
    """The mask of an object within its box."""
    (left, top), (right, bottom) = np.floor(corners[:2]).astype(int), np.ceil(corners[2:]).astype(int)
    inside = array(mask[top:bottom, left:right]).astype(bool)
    return encoded_outline(inside, palette[label % len(palette)]) if inside.size else ""
