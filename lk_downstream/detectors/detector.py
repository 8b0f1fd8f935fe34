"""Detectors composed of a backbone, a neck and heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lk_downstream.detectors.anchor_head import RetinaHead, RPNHead
from lk_downstream.detectors.batch import Detections, Sizes, Targets, as_sizes, learnable
from lk_downstream.detectors.fcos_head import FCOSHead
from lk_downstream.detectors.fpn import FPN
from lk_downstream.detectors.roi_head import RoIHead


class Detector(nn.Module):
    """What all detectors share: the backbone, the neck and how they are called.

    Args:
        backbone: gives ``channels`` and ``strides``, and maps (N, C, H / s, W / s), finest first.
        neck: turns these into a pyramid.
    """

    masks = False

    def __init__(self, backbone: nn.Module, neck: FPN):
        super().__init__()
        self.backbone = backbone
        self.neck = neck

    def forward(
        self, images: Tensor, sizes: Tensor | Sizes, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses if there are targets, else detections.

        Args:
            images: (N, 3, H, W), normalised, padded with zeros at the right and the bottom.
            sizes: (N, 2) the images' (h, w) without padding, in pixels.
            targets: for each image ``boxes`` (G, 4) as x1, y1, x2, y2 in pixels, ``labels`` int64 (G,) in
                0 .. classes - 1 and, for detectors with masks, ``masks`` (G, H, W), padded or not. Objects with
                ``iscrowd`` (G,) true, and empty boxes, are left out.

        Returns:
            Losses under mmdet's names, to be summed; every parameter has a part in them, whatever the targets. Without
            targets what `predict` returns.
        """
        if targets is None:
            return self.predict(images, sizes)
        maps = self.neck(self.backbone(images))
        return self.losses(maps, as_sizes(sizes), learnable(targets, self.masks))

    @torch.no_grad()
    def predict(self, images: Tensor, sizes: Tensor | Sizes) -> Detections:
        """Detections of each image, best first, in pixels of the given images.

        Args:
            images: (N, 3, H, W), normalised and padded.
            sizes: (N, 2) their (h, w) without padding.

        Returns:
            For each image ``boxes`` (K, 4) xyxy, ``scores`` (K,), ``labels`` int64 (K,) and, of detectors with masks,
            ``masks`` (K, 28, 28): probabilities within each box. `to_original` brings them to the original image.
        """
        return self.detections(self.neck(self.backbone(images)), as_sizes(sizes))

    def losses(self, maps: list[Tensor], sizes: Sizes, targets: Targets) -> dict[str, Tensor]:
        """Losses from the pyramid."""
        raise NotImplementedError

    def detections(self, maps: list[Tensor], sizes: Sizes) -> Detections:
        """Detections from the pyramid."""
        raise NotImplementedError


class OneStageDetector(Detector):
    """Backbone, neck and one head on every level.

    Args:
        backbone: see `Detector`.
        neck: see `Detector`.
        bbox_head: the head.
    """

    def __init__(self, backbone: nn.Module, neck: FPN, bbox_head: FCOSHead | RetinaHead):
        super().__init__(backbone, neck)
        self.bbox_head = bbox_head

    def losses(self, maps, sizes, targets):
        """Losses from the pyramid."""
        return self.bbox_head.loss(self.bbox_head(maps), sizes, targets)

    def detections(self, maps, sizes):
        """Detections from the pyramid."""
        return self.bbox_head.predict(self.bbox_head(maps), sizes, self.bbox_head.settings.test)


class TwoStageDetector(Detector):
    """Backbone, neck, region proposals and heads on the proposed regions.

    Args:
        backbone: see `Detector`.
        neck: see `Detector`.
        rpn_head: proposes regions.
        roi_head: classifies, refines and segments them.
    """

    def __init__(self, backbone: nn.Module, neck: FPN, rpn_head: RPNHead, roi_head: RoIHead):
        super().__init__(backbone, neck)
        self.rpn_head = rpn_head
        self.roi_head = roi_head
        self.masks = roi_head.mask_head is not None

    def losses(self, maps, sizes, targets):
        """Losses from the pyramid."""
        proposals, losses = self.rpn_head.propose(maps, sizes, targets)
        return losses | self.roi_head.loss(maps, proposals, sizes, targets)

    def detections(self, maps, sizes):
        """Detections from the pyramid."""
        proposals, _ = self.rpn_head.propose(maps, sizes)
        return self.roi_head.predict(maps, proposals, sizes)
