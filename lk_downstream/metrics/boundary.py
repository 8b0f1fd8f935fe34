"""Boundary IoU of segmentations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from lk_downstream.data.labels import IGNORE_INDEX
from lk_downstream.errors import InputError

OUTSIDE = 256  # the label beyond the edge of an image


class BoundaryIoU(Metric):
    """The IoU of the bands along the inner side of the outlines, of each class.

    By Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021: the band holds
    the pixels of a class that are no further than d from one that is not of it, d being a share of the image's
    diagonal; distances are those of a square of side 2 d + 1, and beyond the edge of the image no class is, as in the
    authors' code. Areas are summed over all images, and over all processes once, as those of the IoU are.

    Pixels whose truth is 255 are of no class, also in the prediction; their neighbours lie at an outline in both.

    Args:
        classes: Class names; their number is the number of classes.
        ratio: Width of the band in image diagonals; it is rounded to pixels, and at least 1.
    """

    full_state_update = False
    higher_is_better = True
    both: Tensor
    truth: Tensor
    predicted: Tensor

    def __init__(self, classes: Sequence[str], ratio: float = 0.02):
        super().__init__()
        if not 0 < ratio <= 1:
            raise InputError(f"ratio of the boundary IoU is {ratio}: it must be above 0 and at most 1")
        self.classes, self.ratio = tuple(classes), ratio
        for name in ("both", "truth", "predicted"):
            self.add_state(name, torch.zeros(len(classes), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count the pixels of some images.

        Args:
            prediction: Class indices, (N, H, W), any integer type.
            target: Class indices or 255, (N, H, W).
        """
        width = max(1, round(self.ratio * math.hypot(*target.shape[-2:])))
        prediction = torch.where(target == IGNORE_INDEX, IGNORE_INDEX, prediction.long())
        truth = target.long()
        near_truth, near_prediction = boundary(truth, width), boundary(prediction, width)
        number = len(self.classes)
        # The last count is that of pixels that are in no band, or of no class.
        self.truth = self.truth + self._counts(truth, near_truth)[:number]
        self.predicted = self.predicted + self._counts(prediction, near_prediction)[:number]
        same = near_truth & near_prediction & (truth == prediction)
        self.both = self.both + self._counts(truth, same)[:number]

    def _counts(self, labels: Tensor, wanted: Tensor) -> Tensor:
        number = len(self.classes)
        return torch.where(wanted & (labels < number), labels, number).flatten().bincount(minlength=number + 1)

    def compute(self) -> dict[str, Tensor]:
        """Fractions of 1, float64, on the CPU.

        Returns:
            ``mBoundaryIoU`` (scalar) and ``BoundaryIoU`` (one value a class, NaN where it is absent).
        """
        both, truth, predicted = (getattr(self, name).cpu().double() for name in ("both", "truth", "predicted"))
        values = both / (truth + predicted - both)
        return {"mBoundaryIoU": values.nanmean(), "BoundaryIoU": values}


def boundary(labels: Tensor, width: int) -> Tensor:
    """Whether a pixel has another label, or the edge of the image, within a square of side 2 ``width`` + 1 around it.

    Args:
        labels: int64 (N, H, W), 0 to 255.
        width: Pixels.

    Returns:
        bool (N, H, W).
    """
    # Whole numbers up to 256 are exact in float32. Along one axis after the other, as squares are made of lines.
    padded = F.pad(labels[:, None].float(), [width] * 4, value=float(OUTSIDE))
    highest, lowest = (_highest(values, width) for values in (padded, -padded))
    return ((highest != labels[:, None]) | (-lowest != labels[:, None]))[:, 0]


def _highest(values: Tensor, width: int) -> Tensor:
    """The largest value in squares around each pixel of (N, 1, H, W) that has them whole."""
    side = 2 * width + 1
    return F.max_pool2d(F.max_pool2d(values, (side, 1), stride=1), (1, side), stride=1)
