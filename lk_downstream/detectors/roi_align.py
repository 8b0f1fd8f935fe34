"""Features of regions: RoIAlign from the pyramid level that fits each region's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import ops

from lk_downstream.detectors.boxes import area

CHUNK = 2**27  # numbers that the backward pass for reproducible runs holds at once
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
            features[index] = roi_align(x.float(), rois[index], size, 1 / stride)
    return features


def roi_align(x: Tensor, rois: Tensor, size: int, scale: float = 1.0) -> Tensor:
    """Aligned RoIAlign with as many samples as a region has cells; on GPUs repeatable where that is asked for.

    Args:
        x: float32 (N, C, H, W).
        rois: (R, 5): index of the image, x1, y1, x2, y2.
        size: side of the result.
        scale: cells of a map over pixels of the coordinates.

    Returns:
        (R, C, size, size).
    """
    if torch.are_deterministic_algorithms_enabled() and x.device.type != "cpu":
        return _Repeatable.apply(x, rois, size, scale)
    return ops.roi_align(x, rois, size, scale, aligned=True)


class _Repeatable(torch.autograd.Function):
    """The operator's values, and its gradient by products of matrices.

    The backward kernel for GPUs adds in any order and refuses under ``torch.use_deterministic_algorithms``, for which
    torchvision has a form that needs a compiler and much memory. But a region's result is ``rows @ map @ columns.T``
    with the weights that its samples give to the rows and to the columns of the map.
    """

    @staticmethod
    def forward(ctx, x: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.size, ctx.scale = x.shape, size, scale
        return torch.ops.torchvision.roi_align(x, rois, scale, size, size, -1, True)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (rois,) = ctx.saved_tensors
        images, channels, height, width = ctx.shape
        result = grad.new_zeros(ctx.shape)
        step = max(1, CHUNK // (channels * ctx.size * width))
        for image in range(images):
            own = (rois[:, 0] == image).nonzero().squeeze(1)
            for some in own.split(step) if len(own) else ():
                boxes = rois[some, 1:] * ctx.scale - 0.5
                rows = sample_weights(boxes[:, 1], boxes[:, 3], ctx.size, height)
                columns = sample_weights(boxes[:, 0], boxes[:, 2], ctx.size, width)
                spread = grad[some] @ columns[:, None]  # (R, C, size, W)
                result[image] += torch.einsum("rph,rcpw->chw", rows, spread)
        return result, None, None, None


def sample_weights(start: Tensor, end: Tensor, size: int, length: int) -> Tensor:
    """What RoIAlign's bins take from each cell along one axis, (R, size, length).

    Args:
        start: first coordinate of each region, in cells, (R,).
        end: last one, (R,).
        size: bins of a region.
        length: cells of the map.
    """
    bin_length = (end - start) / size
    count = bin_length.ceil().clamp(min=0)  # samples of a bin
    number = torch.arange(max(1, int(count.max())), device=start.device)
    bins = torch.arange(size, device=start.device)
    inner = bins[:, None] + (number + 0.5) / count.clamp(min=1)[:, None, None]  # (R, size, samples), in bins
    place = start[:, None, None] + inner * bin_length[:, None, None]
    counts = (number < count[:, None, None]) & (place >= -1) & (place <= length)
    place = place.clamp(0, length - 1)
    cells = torch.arange(length, device=start.device)
    weights = (1 - (place[..., None] - cells).abs()).clamp(min=0) * counts[..., None]
    return weights.sum(2) / count.clamp(min=1)[:, None, None]
