"""Channels of images as backbones take them: their number and their scale."""

from __future__ import annotations

import torch
from torch import Tensor

from lk_downstream.errors import InputError


def of_channels(images: Tensor, number: int) -> Tensor:
    """Images (N, C, H, W) with as many channels as the backbone takes.

    For one channel RGB is made grey, as Pillow does it (ITU-R 601), in the type of floating point images, else float32.

    Raises:
        InputError: The images have another number, which nothing is to be made of.
    """
    if images.shape[1] == number:
        return images
    if images.shape[1] == 3 and number == 1:
        red, green, blue = images.to(torch.promote_types(images.dtype, torch.float32)).split(1, 1)
        return 0.299 * red + 0.587 * green + 0.114 * blue
    raise InputError(
        f"model.backbone.in_chans is {number}, but the images have {images.shape[1]} channels: set it to that, or give "
        f"images of {number} channels (data modules read them after use_channels({number}))"
    )


def scaled(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Images (N, C, H, W) less ``mean`` and divided by ``std``, both (C, 1, 1), as a new tensor of a type."""
    result = torch.empty_like(images, dtype=dtype)
    by_rows = result.is_contiguous(memory_format=torch.channels_last)
    if by_rows:  # the three values of one pixel are too few for a CPU's vector units
        mean, std = (values.flatten().repeat(images.shape[-1]) for values in (mean, std))
    # In place, which is half the time, and on a CPU one image at a time, which stays in its cache.
    for source, target in zip(images, result) if images.device.type == "cpu" else [(images, result)]:
        target.copy_(source)
        values = target.movedim(-3, -1).flatten(-2) if by_rows else target
        values.sub_(mean).div_(std)
    return result
