"""Losses of the tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lk_downstream.data.labels import IGNORE_INDEX


class PixelCrossEntropy(nn.Module):
    """Cross-entropy averaged over all pixels, the ignored ones included, as the published recipes have it.

    By log-softmax and a look-up, not by PyTorch's NLL loss, which has no reproducible kernel for GPUs.

    ``F.cross_entropy(ignore_index=255)`` averages over the counted pixels alone, which weighs crops with much padding
    more; mmsegmentation's default (``avg_non_ignore=False``), by which the published models were trained, does not.

    Args:
        class_weights: A weight for each class; None: all 1. The sum is divided by the number of pixels all the same, as
            in mmsegmentation 0.x; 1.x divides by the weights of the counted pixels.
        over_counted: Average over the counted pixels alone.
    """

    def __init__(self, class_weights: list[float] | None = None, over_counted: bool = False):
        super().__init__()
        self.over_counted = over_counted
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C, H, W) and class indices int64 (N, H, W), 255 for ignored pixels -> scalar, float32."""
        counted = target != IGNORE_INDEX
        if logits.is_contiguous(memory_format=torch.channels_last):
            # A view: softmax over the innermost axis takes half the time of softmax over axis 1 in this memory order.
            logits, target, counted = logits.permute(0, 2, 3, 1).flatten(0, 2), target.flatten(), counted.flatten()
        looked_up = target.where(counted, 0)
        likelihood = logits.float().log_softmax(1).gather(1, looked_up[:, None])[:, 0]
        weights = counted if self.class_weights is None else self.class_weights[looked_up] * counted
        return -(likelihood * weights).sum() / (counted.sum().clamp(min=1) if self.over_counted else target.numel())
