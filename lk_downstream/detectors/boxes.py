"""Boxes as (x1, y1, x2, y2) in pixels: overlaps, clipping, and their coding as offsets to a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-6  # mmdet's, added nowhere but as the least union, so that empty boxes overlap by 0 and not by NaN
MAX_LOG_RATIO = math.log(1000 / 16)  # a decoded side is at most 62.5 times its reference's (Fast R-CNN's code)


def numbers(values: float | Sequence[float], like: Tensor) -> Tensor:
    """Numbers as a tensor of the type and on the device of ``like``, for which no GPU is waited for."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def not_empty(boxes: Tensor) -> Tensor:
    """Whether each of the boxes (..., 4) has a width and a height above 0; False for NaN."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def iou(first: Tensor, second: Tensor, generalized: bool = False) -> Tensor:
    """Intersection over union of boxes (..., 4) broadcast against each other; for all pairs: ``iou(a[:, None], b)``.

    Args:
        first: boxes (..., 4).
        second: boxes (..., 4).
        generalized: the generalised IoU (Rezatofighi et al. 2019), in -1 .. 1.
    """
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    overlap = inner.clamp(min=0).prod(-1)
    union = (area(first) + area(second) - overlap).clamp(min=EPS)
    if not generalized:
        return overlap / union
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    hull = outer.clamp(min=0).prod(-1).clamp(min=EPS)
    return overlap / union - (hull - union) / hull


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clips boxes (..., 4) to an image of ``size`` (h, w)."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), numbers((width, height, width, height), boxes))


def from_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) from points (..., 2) and distances (..., 4) to the left, top, right and bottom side (FCOS)."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


@dataclass(frozen=True)
class DeltaCoder:
    """Boxes as shifts of the centre and logarithmic changes of the sides of a reference box (R-CNN).

    Attributes:
        stds: divisors of dx, dy, dw and dh.
    """

    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """Deltas (..., 4) that lead from ``references`` (..., 4) to ``boxes`` (..., 4); neither may be empty."""
        size, target = references[..., 2:] - references[..., :2], boxes[..., 2:] - boxes[..., :2]
        shift = (boxes[..., :2] + boxes[..., 2:]) * 0.5 - (references[..., :2] + references[..., 2:]) * 0.5
        return torch.cat((shift / size, (target / size).log()), dim=-1) / numbers(self.stds, references)

    def decode(self, references: Tensor, deltas: Tensor) -> Tensor:
        """Boxes (..., 4) from ``references`` and ``deltas``, broadcast against each other; not clipped."""
        deltas = deltas * numbers(self.stds, deltas)
        size = references[..., 2:] - references[..., :2]
        centre = (references[..., :2] + references[..., 2:]) * 0.5 + size * deltas[..., :2]
        half = size * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
        return torch.cat((centre - half, centre + half), dim=-1)
