"""Losses of the tasks."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from lk_downstream.data.labels import IGNORE_INDEX
from lk_downstream.errors import InputError, near_names
from lk_downstream.tasks.cross_entropy import along_classes, cross_entropy

ClassWeight = list[float] | Literal["frequency"] | None
PIXELS = (0, 2, 3)  # the axes of (N, C, H, W) beside that of the classes


class PixelLoss(nn.Module):
    """From logits and class indices to a scalar. Pixels of 255 have no part in it, and no gradient.

    A subclass computes :meth:`loss`, in float32 whatever the type of the logits, without waiting for the device.

    Args:
        class_weight: A weight for each class; ``frequency``: the median of the classes' shares of the training masks
            divided by the share of the class (Eigen and Fergus, ICCV 2015), counted when a training starts; None:
            all 1.
    """

    weights: Tensor | None

    def __init__(self, class_weight: ClassWeight = None):
        super().__init__()
        if isinstance(class_weight, str) and class_weight != "frequency":
            hint = near_names(class_weight, ["frequency"])
            raise InputError(f"class_weight of the loss is {class_weight!r}: it must be numbers or 'frequency'{hint}")
        self.by_frequency = class_weight == "frequency"
        weights = None if class_weight is None or self.by_frequency else torch.tensor(class_weight, dtype=torch.float32)
        # In Python, as a model may be made on the meta device.
        if weights is not None and not all(math.isfinite(weight) and weight >= 0 for weight in class_weight):
            raise InputError(f"class_weight of the loss is {list(class_weight)}: every weight must be 0 or more")
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C, H, W) and class indices int64 (N, H, W), 255 for ignored pixels -> scalar, float32."""
        if self.by_frequency and self.weights is None:
            raise InputError(
                "class_weight 'frequency' is counted on the masks of SegmentationData when a training starts: "
                "give the weights as numbers here"
            )
        counted = target != IGNORE_INDEX
        return self.loss(logits.float(), target.where(counted, 0), counted)

    def loss(self, logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """The loss.

        Args:
            logits: float32 (N, C, H, W).
            target: Class indices int64 (N, H, W); 0 where a pixel does not count.
            counted: Whether it does, bool (N, H, W).
        """
        raise NotImplementedError

    def pixel_weights(self, target: Tensor, counted: Tensor) -> Tensor:
        """The weight of each pixel's class, 0 where it does not count."""
        return counted if self.weights is None else self.weights[target] * counted


class PixelCrossEntropy(PixelLoss):
    """Cross-entropy averaged over all pixels, the ignored ones included, as the published recipes have it.

    By log-softmax and a look-up, not by PyTorch's NLL loss, which has no reproducible kernel for GPUs.

    ``F.cross_entropy(ignore_index=255)`` averages over the counted pixels alone, which weighs crops with much padding
    more; mmsegmentation's default (``avg_non_ignore=False``), by which the published models were trained, does not.

    Args:
        class_weight: A weight for each class, or ``frequency``, see :class:`PixelLoss`; None: all 1. The sum is divided
            by the number of pixels all the same, as in mmsegmentation 0.x; 1.x divides by the weights of the counted
            pixels.
        over_counted: Average over the counted pixels alone.
    """

    def __init__(self, class_weight: ClassWeight = None, over_counted: bool = False):
        super().__init__(class_weight)
        self.over_counted = over_counted

    def loss(self, logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """See :meth:`PixelLoss.loss`."""
        total = (cross_entropy(logits, target) * self.pixel_weights(target, counted)).sum()
        return total / (counted.sum().clamp(min=1) if self.over_counted else target.numel())


class OHEM(PixelLoss):
    """Cross-entropy averaged over the hard pixels alone (Shrivastava et al., CVPR 2016, "online hard example mining").

    Hard are pixels whose true class has a probability below ``threshold``; if these are fewer than ``min_kept`` an
    image, that many of the hardest. Which pixels these are, mmsegmentation's ``OHEMPixelSampler`` says likewise; the
    average over them is that of HRNet's ``OhemCrossEntropy``.

    Args:
        class_weight: A weight for each class, or ``frequency``, see :class:`PixelLoss`; None: all 1.
        threshold: Probability.
        min_kept: Pixels an image.
    """

    def __init__(self, class_weight: ClassWeight = None, threshold: float = 0.7, min_kept: int = 100_000):
        super().__init__(class_weight)
        if not 0 < threshold <= 1 or min_kept < 1:
            raise InputError(
                f"OHEM has threshold {threshold} and min_kept {min_kept}: a probability above 0, and at least 1 pixel"
            )
        self.threshold, self.min_kept = threshold, min_kept

    def loss(self, logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """See :meth:`PixelLoss.loss`."""
        entropy = cross_entropy(logits, target)
        probability = entropy.detach().neg().exp().where(counted, 2.0)
        place = (counted.sum() - 1).clamp(0, self.min_kept * len(target))
        least = probability.flatten().sort().values.gather(0, place[None])
        kept = (probability < least.clamp(min=self.threshold)) & counted
        return (entropy * self.pixel_weights(target, kept)).sum() / kept.sum().clamp(min=1)


class Focal(PixelLoss):
    """The focal loss of each class against all others (Lin et al., ICCV 2017), by torchvision.

    It is averaged over the counted pixels and, by their weights, over the classes, as in segmentation-models-pytorch.

    Args:
        class_weight: A weight for each class, or ``frequency``, see :class:`PixelLoss`; None: all 1.
        alpha: Weight of a pixel's own class, 1 - alpha being that of the others; -1: both 1.
        gamma: How much pixels that are right count less; 0: as much as the others.
    """

    def __init__(self, class_weight: ClassWeight = None, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__(class_weight)
        self.alpha, self.gamma = alpha, gamma

    def loss(self, logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """See :meth:`PixelLoss.loss`."""
        truth = of_classes(target, counted, logits.shape[1]).float()
        losses = sigmoid_focal_loss(logits, truth, self.alpha, self.gamma) * counted[:, None]
        by_class = losses.sum(PIXELS) / counted.sum().clamp(min=1)
        return by_class.mean() if self.weights is None else (by_class * self.weights).sum() / self.weights.sum()


class Dice(PixelLoss):
    """One minus the Dice coefficient of each class's probabilities over the whole batch (Milletari et al., 3DV 2016).

    A class that is not in the batch has the loss 0, as in segmentation-models-pytorch.

    Args:
        class_weight: A weight for each class, or ``frequency``, see :class:`PixelLoss`; None: all 1. The sum over the
            classes is divided by their sum.
        over_present: Average over the classes in the batch alone, so that many absent ones make no small loss.
        smooth: Added to numerator and denominator.
    """

    def __init__(self, class_weight: ClassWeight = None, over_present: bool = False, smooth: float = 0.0):
        super().__init__(class_weight)
        self.over_present, self.smooth = over_present, smooth

    def loss(self, logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """See :meth:`PixelLoss.loss`."""
        probabilities = along_classes(torch.softmax, logits) * counted[:, None]
        truth = of_classes(target, counted, logits.shape[1])
        pixels = truth.sum(PIXELS)
        both = probabilities.where(truth, 0.0).sum(PIXELS)
        overlap = (2 * both + self.smooth) / (probabilities.sum(PIXELS) + pixels + self.smooth).clamp(min=1e-7)
        present = pixels > 0
        weights = torch.ones_like(overlap) if self.weights is None else self.weights
        total = (weights * present if self.over_present else weights).sum()
        return ((1 - overlap) * weights * present).sum() / total.clamp(min=1e-7)


class Lovasz(PixelLoss):
    """The Lovasz-Softmax loss, a surrogate of the IoU (Berman et al., CVPR 2018), over the classes in the batch.

    Every class takes a sort of all pixels, so that it is slow with many classes. Mostly it is added to another loss.

    Args:
        class_weight: A weight for each class, or ``frequency``, see :class:`PixelLoss`; None: all 1. The sum is divided
            by the number of classes all the same, as in mmsegmentation.
    """

    def loss(self, logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """See :meth:`PixelLoss.loss`."""
        probabilities = along_classes(torch.softmax, logits)
        losses, present = [], []
        for index in range(logits.shape[1]):
            truth = ((target == index) & counted).flatten()
            # What does not count has the error 0, and so comes last and changes nothing.
            errors = (probabilities[:, index].flatten() - truth.float()).abs() * counted.flatten()
            errors, order = errors.sort(descending=True, stable=True)
            hits = truth[order].long()  # whole numbers, whose sums are exact and reproducible
            total = hits.sum()
            union = total + (1 - hits).cumsum(0)
            jaccard = 1 - (total - hits.cumsum(0)) / union.clamp(min=1)
            steps = jaccard.diff(prepend=jaccard.new_zeros(1))
            losses.append((errors * steps).sum())
            present.append(total > 0)
        held = torch.stack(present)
        weights = held if self.weights is None else held * self.weights
        return (torch.stack(losses) * weights).sum() / held.sum().clamp(min=1)


class SumOfLosses(nn.Module):
    """Several losses, added up.

    Args:
        losses: From logits and class indices to a scalar each.
        weights: A weight for each; None: all 1.
    """

    def __init__(self, losses: list[nn.Module], weights: list[float] | None = None):
        super().__init__()
        weights = [1.0] * len(losses) if weights is None else list(weights)
        if not losses or len(weights) != len(losses):
            raise InputError(f"SumOfLosses has {len(losses)} losses and {len(weights)} weights: give one for each")
        self.losses, self.weights = nn.ModuleList(losses), weights

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The weighted sum of the losses; arguments are theirs."""
        return sum(weight * loss(logits, target) for weight, loss in zip(self.weights, self.losses))


def of_classes(target: Tensor, counted: Tensor, number: int) -> Tensor:
    """Class indices (N, H, W) -> whether a pixel counts and is of the class, bool (N, classes, H, W)."""
    classes = torch.arange(number, device=target.device).view(-1, 1, 1)
    return (target[:, None] == classes) & counted[:, None]
