"""The training pipeline of the papers (mmsegmentation's), on torchvision.transforms.v2 and tv_tensors.

Random resize, random crop, flip, photometric distortion and padding follow ``mmseg/datasets/transforms`` and
``mmcv/transforms`` in what they compute and with which probability. How they compute it differs, for speed: the crop is
chosen on the labels first and only what it keeps is resized, and the colour steps need no conversion to HSV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from lk_downstream.data.labels import IGNORE_INDEX

_TRIES = 10  # of mmseg's RandomCrop


def keep_ratio_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture resized to fit ``scale`` with its aspect ratio kept, (height, width).

    The long side of the picture is fitted to the larger number of ``scale``, the short side to the smaller one,
    whichever is reached first: mmcv's ``rescale_size``.

    Args:
        height: Pixels.
        width: Pixels.
        scale: Two sides, pixels, in either order.
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize without antialiasing, as OpenCV's ``INTER_LINEAR`` (within one grey level for uint8).

    Args:
        image: uint8 or float, (C, H, W) or (N, C, H, W).
        size: New height and width.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image.as_subclass(Tensor)[(None,) * (4 - image.ndim)]
    resized = F.interpolate(batch, size=tuple(size), mode="bilinear", align_corners=False)
    resized = resized[0] if image.ndim == 3 else resized
    return tv_tensors.wrap(resized, like=image) if isinstance(image, tv_tensors.TVTensor) else resized


class Window(NamedTuple):
    """A crop of a resized picture, in terms of the picture before the resize.

    Attributes:
        size: Height and width of the crop.
        rows: First row of the original and the number of rows from there that the crop is made of.
        columns: The same for columns.
        zoom: Resized over original, vertically and horizontally.
    """

    size: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    zoom: tuple[float, float]


class RandomResizeCrop(v2.Transform):
    """Resize by a random ratio, then crop so that no class fills the crop.

    The ratio r is uniform in ``ratio_range``; the picture is resized to fit ``(int(W r), int(H r))`` of ``scale`` with
    its aspect ratio kept, bilinearly (labels: nearest). A crop is accepted if it holds more than one class and the
    largest class has less than ``cat_max_ratio`` of the labelled pixels; after 10 tries the next one is taken as it is.
    A picture smaller than the crop is not cropped on that side.

    The crop begins on a pixel of the original rather than of the resized picture, which moves it by at most half a
    pixel of the original; image and mask are moved alike.

    Args:
        crop_size: Height and width of the crop.
        scale: Width and height that the ratio multiplies, in either order.
        ratio_range: Smallest and largest ratio.
        cat_max_ratio: Largest share of one class; 1 accepts every crop.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale: tuple[int, int] = (2048, 512),
        ratio_range: tuple[float, float] = (0.5, 2.0),
        cat_max_ratio: float = 0.75,
    ):
        super().__init__()
        self.crop_size, self.scale = tuple(crop_size), tuple(scale)
        self.ratio_range, self.cat_max_ratio = tuple(ratio_range), cat_max_ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the ratio and the crop; the crop of the mask is made on the way."""
        mask = next((item for item in flat_inputs if isinstance(item, tv_tensors.Mask)), None)
        height, width = v2.query_size(flat_inputs)
        ratio = _uniform(*self.ratio_range)
        resized = keep_ratio_size(height, width, (int(self.scale[0] * ratio), int(self.scale[1] * ratio)))
        labels = None if mask is None else mask.numpy()
        for attempt in range(_TRIES + 1):
            room = [max(side - crop, 0) for side, crop in zip(resized, self.crop_size)]
            offset = [int(torch.randint(extent + 1, ())) for extent in room]
            window = window_of((height, width), resized, offset, self.crop_size)
            cropped = None if labels is None else crop_labels(labels, window)
            if cropped is None or self.cat_max_ratio >= 1 or attempt == _TRIES or self._accepts(cropped):
                break
        return {"window": window, "labels": cropped}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop the image, or hand over the crop of the mask."""
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.Mask(torch.from_numpy(params["labels"]))
        return tv_tensors.Image(crop_image(inpt, params["window"]))

    def _accepts(self, labels: np.ndarray) -> bool:
        counts = torch.bincount(torch.from_numpy(labels).view(-1), minlength=256)
        counts[IGNORE_INDEX] = 0
        total = int(counts.sum())
        # float64, as mmseg divides; more than one class follows from a share below 1 (and no class has none)
        return total > 0 and int(counts.max()) / total < min(self.cat_max_ratio, 1.0)


def window_of(size: Sequence[int], resized: Sequence[int], offset: Sequence[int], crop: Sequence[int]) -> Window:
    """The part of a picture that a crop of the resized picture shows.

    Args:
        size: Height and width of the picture.
        resized: Height and width after the resize.
        offset: First row and column of the crop in the resized picture.
        crop: Height and width of the crop; what goes beyond the resized picture is left out.
    """
    sides, spans, zooms = [], [], []
    for old, new, start, extent in zip(size, resized, offset, crop):
        extent = min(extent, new)
        # The nearest original pixel, but not so late that the crop would end beyond the picture.
        first = min(int(start * old / new + 0.5), (new - extent) * old // new)
        span = min(old - first, math.ceil(extent * old / new) + 1)
        sides.append(extent)
        spans.append((first, span))
        zooms.append(new / old)
    return Window((sides[0], sides[1]), spans[0], spans[1], (zooms[0], zooms[1]))


def crop_labels(labels: np.ndarray, window: Window) -> np.ndarray:
    """The window of a mask (uint8, (H, W)) resized to the nearest label, as OpenCV's ``INTER_NEAREST``."""
    indices = [
        first + np.minimum((np.arange(extent) / zoom).astype(np.intp), span - 1)
        for extent, (first, span), zoom in zip(window.size, (window.rows, window.columns), window.zoom)
    ]
    return labels.take(indices[0], axis=0).take(indices[1], axis=1)


def crop_image(image: Tensor, window: Window) -> Tensor:
    """The window of an image (uint8 or float, (C, H, W)), resized bilinearly without antialiasing."""
    (top, rows), (left, columns) = window.rows, window.columns
    part = image.as_subclass(Tensor)[:, top : top + rows, left : left + columns]
    if window.zoom == (1.0, 1.0):
        return part[:, : window.size[0], : window.size[1]]
    # By factor rather than by size: the window is a few pixels larger than the crop, the factor must stay exact. The
    # addition keeps rounding from making the result one pixel too small.
    factors = [zoom + 1e-6 / side for zoom, side in zip(window.zoom, (rows, columns))]
    resized = F.interpolate(part[None], scale_factor=factors, mode="bilinear", align_corners=False)[0]
    return resized[:, : window.size[0], : window.size[1]]


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
            "brightness": _uniform(-self.brightness, self.brightness) if brightness else None,
            "contrast": _uniform(*self.contrast) if contrast else None,
            "saturation": _uniform(*self.saturation) if saturation else None,
            "hue": int(torch.randint(-self.hue, self.hue, ())) if hue else None,
            "contrast_last": bool(late),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Distort the image; masks pass."""
        if not isinstance(inpt, tv_tensors.Image):
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
    if brightness is None and contrast is None and saturation is None and hue is None:
        return image
    pixels = image.to(torch.float32, memory_format=torch.contiguous_format)
    if brightness is not None:
        pixels.add_(brightness).clamp_(0, 255)
    if contrast is not None and not contrast_last:
        pixels.mul_(contrast).clamp_(0, 255)
    if saturation is not None or hue:
        pixels = _saturation_and_hue(pixels, 1.0 if saturation is None else saturation, (hue or 0) / 30)
    if contrast is not None and contrast_last:
        pixels.mul_(contrast).clamp_(0, 255)
    return pixels.add_(0.5).to(torch.uint8)  # round to nearest; 255.5 becomes 255


def _saturation_and_hue(pixels: Tensor, factor: float, shift: float) -> Tensor:
    """Saturation times ``factor``, hue plus ``shift`` sixths of the circle (-1..1), of float RGB 0..255, (3, H, W).

    With V = max and m = min of a pixel, multiplying the saturation (V - m) / V by k turns a channel c into
    V - (V - c) k, and the limit of 1 is k <= V / (V - m).

    Along the hue circle a channel stays at V for two sixths, falls to m in one, stays for two, and rises in one. In the
    half in which it falls, the difference to the next channel falls by the same steps, and in the half in which it
    rises, it rises likewise. So a shift by d adds or subtracts d (V - m), and clipping to m..V makes the plateaus.
    """
    red, green, blue = pixels
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    if factor != 1.0:
        limit = high / (high - low).clamp_(min=1e-6)
        weight = limit.clamp_(max=factor)
        pixels = torch.lerp(high, pixels, weight)
        low = torch.lerp(high, low, weight)
    if shift == 0:
        return pixels
    step = (high - low).mul_(abs(shift))
    falling, rising = high - step, low + step
    # Forward the order is red, green, blue; backward the circle is run through the other way.
    order = 1 if shift > 0 else -1
    result = torch.empty_like(pixels)
    for channel in range(3):
        follower, other = pixels[(channel + order) % 3], pixels[(channel - order) % 3]
        start = torch.where(other <= low, falling, rising)
        torch.clamp(start.add_(pixels[channel]).sub_(follower), low, high, out=result[channel])
    return result


class PadToSize(v2.Transform):
    """Pad image (with 0) and mask (with 255) at the bottom and on the right, and note the size before as ``size``.

    Takes and returns a dict with ``image``; images at least that large stay as they are. The task sets what lies
    outside ``size`` to 0 after normalising, as in the papers.

    Args:
        size: Height and width.
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = tuple(size)

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample with padded tensors and ``size``, int64, (2,)."""
        height, width = sample["image"].shape[-2:]
        padding = (0, max(0, self.size[1] - width), 0, max(0, self.size[0] - height))
        result = {**sample, "size": torch.tensor([height, width])}
        if any(padding):
            result["image"] = tv_tensors.Image(F.pad(sample["image"].as_subclass(Tensor), padding))
            if "mask" in sample:
                labels = F.pad(sample["mask"].as_subclass(Tensor), padding, value=IGNORE_INDEX)
                result["mask"] = tv_tensors.Mask(labels)
        return result


def training_transform(
    crop_size: tuple[int, int] = (512, 512),
    scale: tuple[int, int] = (2048, 512),
    ratio_range: tuple[float, float] = (0.5, 2.0),
    cat_max_ratio: float = 0.75,
    flip: float = 0.5,
    distortion: bool = True,
) -> v2.Compose:
    """The papers' training pipeline from a dataset's item to a sample of a batch.

    Args:
        crop_size: Height and width of the crop.
        scale: Sides that a random ratio multiplies.
        ratio_range: Smallest and largest ratio.
        cat_max_ratio: Largest share of one class in a crop.
        flip: Probability of a horizontal flip.
        distortion: Whether to distort colours.
    """
    steps = [RandomResizeCrop(crop_size, scale, ratio_range, cat_max_ratio), v2.RandomHorizontalFlip(flip)]
    return v2.Compose([*steps, *([PhotoMetricDistortion()] if distortion else []), PadToSize(crop_size)])


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
