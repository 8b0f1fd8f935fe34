"""Photometric distortion of whole batches on the device that trains, by amounts that are drawn with the samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lk_downstream.data.distortion import PhotoMetricDistortion

KEY = "distortion"


class DrawnDistortion(PhotoMetricDistortion):
    """Draws what :class:`PhotoMetricDistortion` would do, with the same chance, and leaves it to :func:`distort_batch`.

    The amounts stand in the sample under ``distortion``, float32 (5,): grey levels, factor of the contrast, factor of
    the saturation, steps of hue, and 1 where the contrast comes last.
    """

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample with its amounts."""
        drawn = self.make_params([])
        neutral = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0, "contrast_last": False}
        amounts = [value if drawn[name] is None else drawn[name] for name, value in neutral.items()]
        return {**sample, KEY: torch.tensor(amounts, dtype=torch.float32)}


def distort_batch(images: Tensor, amounts: Tensor) -> Tensor:
    """What :func:`lk_downstream.data.distortion.distort` makes of each image, to one grey level.

    Args:
        images: uint8 RGB, (N, 3, H, W), on any device.
        amounts: float32, (N, 5), see :class:`DrawnDistortion`.

    Returns:
        uint8, (N, 3, H, W), in the memory order of the images. Nothing is brought to the host.
    """
    brightness, contrast, saturation, hue, last = amounts.to(images.device)[:, :, None, None, None].unbind(1)
    late = last > 0
    pixels = (images.float() + brightness).clamp_(0, 255)
    pixels = (pixels * contrast.where(~late, 1.0)).clamp_(max=255)
    pixels = _shift_hue(_saturate(pixels, saturation), hue / 30)
    pixels = (pixels * contrast.where(late, 1.0)).clamp_(max=255)
    return pixels.add_(0.5).to(torch.uint8)  # the conversion cuts off: round to the nearest


def _saturate(pixels: Tensor, factor: Tensor) -> Tensor:
    high, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    weight = torch.minimum(high / (high - low).clamp(min=1e-6), factor)
    return (pixels - high) * weight + high


def _shift_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """By the sums that ``distortion._shift_hue`` explains."""
    high, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    step = (high - low) * shift.abs()
    falling, rising = high - step, low + step
    after, before = pixels.roll(-1, 1), pixels.roll(1, 1)  # green, blue, red; blue, red, green
    forward, small = shift > 0, shift.abs() <= 0.5
    follower, other = after.where(forward, before), before.where(forward, after)
    turned = (other - low) * torch.where(small, -1e4, 1e4) + falling
    turned = torch.maximum(turned, rising).where(small, torch.minimum(turned, rising))
    turned = torch.minimum(torch.maximum(turned + pixels - follower, low), high)
    return turned.where(shift != 0, pixels)
