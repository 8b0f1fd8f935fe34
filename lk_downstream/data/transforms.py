"""The training pipeline of the papers (mmsegmentation's), on torchvision.transforms.v2 and tv_tensors.

Random resize, random crop, flip, photometric distortion and padding follow ``mmseg/datasets/transforms`` and
``mmcv/transforms`` in what they compute and with which probability. How they compute it differs, for speed: the crop is
chosen on the labels first and only what it keeps is resized. The colour steps are in ``distortion``.
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

from lk_downstream.data.distortion import uniform
from lk_downstream.data.labels import IGNORE_INDEX
from lk_downstream.data.resize import resize_bytes

_TRIES = 10  # of mmseg's RandomCrop


def keep_ratio_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """The size of an image resized to fit ``scale`` with its aspect ratio kept, (height, width).

    The long side of the image is fitted to the larger number of ``scale``, the short side to the smaller one,
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
        image: uint8 or float, (C, H, W) or (N, C, H, W), on any device: the values are the same on all.
        size: New height and width.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = as_batch(image.as_subclass(Tensor)) if image.ndim == 3 else image.as_subclass(Tensor)
    if batch.dtype == torch.uint8 and batch.device.type != "cpu":
        resized = resize_bytes(batch, size)
    else:
        resized = F.interpolate(batch, size=tuple(size), mode="bilinear", align_corners=False)
    resized = resized[0] if image.ndim == 3 else resized
    return tv_tensors.wrap(resized, like=image) if isinstance(image, tv_tensors.TVTensor) else resized


def as_batch(image: Tensor) -> Tensor:
    """An image (C, H, W) as a batch of one that PyTorch takes for channels last where it is.

    By ``image[None]`` it would not: the new dimension's stride has to be that of a whole image. The resize of bytes is
    three to four times as fast there.
    """
    return image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)


class Window(NamedTuple):
    """A crop of a resized image, in terms of the image before the resize.

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

    The ratio r is uniform in ``ratio_range``; the image is resized to fit ``(int(W r), int(H r))`` of ``scale`` with
    its aspect ratio kept, bilinearly (labels: nearest). A crop is accepted if it holds more than one class and the
    largest class has less than ``cat_max_ratio`` of the labelled pixels; after 10 tries the next one is taken as it is.
    An image smaller than the crop is not cropped on that side.

    The crop begins on a pixel of the original rather than of the resized image, which moves it by half a pixel of the
    original at most (the last possible crop: by one); image and mask are moved alike.

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
        ratio = uniform(*self.ratio_range)
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
        # The class that could fill the crop is the most frequent one on every eighth pixel, so only it is counted;
        # where few of those are labelled, all pixels are looked at.
        sparse = labels[::8, ::8]
        if 2 * np.count_nonzero(sparse == IGNORE_INDEX) > sparse.size:
            sparse = labels
        counts = np.bincount(sparse.ravel(), minlength=256)
        counts[IGNORE_INDEX] = 0
        largest = np.count_nonzero(labels == counts.argmax())
        labelled = labels.size - np.count_nonzero(labels == IGNORE_INDEX)
        # A share below 1 also means that there is more than one class.
        return labelled > 0 and largest / labelled < min(self.cat_max_ratio, 1.0)


def window_of(size: Sequence[int], resized: Sequence[int], offset: Sequence[int], crop: Sequence[int]) -> Window:
    """The part of an image that a crop of the resized image shows.

    Args:
        size: Height and width of the image.
        resized: Height and width after the resize.
        offset: First row and column of the crop in the resized image.
        crop: Height and width of the crop; what goes beyond the resized image is left out.
    """
    sides, spans, zooms = [], [], []
    for old, new, start, extent in zip(size, resized, offset, crop):
        extent = min(extent, new)
        # The nearest original pixel, but not so late that the crop would end beyond the image.
        first = min(int(start * old / new + 0.5), (new - extent) * old // new)
        span = min(old - first, math.ceil(extent * old / new) + 1)
        sides.append(extent)
        spans.append((first, span))
        zooms.append(new / old)
    return Window((sides[0], sides[1]), spans[0], spans[1], (zooms[0], zooms[1]))


def crop_labels(labels: np.ndarray, window: Window) -> np.ndarray:
    """The window of a mask (uint8, (H, W)) resized to the nearest label, as OpenCV's ``INTER_NEAREST``."""
    rows, columns = (
        first + np.minimum((np.arange(extent) / zoom).astype(np.intp), span - 1)
        for extent, (first, span), zoom in zip(window.size, (window.rows, window.columns), window.zoom)
    )
    if window.zoom[0] < 1:  # fewer rows first, then columns of those; the slow step is the one over columns
        return labels.take(rows, axis=0).take(columns, axis=1)
    top, count = window.rows
    return labels[top : top + count].take(columns, axis=1).take(rows - top, axis=0)


def crop_image(image: Tensor, window: Window) -> Tensor:
    """The window of an image (uint8 or float, (C, H, W)), resized bilinearly without antialiasing."""
    (top, rows), (left, columns) = window.rows, window.columns
    part = image.as_subclass(Tensor)[:, top : top + rows, left : left + columns]
    if window.zoom == (1.0, 1.0):
        return part[:, : window.size[0], : window.size[1]]
    # By factor rather than by size: the window is a few pixels larger than the crop, the factor must stay exact. The
    # addition keeps rounding from making the result one pixel too small.
    factors = [zoom + 1e-6 / side for zoom, side in zip(window.zoom, (rows, columns))]
    resized = F.interpolate(as_batch(part), scale_factor=factors, mode="bilinear", align_corners=False)[0]
    return resized[:, : window.size[0], : window.size[1]]


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
    distortion: v2.Transform | None = None,
) -> v2.Compose:
    """The papers' training pipeline from a dataset's item to a sample of a batch.

    Args:
        crop_size: Height and width of the crop.
        scale: Sides that a random ratio multiplies.
        ratio_range: Smallest and largest ratio.
        cat_max_ratio: Largest share of one class in a crop.
        flip: Probability of a horizontal flip.
        distortion: How colours are distorted, such as ``PhotoMetricDistortion()``; None: not at all.
    """
    steps = [RandomResizeCrop(crop_size, scale, ratio_range, cat_max_ratio), v2.RandomHorizontalFlip(flip)]
    return v2.Compose([*steps, *([distortion] if distortion else []), PadToSize(crop_size)])
