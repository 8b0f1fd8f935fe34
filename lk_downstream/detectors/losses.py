"""Loss functions, summed over the samples; the heads divide them by what mmdet divides them by."""

from __future__ import annotations

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lk_downstream.detectors.boxes import EPS, iou


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Float rows (K, classes) for labels (K,) in 0 .. classes; the last, background, gives a row of zeros."""
    return F.one_hot(labels, classes + 1)[:, :classes].float()


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017) of logits (K, C) for targets (K, C) of 0 and 1, summed."""
    probability = logits.sigmoid()
    miss = probability + targets - 2 * probability * targets  # p for a target of 0, 1 - p for one of 1
    weight = (1 - alpha + (2 * alpha - 1) * targets) * miss**gamma
    return (weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (K, C) for labels (K,), summed; not an NLL loss, whose kernel for GPUs cannot repeat."""
    return -logits.log_softmax(1).gather(1, labels[:, None]).sum()


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - GIoU of decoded boxes (K, 4) and their targets (K, 4), summed."""
    return (1 - iou(boxes, targets, generalized=True)).sum()


def iou_log_loss(boxes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """-log IoU (UnitBox, Yu et al. 2016) of boxes (K, 4) and targets (K, 4), weighted by (K,) and summed."""
    return -(iou(boxes, targets).clamp(min=EPS).log() * weights).sum()


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a scalar over the processes of the run, without gradient; the value itself in a single process."""
    value = value.detach().float()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value / dist.get_world_size()
        dist.all_reduce(value)
    return value


def l1_loss(deltas: Tensor, targets: Tensor, beta: float = 0.0) -> Tensor:
    """Smooth L1 of deltas (K, 4), quadratic below ``beta``, summed; plain L1 for ``beta`` 0."""
    return F.smooth_l1_loss(deltas, targets, beta=beta, reduction="sum")
