"""Features of regions: RoIAlign from the pyramid level that fits each region's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import ops

from lk_downstream.detectors.boxes import area

FINEST_SCALE = 56  # a region of up to twice this side is read from the finest level (FPN paper, equation 1)


def roi_features(maps: Sequence[Tensor], strides: Sequence[int], rois: Tensor, size: int) -> Tensor:
    """Aligned features of regions (mmdet's ``SingleRoIExtractor``: aligned, as many samples as the region has cells).

    Args:
        maps: levels (N, C, H, W), finest first.
        strides: their strides.
        rois: (R, 5): index of the image, x1, y1, x2, y2 in its pixels.
        size: side of the result.

    Returns:
        Float32 (R, C, size, size): coordinates and sums do not bear half precision.
    """
    level = (area(rois[:, 1:]).sqrt() / FINEST_SCALE + 1e-6).log2().floor().clamp(0, len(maps) - 1)
    features = maps[0].new_zeros(len(rois), maps[0].shape[1], size, size, dtype=torch.float32)
    for i, (x, stride) in enumerate(zip(maps, strides)):
        index = (level == i).nonzero().squeeze(1)
        if len(index):
            features[index] = ops.roi_align(x.float(), rois[index], size, 1 / stride, aligned=True)
    return features
