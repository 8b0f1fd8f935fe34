"""Transforms of images with one label, by timm's own parts: what the papers trained and evaluated with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import auto_augment, create_transform
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from lk_downstream.data.operations import operations, posterize, use_arrays
from lk_downstream.errors import InputError


class TrainingImage:
    """Random crop resized to a square, horizontal flip, and timm's RandAugment (or colour jitter), on uint8.

    Crop and resize are torchvision's on tensors, by the rule of timm's and three times as fast as on Pillow's images;
    a pixel differs by 0.04 of its 255 levels on average. Policies are drawn by timm, and their operations are timm's or
    give the same pixels, shears and translations to one level: see :mod:`lk_downstream.data.operations`.
    Normalisation, random erasing, mixup and cutmix follow on the device, on whole batches.

    Args:
        size: Side of the square.
        scale: Smallest and largest share of the image's area that is cropped.
        ratio: Smallest and largest ratio of the crop's sides.
        flip: Probability of the flip.
        auto_augment: timm's name of a policy, such as ``rand-m9-mstd0.5-inc1``; None: none.
        color_jitter: Strength of changes of brightness, contrast and saturation, only without ``auto_augment``.

    Raises:
        InputError: timm knows no such policy, or a number is out of range.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        color_jitter: float = 0.4,
    ):
        for name, (low, high), most in (("scale", scale, 1), ("ratio", ratio, math.inf)):
            if not 0 < low <= high <= most:
                raise InputError(
                    f"data.{name} is [{low}, {high}]: it goes from the smallest to the largest, above 0"
                    + " and at most 1" * (most == 1)
                )
        if not 0 <= flip <= 1:
            raise InputError(f"data.flip is {flip}: it is a probability, at least 0 and at most 1")
        if color_jitter < 0:
            raise InputError(f"data.color_jitter is {color_jitter}: it must be at least 0")
        try:
            _, colours, _ = create_transform(
                (3, size, size),
                is_training=True,
                auto_augment=auto_augment,
                color_jitter=color_jitter or None,
                interpolation="bicubic",
                separate=True,
            )
        except (AssertionError, ValueError, KeyError, IndexError) as error:
            raise InputError(
                f"data.auto_augment: timm knows no policy {auto_augment!r}; the papers' is rand-m9-mstd0.5-inc1"
            ) from error
        allow_zero_bits(colours)
        self.on_arrays = use_arrays(colours.transforms)
        self.crop = v2.RandomResizedCrop((size, size), scale, ratio, InterpolationMode.BICUBIC, antialias=True)
        self.flip = v2.RandomHorizontalFlip(flip)
        self.colours = colours

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """A sample of a data set -> the same with ``image`` uint8 (3, size, size)."""
        image = sample["image"].as_subclass(torch.Tensor)
        place = self.crop.make_params([image])
        top, left, height, width = (place[name] for name in ("top", "left", "height", "width"))
        image = image[:, top : top + height, left : left + width]
        # As pixels of three bytes, which the resize, Pillow and the network take without a change of order.
        image = image[None].contiguous(memory_format=torch.channels_last)
        size = self.crop.size
        image = F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)[0]
        if torch.rand(1) < self.flip.p:
            image = image.flip(-1)
        if self.colours.transforms and image.shape[0] == 3:
            if self.on_arrays:
                image = torch.from_numpy(self.colours(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)
            else:
                image = from_pil(self.colours(to_pil(image)))
        return {**sample, "image": image}


def allow_zero_bits(colours: v2.Compose) -> None:
    """Let timm's strongest posterization give a black image, see :func:`lk_downstream.data.operations.posterize`."""
    for step in colours.transforms:
        for operation in operations(step):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = posterize


class EvaluationImage:
    """The papers' evaluation: below 384 pixels the short side is resized and the centre cropped, from 384 on the
    image is resized to the square, whatever its shape; bicubic.

    Args:
        size: Side of the square.
        crop: Share of the resized short side that is cropped; 1 resizes to the square. None: 0.875 below 384, else 1.
    """

    def __init__(self, size: int, crop: float | None = None):
        crop = (0.875 if size < 384 else 1.0) if crop is None else crop
        if not 0 < crop <= 1:
            raise InputError(f"data.crop is {crop}: it is a share, above 0 and at most 1")
        self.size, self.crop = size, crop
        resized = [size, size] if crop == 1 else math.floor(size / crop)
        self.steps = v2.Compose([v2.Resize(resized, InterpolationMode.BICUBIC), v2.CenterCrop(size)])

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """A sample of a data set -> the same with ``image`` uint8 (3, size, size)."""
        image = sample["image"]
        parts = [image] if image.shape[0] == 3 else image[:, None]  # Pillow knows no such images, but each band
        return {**sample, "image": torch.cat([from_pil(self.steps(to_pil(part))) for part in parts])}


def to_pil(image: torch.Tensor) -> Image.Image:
    """uint8 (3 or 1, H, W) -> an image of Pillow, whose resize and colours are what timm's transforms mean."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def from_pil(image: Image.Image) -> torch.Tensor:
    """An image of Pillow -> uint8 (3 or 1, H, W), which lies in memory as pixels of three bytes."""
    pixels = np.array(image)
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)


def collate_images(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples of one size -> ``{"image": uint8 (N, 3, H, W), "label": int64 (N,), "name": list}``.

    Where samples have ``labels``, float32 (classes,), so has the batch, (N, classes). The images are in channels-last
    order, in which they come and are used.
    """
    images = torch.stack([sample["image"].permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)
    batch = {"image": images, "name": [sample["name"] for sample in samples]}
    if "label" in samples[0]:
        batch["label"] = torch.tensor([sample["label"] for sample in samples])
    if "labels" in samples[0]:
        batch["labels"] = torch.stack([sample["labels"] for sample in samples])
    return batch
