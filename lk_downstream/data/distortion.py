"""Photometric distortion: brightness, contrast, saturation and hue, without a conversion to HSV and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

_STRIP = 2**15  # pixels that are worked on at a time


class PhotoMetricDistortion(v2.Transform):
    """Brightness, contrast, saturation and hue, each changed with probability 1/2, as SSD and mmsegmentation do.

    In this order: brightness (added), contrast (multiplied), saturation, hue, with contrast last instead of second in
    half of the cases. Each step clips to 0..255. Saturation and hue are those of HSV; they are computed exactly, where
    OpenCV's 8-bit HSV rounds the hue to 2 degrees and the saturation to 1/255.

    Args:
        brightness: Largest amount added or subtracted, grey levels.
        contrast: Smallest and largest factor.
        saturation: Smallest and largest factor.
        hue: The shift is a whole number of 2-degree steps from -hue to hue - 1.
    """

    def __init__(
        self,
        brightness: float = 32,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
    ):
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw what is changed and by how much; None leaves a step out."""
        brightness, contrast, saturation, hue, late = torch.randint(2, (5,)).tolist()
        return {
            "brightness": uniform(-self.brightness, self.brightness) if brightness else None,
            "contrast": uniform(*self.contrast) if contrast else None,
            "saturation": uniform(*self.saturation) if saturation else None,
            "hue": int(torch.randint(-self.hue, self.hue, ())) if hue else None,
            "contrast_last": bool(late),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Distort the image; masks pass."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        if inpt.shape[0] != 3:  # it is made for colours
            return inpt
        return tv_tensors.Image(distort(inpt.as_subclass(Tensor), **params))


def distort(
    image: Tensor,
    brightness: float | None = None,
    contrast: float | None = None,
    saturation: float | None = None,
    hue: int | None = None,
    contrast_last: bool = False,
) -> Tensor:
    """Photometric distortion with given amounts, see :class:`PhotoMetricDistortion`.

    Args:
        image: uint8 RGB, (3, H, W).
        brightness: Grey levels to add.
        contrast: Factor.
        saturation: Factor.
        hue: Steps of 2 degrees.
        contrast_last: Contrast after saturation and hue instead of before them.

    Returns:
        uint8, (3, H, W).
    """
    source = image.numpy()
    result = np.empty_like(source, order="C")
    # In strips that stay in the processor's cache: three times as fast as step by step over the whole image.
    rows = max(1, _STRIP // source.shape[2])
    for top in range(0, source.shape[1], rows):
        strip = source[:, top : top + rows].astype(np.float32, order="C")
        if brightness is not None:
            strip += brightness
            np.clip(strip, 0, 255, out=strip)
        if contrast is not None and not contrast_last:
            strip *= contrast
            np.minimum(strip, 255, out=strip)
        if saturation is not None:
            _saturate(strip, saturation)
        if hue:
            strip = _shift_hue(strip, hue / 30)
        if contrast is not None and contrast_last:
            strip *= contrast
            np.minimum(strip, 255, out=strip)
        strip += 0.5  # the conversion cuts off: round to the nearest
        result[:, top : top + rows] = strip
    return torch.from_numpy(result)


def _saturate(pixels: np.ndarray, factor: float) -> None:
    """Multiply the saturation of float32 RGB 0..255, (3, H, W), in place.

    With V = max and m = min of a pixel, multiplying the saturation (V - m) / V by k turns a channel c into
    V + (c - V) k. The saturation is at most 1, so k is at most V / (V - m).
    """
    high = _largest(pixels)
    weight: float | np.ndarray = factor
    if factor > 1:
        weight = high - _smallest(pixels)
        np.maximum(weight, 1e-6, out=weight)
        np.divide(high, weight, out=weight)
        np.minimum(weight, factor, out=weight)
    pixels -= high
    pixels *= weight
    pixels += high


def _shift_hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """Add ``shift`` sixths of the circle (-1 to 1) to the hue of float32 RGB 0..255, (3, H, W).

    Let V = max and m = min of a pixel. Along the circle red stays at V for two sixths, falls to m in one, stays there
    for two and rises in one; green and blue follow two and four sixths later. Where blue is m, red - green falls by
    V - m per sixth, and red is that plus V, clipped to m..V; elsewhere red - green rises likewise, and red is that plus
    m. So a shift needs no hue: it moves the sum by shift (V - m) before it is clipped. The other channels follow by
    turning the names, and a backward shift by turning them the other way.
    """
    high, low = _largest(pixels), _smallest(pixels)
    step = high - low
    step *= abs(shift)
    falling, rising = high - step, low + step
    # Which of the two holds is chosen by a large number, as numpy is far slower with masks; where blue is only nearly
    # m, both give the same after clipping. rising - falling has the sign of |shift| - 1/2.
    choose, sign = (np.maximum, -1e4) if abs(shift) <= 0.5 else (np.minimum, 1e4)
    order = 1 if shift > 0 else -1
    result = np.empty_like(pixels)
    for channel, target in enumerate(result):
        follower, other = pixels[(channel + order) % 3], pixels[(channel - order) % 3]
        np.subtract(other, low, out=target)
        target *= sign
        target += falling
        choose(target, rising, out=target)
        target += pixels[channel]
        target -= follower
        np.clip(target, low, high, out=target)
    return result


def _largest(pixels: np.ndarray) -> np.ndarray:
    largest = np.maximum(pixels[0], pixels[1])
    return np.maximum(largest, pixels[2], out=largest)


def _smallest(pixels: np.ndarray) -> np.ndarray:
    smallest = np.minimum(pixels[0], pixels[1])
    return np.minimum(smallest, pixels[2], out=smallest)


def uniform(low: float, high: float) -> float:
    """A random number between ``low`` and ``high``, from PyTorch's source of chance."""
    return low + (high - low) * float(torch.rand(()))
