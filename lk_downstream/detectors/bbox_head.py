"""The box head of the R-CNN family: convolutions and fully connected layers over a region's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.detectors.blocks import conv_block, init_kaiming, init_normal
from lk_downstream.detectors.boxes import DeltaCoder
from lk_downstream.detectors.losses import cross_entropy, giou_loss, l1_loss

ROI_SIZE = 7


@dataclass(frozen=True)
class BBoxHeadSettings:
    """Settings of a box head; the defaults are Mask R-CNN's two fully connected layers.

    Attributes:
        convs: hidden convolutions, each with a batch norm.
        conv_channels: their channels.
        fcs: fully connected layers after them.
        fc_channels: their channels.
        loss: L1 of the deltas, or the GIoU of the decoded boxes.
        loss_weight: factor of the box loss.
        class_agnostic: one box for all classes instead of one for each.
    """

    convs: int = 0
    conv_channels: int = 256
    fcs: int = 2
    fc_channels: int = 1024
    loss: Literal["l1", "giou"] = "l1"
    loss_weight: float = 1.0
    class_agnostic: bool = False


class BBoxHead(nn.Module):
    """Classes (background last) and box deltas of regions, with mmdet's parameter names (``ConvFCBBoxHead``).

    Args:
        channels: of the regions' features.
        num_classes: foreground classes.
        stds: divisors of the deltas.
        settings: see `BBoxHeadSettings`.
    """

    def __init__(self, channels: int, num_classes: int, stds: Sequence[float], settings: BBoxHeadSettings):
        super().__init__()
        self.num_classes, self.settings = num_classes, settings
        self.coder = DeltaCoder(tuple(stds))
        width = [channels] + [settings.conv_channels] * settings.convs
        self.shared_convs = nn.Sequential(*(conv_block(a, b, "bn") for a, b in zip(width, width[1:])))
        width = [width[-1] * ROI_SIZE**2] + [settings.fc_channels] * settings.fcs
        self.shared_fcs = nn.ModuleList(nn.Linear(a, b) for a, b in zip(width, width[1:]))
        self.fc_cls = nn.Linear(width[-1], num_classes + 1)
        self.fc_reg = nn.Linear(width[-1], 4 if settings.class_agnostic else 4 * num_classes)
        init_kaiming(self.shared_convs)
        for layer in self.shared_fcs:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        init_normal(self.fc_cls, 0.01)
        init_normal(self.fc_reg, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, classes + 1) and deltas (R, classes or 1, 4), float32, of features (R, C, 7, 7).

        Without regions one of zeros goes through and its result is dropped, so that batch norms stay finite and every
        parameter has a gradient (of zero).
        """
        regions = x.shape[0]  # not len(), which a trace takes for fixed
        x = (x if regions else x.new_zeros(1, *x.shape[1:])).to(self.fc_cls.weight.dtype)
        x = self.shared_convs(x).flatten(1)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        logits, deltas = self.fc_cls(x).float(), self.fc_reg(x).float()
        return logits[:regions], deltas.unflatten(1, (-1, 4))[:regions]

    def decode(self, boxes: Tensor, deltas: Tensor, labels: Tensor) -> Tensor:
        """Boxes (R, 4), not clipped, from regions (R, 4), deltas (R, classes or 1, 4) and the classes (R,) to use."""
        return self.coder.decode(boxes, self._of_class(deltas, labels))

    def loss(self, logits: Tensor, deltas: Tensor, boxes: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Losses of the sampled regions.

        Args:
            logits: (R, classes + 1).
            deltas: (R, classes or 1, 4).
            boxes: the regions (R, 4).
            labels: (R,); ``num_classes`` for background.
            targets: boxes (P, 4) of the objects of the P regions that are not background.
        """
        positive = (labels < self.num_classes).nonzero().squeeze(1)
        references, predicted = boxes[positive], self._of_class(deltas[positive], labels[positive])
        if self.settings.loss == "giou":
            box_loss = giou_loss(self.coder.decode(references, predicted), targets)
        else:
            box_loss = l1_loss(predicted, self.coder.encode(references, targets))
        count = max(len(labels), 1)
        return {
            "loss_cls": cross_entropy(logits, labels) / count,
            "loss_bbox": box_loss * self.settings.loss_weight / count,
        }

    def _of_class(self, deltas: Tensor, labels: Tensor) -> Tensor:
        if self.settings.class_agnostic:
            return deltas[:, 0]
        return deltas[torch.arange(len(labels), device=labels.device), labels]
