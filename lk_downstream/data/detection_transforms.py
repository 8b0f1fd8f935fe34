"""The training pipelines of the papers' detectors (mmdetection's), on torchvision.transforms.v2 and tv_tensors.

Every step takes and returns a data set's item, ``{"image": ..., "target": {"boxes", "labels", "masks", ...}, ...}``;
steps of torchvision itself (``RandomPhotometricDistort`` and the like) fit in between. Boxes that a step moves out of
the image become empty and are taken away at the end, see :class:`KeepVisible`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from lk_downstream.data.distortion import uniform
from lk_downstream.data.transforms import keep_ratio_size, resize_image
from lk_downstream.errors import InputError

SHORT_SIDES = tuple(range(480, 801, 32))


def resize_item(item: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """An item resized to ``size`` (height, width): the image as by OpenCV, masks to the nearest pixel, boxes scaled."""
    height, width = item["image"].shape[-2:]
    result = {**item, "image": resize_image(item["image"], size)}
    if "boxes" in item.get("target", {}):
        boxes = item["target"]["boxes"].as_subclass(Tensor)
        factors = boxes.new_tensor([size[1] / width, size[0] / height] * 2)
        result["target"] = {**item["target"], "boxes": _boxes(boxes * factors, size)}
        if "masks" in item["target"]:
            masks = item["target"]["masks"].as_subclass(Tensor)
            result["target"]["masks"] = tv_tensors.Mask(resize_masks(masks, size))
    return result


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks uint8 (K, H, W) resized to the nearest pixel, as PyTorch's ``nearest-exact``, in a third of its time.

    Where a new pixel lies exactly between two, which happens on sides of a few pixels, PyTorch's own ways (contiguous,
    channels last) take one or the other.

    Args:
        masks: On the CPU.
        size: New height and width.
    """
    rows, columns = (_nearest(old, new) for old, new in zip(masks.shape[1:], size))
    source = masks.numpy()
    if len(rows) < source.shape[1]:  # the slow step is the one over columns: of as few rows as possible
        return torch.from_numpy(source.take(rows, 1).take(columns, 2))
    return torch.from_numpy(source.take(columns, 2).take(rows, 1))


def _nearest(old: int, new: int) -> np.ndarray:
    """The pixel of an axis that each new one takes, in float32, in which PyTorch counts, too."""
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * (np.float32(old) / np.float32(new))
    return np.minimum(places.astype(np.intp), old - 1)


def crop_item(item: dict[str, Any], top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """The part of an item that begins at row ``top`` and column ``left``; boxes are clipped to it."""
    target = dict(item["target"])
    for name in {"boxes", "masks"} & target.keys():
        target[name] = TF.crop(target[name], top, left, height, width)
    return {**item, "image": TF.crop(item["image"], top, left, height, width), "target": target}


class ResizeToFit(v2.Transform):
    """Resize to fit into ``scale``, keeping the aspect ratio; each side is ``int(side * factor + 0.5)``.

    Args:
        scale: The long and the short side at most.
    """

    def __init__(self, scale: tuple[int, int] = (1333, 800)):
        super().__init__()
        self.scale = tuple(scale)

    def forward(self, item: dict[str, Any]) -> dict[str, Any]:
        """The resized item."""
        return resize_item(item, keep_ratio_size(*item["image"].shape[-2:], self.scale))


class MultiScale(v2.Transform):
    """Resize the short side to one of several lengths, the long side staying below ``long``.

    Args:
        short: Lengths to choose from, each as likely as the other.
        long: The long side at most.
    """

    def __init__(self, short: Sequence[int] = SHORT_SIDES, long: int = 1333):
        super().__init__()
        if not short or min(*short, long) < 1:
            raise InputError(f"short is {list(short)} and long is {long}: lengths of at least one pixel")
        self.short, self.long = tuple(short), long

    def forward(self, item: dict[str, Any]) -> dict[str, Any]:
        """The resized item."""
        short = self.short[int(torch.randint(len(self.short), ()))]
        return resize_item(item, keep_ratio_size(*item["image"].shape[-2:], (self.long, short)))


class MultiScaleCrop(v2.Transform):
    """The augmentation of the papers (DETR's): `MultiScale`, or in half of the cases a random crop before it.

    For the crop the image is resized by another `MultiScale`, and a rectangle with both sides drawn from ``crop``
    (but no larger than the image) is cut out, with or without objects in it.

    Args:
        short: Lengths of the short side to choose from.
        long: The long side at most.
        first: Lengths of the short side before the crop.
        crop: Smallest and largest side of the crop.
    """

    def __init__(
        self,
        short: Sequence[int] = SHORT_SIDES,
        long: int = 1333,
        first: Sequence[int] = (400, 500, 600),
        crop: tuple[int, int] = (384, 600),
    ):
        super().__init__()
        if not 1 <= crop[0] <= crop[1]:
            raise InputError(f"crop is {list(crop)}: the smallest and the largest side, of at least one pixel")
        self.first, self.last = MultiScale(first, long), MultiScale(short, long)
        self.crop = tuple(crop)

    def forward(self, item: dict[str, Any]) -> dict[str, Any]:
        """The cropped or only resized item."""
        if uniform(0, 1) < 0.5:
            item = self.first(item)
            sides = item["image"].shape[-2:]
            height, width = (_integer(min(side, self.crop[0]), min(side, self.crop[1])) for side in sides)
            item = crop_item(item, _integer(0, sides[0] - height), _integer(0, sides[1] - width), height, width)
            item = KeepVisible()(item)
        return self.last(item)


class LargeScaleJitter(v2.Transform):
    """Large-scale jitter (Ghiasi et al. 2021): resize by a random factor, then crop what is larger than ``size``.

    The factor multiplies the scale at which the image just fits into the square ``size``. A smaller image is
    padded when the batch is made.

    Args:
        size: Side of the crop.
        factors: Smallest and largest factor.
    """

    def __init__(self, size: int = 1024, factors: tuple[float, float] = (0.1, 2.0)):
        super().__init__()
        if size < 1 or not 0 < factors[0] <= factors[1]:
            raise InputError(
                f"size is {size} and factors are {list(factors)}: a side of at least one pixel, and the smallest and "
                "the largest factor, above 0"
            )
        self.size, self.factors = size, tuple(factors)

    def forward(self, item: dict[str, Any]) -> dict[str, Any]:
        """The resized and cropped item."""
        side = max(1, round(self.size * uniform(*self.factors)))
        item = ResizeToFit((side, side))(item)
        sides = item["image"].shape[-2:]
        height, width = (min(length, self.size) for length in sides)
        if (height, width) == tuple(sides):
            return item
        return crop_item(item, _integer(0, sides[0] - height), _integer(0, sides[1] - width), height, width)


class KeepVisible(v2.Transform):
    """Clip boxes to the image and take away objects whose box is empty."""

    def forward(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with the objects that can be seen."""
        height, width = item["image"].shape[-2:]
        target = item["target"]
        boxes = target["boxes"].as_subclass(Tensor)
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
        seen = (boxes[:, 2:] > boxes[:, :2]).all(1)
        if seen.all():  # most often; to choose among masks copies them
            return {**item, "target": {**target, "boxes": _boxes(boxes, (height, width))}}
        kept = {name: target[name][seen] for name in ("labels", "iscrowd", "masks") if name in target}
        if "masks" in kept:
            kept["masks"] = tv_tensors.Mask(kept["masks"])
        return {**item, "target": {**target, **kept, "boxes": _boxes(boxes[seen], (height, width))}}


def training_transform(augmentation: Sequence[v2.Transform] | None = None, flip: float = 0.5) -> v2.Compose:
    """From a data set's item to one of a training batch.

    Args:
        augmentation: Steps after the flip; None: the papers', `MultiScaleCrop`.
        flip: Probability of a horizontal flip.
    """
    steps = [MultiScaleCrop()] if augmentation is None else list(augmentation)
    return v2.Compose([v2.RandomHorizontalFlip(flip), *steps, KeepVisible()])


def _boxes(boxes: Tensor, size: Sequence[int]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(size))


def _integer(low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, ()))
