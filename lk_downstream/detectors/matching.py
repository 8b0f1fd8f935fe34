"""Which predictions learn which object: the assignment by overlap, and the draw of samples from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lk_downstream.detectors.boxes import iou
from lk_downstream.errors import InputError

NEGATIVE, IGNORED = -1, -2
MOST_PAIRS = 2**21  # of a box or point and an object that are compared at a time; one takes up to 80 bytes


def in_pieces(objects: Tensor, count: int) -> Iterator[tuple[int, Tensor]]:
    """Objects (G, 4) for a comparison with ``count`` boxes or points, a few at a time: first number, and objects.

    Beside a few numbers for each of the ``count``, the memory is that of `MOST_PAIRS`, or of one object.
    """
    piece = max(1, MOST_PAIRS // max(1, count))
    yield from ((number * piece, part) for number, part in enumerate(objects.split(piece)))


@dataclass(frozen=True)
class IoUAssigner:
    """Assigns boxes to objects by their overlap (mmdet's ``MaxIoUAssigner``).

    Attributes:
        positive_iou: from this IoU with an object on a box is a positive sample of it.
        negative_iou: below this IoU with every object it is a negative one; in between it is ignored.
        low_quality: also assign to each object the boxes that overlap it most, whatever else they overlap; of several
            objects that claim a box, the last has it.
        minimum_iou: ... if they overlap it by this much.
    """

    positive_iou: float
    negative_iou: float
    low_quality: bool = True
    minimum_iou: float = 0.0

    def __call__(self, boxes: Tensor, objects: Tensor) -> Tensor:
        """Index of the object, or `NEGATIVE`, or `IGNORED`, int64 (B,), for boxes (B, 4) and objects (G, 4).

        Objects are taken in pieces, see `in_pieces`.
        """
        if not len(boxes) or not len(objects):
            return torch.full((len(boxes),), NEGATIVE, device=boxes.device)
        best = nearest = last = None
        for first, part in in_pieces(objects, len(boxes)):
            overlaps = iou(part[:, None], boxes)
            found, index = overlaps.max(0)
            if best is None:
                best, nearest = found, index
            else:  # of equal ones the first, as within a piece
                nearest = torch.where(found > best, index + first, nearest)
                best = torch.maximum(found, best)
            if self.low_quality:
                most = overlaps.amax(1, keepdim=True)
                claims = (overlaps == most) & (most >= self.minimum_iou)
                order = torch.arange(first + 1, first + len(part) + 1, device=boxes.device)
                own = (claims * order[:, None]).amax(0)
                last = own if last is None else torch.maximum(last, own)
        matched = torch.where(best < self.negative_iou, NEGATIVE, IGNORED)
        matched = torch.where(best >= self.positive_iou, nearest, matched)
        return matched if last is None else torch.where(last > 0, last - 1, matched)


@dataclass(frozen=True)
class RandomSampler:
    """Draws positive and negative samples at random (mmdet's ``RandomSampler``).

    Attributes:
        number: samples of an image, at most.
        positive_fraction: of these, the largest part that may be positive; negatives fill the rest.
    """

    number: int
    positive_fraction: float

    def __post_init__(self):
        if self.number < 1 or not 0 <= self.positive_fraction <= 1:
            raise InputError(
                f"the sampler has number {self.number} and positive_fraction {self.positive_fraction}: they must be at "
                "least 1, and from 0 to 1"
            )

    def __call__(self, matched: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the positive (P,) and the negative (M,) samples among the result (B,) of an assigner."""
        positive = self._draw(matched >= 0, int(self.number * self.positive_fraction))
        return positive, self._draw(matched == NEGATIVE, self.number - len(positive))

    @staticmethod
    def _draw(candidates: Tensor, number: int) -> Tensor:
        index = candidates.nonzero().squeeze(1)
        if len(index) <= number:
            return index
        return index[torch.randperm(len(index), device=index.device)[:number]]
