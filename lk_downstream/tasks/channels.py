"""Images for backbones of other than three input channels."""

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
