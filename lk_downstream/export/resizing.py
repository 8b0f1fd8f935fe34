"""The test-time resize as a graph: images of any size in, the same grey levels out that the data modules give.

Sizes are tensors here, which a trace computes, and become lengths of tensors by :func:`length`. All sums are of whole
numbers that their type holds exactly, so that a file gives the grey levels of :mod:`lk_downstream.data` bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

PILLOW_BITS = 22  # of the weights in Pillow's resize of bytes (Resample.c, PRECISION_BITS)


def sides(images: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of images (N, C, H, W), float64 () each."""
    return tuple(torch.scalar_tensor(side, dtype=torch.float64) for side in images.shape[-2:])


def length(side: Tensor, least: int = 1, divisor: int = 1) -> int:
    """A computed side as the length of a tensor, which a trace takes for any number from ``least`` on.

    Args:
        side: () whole number, a multiple of the divisor.
        least: the smallest that it can be.
        divisor: what it is known to be a multiple of, which leaves a trace less to think about.
    """
    number = (side / divisor).to(torch.int64).item()
    torch._check(number * divisor >= least)
    return number * divisor


def keep_ratio(height: Tensor, width: Tensor, scale: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """:func:`lk_downstream.data.transforms.keep_ratio_size` of sides that are tensors."""
    long, short = torch.maximum(height, width), torch.minimum(height, width)
    factor = torch.minimum(max(scale) / long, min(scale) / short)
    return tuple((side * factor + 0.5).floor().clamp(min=1) for side in (height, width))


def bilinear(images: Tensor, size: tuple[Tensor, Tensor], lengths: tuple[int, int]) -> Tensor:
    """:func:`lk_downstream.data.resize.resize_bytes` of any size, followed by padding.

    Args:
        images: grey levels, float32 (N, C, H, W).
        size: height and width after the resize, float64 ().
        lengths: height and width of the result, not below; what lies beyond is not specified.

    Returns:
        float32 (N, C, h, w), whole numbers.
    """
    old = sides(images)
    for axis in (3, 2):
        places, weights, unit = _taps(old[axis - 2], size[axis - 2], lengths[axis - 2])
        first, second = weights if axis == 3 else weights[..., None]
        near, far = (images.index_select(axis, place) for place in places)
        images = ((near * first + far * second) / unit + 0.5).floor()
    return images


def _taps(old: Tensor, new: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """See ``lk_downstream.data.resize._taps``; ``number`` of them, those beyond ``new`` as the last."""
    index = torch.minimum(torch.arange(number, dtype=torch.float64), new - 1)
    centre = (index + 0.5) * (old / new)
    first = (centre - 0.5).clamp(min=0).floor()
    last = torch.minimum(torch.minimum((centre + 1.5).floor(), old) - 1, first + 1)
    places = torch.stack((first, last))
    weights = (1 - (places - centre + 0.5).abs()).clamp(min=0)
    weights = weights * torch.stack((torch.ones_like(first), (first != last).double()))
    weights = weights / weights.sum(0)
    unit = torch.where((0.5 + weights.max() * 2**15).floor() >= 2**15, 2.0**14, 2.0**15)
    return places.long(), (weights * unit + 0.5).floor().float(), unit.float()


def bicubic_crop(images: Tensor, size: int, resized: int | None) -> Tensor:
    """Pillow's bicubic resize and torchvision's centre crop, as evaluation of classifiers has them.

    Args:
        images: grey levels, float32 (N, C, H, W).
        size: side of the square that is cropped.
        resized: length of the short side before the crop, not below ``size``; None: both sides become ``size``.

    Returns:
        float32 (N, C, size, size), whole numbers.
    """
    height, width = sides(images)
    short = torch.minimum(height, width)
    for axis, side in ((3, width), (2, height)):
        new = torch.full_like(side, size) if resized is None else (resized * side / short).floor()
        first = ((new - size) / 2).round()  # half to even, as Python's
        weights = _pillow_weights(side, new, first, size, images.shape[axis])
        pixels = images.double()
        total = pixels @ weights.T if axis == 3 else weights @ pixels
        images = ((total + 2 ** (PILLOW_BITS - 1)) / 2**PILLOW_BITS).floor().clamp(0, 255).float()
    return images


def _pillow_weights(old: Tensor, new: Tensor, first: Tensor, number: int, columns: int) -> Tensor:
    """What ``number`` pixels from the resized pixel ``first`` on take from each old pixel, whole numbers."""
    scale = old / new
    filter_scale = scale.clamp(min=1)
    support = 2 * filter_scale
    centre = ((torch.arange(number, dtype=torch.float64) + first + 0.5) * scale)[:, None]
    place = torch.arange(columns, dtype=torch.float64)
    counts = (place >= (centre - support + 0.5).floor()) & (place < (centre + support + 0.5).floor())
    weights = _cubic((place - centre + 0.5) / filter_scale) * counts
    weights = weights / weights.sum(1, keepdim=True)
    scaled = weights * 2**PILLOW_BITS
    return scaled.sign() * (scaled.abs() + 0.5).floor()


def _cubic(x: Tensor) -> Tensor:
    """The cubic kernel with a = -1/2 (Keys 1981), which Pillow's bicubic resize has."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
