"""Mean average precision of images with several labels, exact over all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lk_downstream.errors import InputError


class MultiLabelMetric(Metric):
    """Average precision of each class and its mean, and F1 of all decisions at a probability of one half.

    The scores of all images are kept, and gathered over all processes once, at :meth:`compute`: 8 bytes for each image
    and class.

    Args:
        classes: Class names; their number is the number of classes.

    Attributes:
        metrics: Names of the scalars of :meth:`compute`.
    """

    full_state_update = False
    higher_is_better = True
    metrics = ("mAP", "F1")
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, classes: Sequence[str]):
        super().__init__()
        self.classes = tuple(classes)
        # Flat: a process without images gathers an empty row, which has to have as many dimensions.
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Keep the scores of some images.

        Args:
            logits: (N, classes).
            labels: 0 or 1, (N, classes).

        Raises:
            InputError: ``labels`` has another shape, or other values.
        """
        if labels.shape != logits.shape or not ((labels == 0) | (labels == 1)).all():
            raise InputError(
                f"the labels {list(labels.shape)} have to be 0 or 1 for each image and each of "
                f"{len(self.classes)} classes"
            )
        self.scores.append(logits.float().flatten())
        self.labels.append(labels.float().flatten())

    def compute(self) -> dict[str, Tensor]:
        """All metrics as fractions of 1, float64, on the CPU.

        Returns:
            ``mAP``, the mean over the classes that occur, and ``F1`` (scalars; NaN without any); ``AP`` (one value a
            class, NaN where it does not occur).
        """
        states = (dim_zero_cat(state) if len(state) else torch.zeros(0) for state in (self.scores, self.labels))
        scores, labels = (state.cpu().reshape(-1, len(self.classes)) for state in states)
        precision = torch.stack([average_precision(*columns) for columns in zip(scores.T, labels.T)])
        chosen, true = scores > 0, labels > 0
        right = (chosen & true).sum().double()
        return {"mAP": precision.nanmean(), "F1": 2 * right / (chosen.sum() + true.sum()), "AP": precision}


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean of the precision at each rise of the recall, float64; NaN without a positive.

    Equal scores are one threshold, as in scikit-learn's ``average_precision_score``: nothing depends on their order.

    Args:
        scores: (N,).
        labels: 0 or 1, (N,).
    """
    ranked, order = scores.sort(descending=True)
    hits = labels[order].long().cumsum(0).double()  # of whole numbers: sums of floats are not repeatable on every GPU
    last = torch.ones(len(ranked), dtype=torch.bool)  # of those with the same score
    last[:-1] = ranked[:-1] != ranked[1:]
    hits, number = hits[last], torch.arange(1, len(ranked) + 1)[last]
    rise = hits.diff(prepend=hits.new_zeros(1))
    return (rise * hits / number).sum() / labels.double().sum()
