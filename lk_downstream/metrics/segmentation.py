"""Segmentation accuracy from one confusion matrix over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lk_downstream.data.labels import IGNORE_INDEX
from lk_downstream.errors import InputError

MAX_CLASSES = IGNORE_INDEX


class SegmentationMetric(Metric):
    """Intersection over union and accuracy as the benchmarks define them.

    A single matrix of pixel counts is summed over all images, and over all processes once, at :meth:`compute`. Means
    are over the classes that occur (for Acc in the truth, for the precision in a prediction, for IoU and F1 in one of
    both); absent classes are NaN and do not count. Pixels whose truth is 255 do not count. The metrics are those of
    mmsegmentation's ``IoUMetric``, exactly.

    Args:
        classes: Class names; their number is the number of classes, at most 255.
    """

    full_state_update = False
    higher_is_better = True
    matrix: Tensor

    def __init__(self, classes: Sequence[str]):
        super().__init__()
        if not 0 < len(classes) <= MAX_CLASSES:
            raise InputError(f"a segmentation metric takes 1 to {MAX_CLASSES} classes, not {len(classes)}")
        self.classes = tuple(classes)
        shape = (len(classes), len(classes))
        self.add_state("matrix", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count the pixels of some images.

        Args:
            prediction: Class indices, any integer type, any shape.
            target: Class indices or 255, uint8, same shape.

        Raises:
            InputError: ``target`` holds a value that is neither a class nor 255.
        """
        # Rows are all 256 values that a truth can have, so neither ignored nor wrong values need a pass of their own.
        number = len(self.classes)
        index = target.flatten().to(torch.int32).mul_(number).add_(prediction.flatten())
        counts = torch.bincount(index, minlength=256 * number).view(256, number)
        wrong = counts[number:IGNORE_INDEX].sum(1).nonzero().flatten()
        if len(wrong):
            values = ", ".join(str(int(value) + number) for value in wrong[:5])
            raise InputError(f"the truth holds the label values {values} but there are only {number} classes")
        self.matrix = self.matrix + counts[:number]  # not in place: it may have been made in inference mode

    def compute(self) -> dict[str, Tensor]:
        """All metrics as fractions of 1, float64, on the CPU: not every GPU has that type.

        Returns:
            ``mIoU``, ``mAcc``, ``aAcc``, ``mF1``, ``mPrecision`` (scalars); ``IoU``, ``Acc``, which is the recall,
            ``F1``, which is the Dice coefficient, and ``Precision`` (one value a class, NaN where it is absent); and
            ``matrix`` (int64, rows are the truth).
        """
        counts = self.matrix.cpu()
        matrix = counts.double()
        correct, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        iou = correct / (truth + predicted - correct)
        accuracy, precision, dice = correct / truth, correct / predicted, 2 * correct / (truth + predicted)
        return {
            "mIoU": iou.nanmean(),
            "mAcc": accuracy.nanmean(),
            "aAcc": correct.sum() / truth.sum(),
            "mF1": dice.nanmean(),
            "mPrecision": precision.nanmean(),
            "IoU": iou,
            "Acc": accuracy,
            "F1": dice,
            "Precision": precision,
            "matrix": counts,
        }
