"""The mask head of Mask R-CNN (He et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.detectors.blocks import conv_block, init_kaiming
from lk_downstream.detectors.roi_align import roi_align

ROI_SIZE = 14


@dataclass(frozen=True)
class MaskHeadSettings:
    """Settings of a mask head.

    Attributes:
        convs: hidden convolutions.
        channels: of them and of the upsampling.
    """

    convs: int = 4
    channels: int = 256


class MaskHead(nn.Module):
    """Masks (28 x 28) of regions, one for each class, with mmdet's parameter names (``FCNMaskHead``).

    Args:
        channels: of the regions' features.
        num_classes: foreground classes.
        settings: see `MaskHeadSettings`.
    """

    def __init__(self, channels: int, num_classes: int, settings: MaskHeadSettings):
        super().__init__()
        width = [channels] + [settings.channels] * settings.convs
        self.convs = nn.Sequential(*(conv_block(a, b) for a, b in zip(width, width[1:])))
        self.upsample = nn.ConvTranspose2d(width[-1], settings.channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(settings.channels, num_classes, 1)
        init_kaiming(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Logits (R, 28, 28), float32, for the classes (R,) of regions with features (R, C, 14, 14)."""
        x = self.conv_logits(F.relu(self.upsample(self.convs(x.to(self.conv_logits.weight.dtype)))))
        return x[torch.arange(labels.shape[0], device=x.device), labels].float()  # not len(): exported for any number

    @staticmethod
    def targets(masks: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
        """Targets of 0 and 1 (P, 28, 28): the objects' masks within the regions.

        Args:
            masks: (G, h, w) of the image without padding.
            boxes: regions (P, 4) in its pixels.
            objects: int64 (P,), which mask belongs to each region.
        """
        rois = torch.cat((objects[:, None].to(boxes), boxes), dim=1)
        soft = roi_align(masks[:, None].float(), rois, 2 * ROI_SIZE)
        return (soft[:, 0] >= 0.5).float()

    @staticmethod
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy of logits (P, 28, 28); 0 for no region."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(targets.numel(), 1)
