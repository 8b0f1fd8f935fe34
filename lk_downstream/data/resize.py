"""The resize of uint8 images on devices for which PyTorch has none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def resize_bytes(images: Tensor, size: Sequence[int]) -> Tensor:
    """PyTorch's bilinear resize of uint8 on a CPU, bit for bit, for devices that have none.

    It works on one axis after the other, with weights in whole numbers and a rounding after each (aten's
    ``UpSampleKernel.cpp``). Sums of such products are below 2**24, so that float32 holds them exactly.

    Args:
        images: uint8 (N, C, H, W).
        size: New height and width.
    """
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    pixels = images.float()
    for axis, new in ((3, size[1]), (2, size[0])):
        if pixels.shape[axis] != new:
            places, weights, unit = _taps(pixels.shape[axis], new)
            # Not waited for: the host goes on.
            places, weights = (tensor.to(images.device, non_blocking=True) for tensor in (places, weights))
            first, second = weights if axis == 3 else weights[..., None]
            near, far = (pixels.index_select(axis, place) for place in places)
            pixels = (near.mul_(first) + far.mul_(second)).div_(unit).add_(0.5).floor_()
    return pixels.to(torch.uint8).contiguous(memory_format=layout)


def _taps(old: int, new: int) -> tuple[Tensor, Tensor, int]:
    """The two pixels that each new one of an axis is made of, int64 (2, new), their weights in whole numbers, float32
    (2, new), and the sum of these.
    """
    centre = (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new)
    first = (centre - 0.5).long().clamp(min=0)
    last = torch.minimum((centre + 1.5).long().clamp(max=old) - 1, first + 1)
    places = torch.stack((first, last))
    weights = (1 - (places - centre + 0.5).abs()).clamp(min=0)
    weights[1].masked_fill_(first == last, 0)
    weights /= weights.sum(0)
    unit = 1 << 14 if int(0.5 + weights.max().item() * 2**15) >= 2**15 else 1 << 15  # weights fit into int16
    return places, (weights * unit + 0.5).floor().float(), unit
