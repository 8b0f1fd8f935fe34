"""Test-time rules: how a picture of any size becomes logits at that size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from lk_downstream.data.transforms import keep_ratio_size, resize_image
from lk_downstream.errors import InputError

Network = Callable[[Tensor], Tensor]  # images uint8 (N, 3, h, w) -> logits (N, classes, h, w)


class Whole:
    """The whole picture in one pass.

    Args:
        scale: The picture is resized, keeping its aspect ratio, to the largest size whose long side is at most the
            larger and whose short side is at most the smaller of the two numbers, as in the papers; None: as it is.
    """

    def __init__(self, scale: tuple[int, int] | None = (2048, 512)):
        self.scale = scale

    def __call__(self, network: Network, images: Tensor, align_corners: bool = False) -> Tensor:
        """Logits at the pictures' own size.

        Args:
            network: Maps images uint8 (N, 3, h, w) to logits (N, classes, h, w).
            images: uint8 (N, 3, H, W).
            align_corners: How logits are resized.

        Returns:
            float32 (N, classes, H, W).
        """
        height, width = images.shape[-2:]
        if self.scale is not None:
            images = resize_image(images, keep_ratio_size(height, width, self.scale))
        logits = self.logits(network, images)
        if logits.shape[-2:] != (height, width):
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=align_corners)
        return logits

    def logits(self, network: Network, images: Tensor) -> Tensor:
        """Logits float32 (N, classes, h, w) of resized pictures uint8 (N, 3, h, w)."""
        return network(images).float()


class Slide(Whole):
    """Overlapping windows, whose logits are averaged where they overlap.

    The last window of a row or column is moved back inside the picture; a picture smaller than a window is taken whole.

    Args:
        crop: Side of a window, or (height, width).
        stride: Distance of windows; the published figures have two thirds of the window, rounded down, which is the
            default.
        scale: See :class:`Whole`.
    """

    def __init__(
        self,
        crop: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        scale: tuple[int, int] | None = (2048, 512),
    ):
        super().__init__(scale)
        self.crop = (crop, crop) if isinstance(crop, int) else tuple(crop)
        if stride is None:
            stride = tuple(side * 2 // 3 for side in self.crop)
        self.stride = (stride, stride) if isinstance(stride, int) else tuple(stride)
        if not all(0 < step <= side for step, side in zip(self.stride, self.crop)):
            raise InputError(f"stride {self.stride} of the sliding window must be from 1 to its crop size {self.crop}")

    def logits(self, network: Network, images: Tensor) -> Tensor:
        """Averaged logits float32 (N, classes, h, w) of resized pictures uint8 (N, 3, h, w)."""
        total = count = None
        for rows, columns in self.windows(*images.shape[-2:]):
            part = network(images[..., rows, columns]).float()
            if total is None:
                total = part.new_zeros(*part.shape[:2], *images.shape[-2:])
                count = part.new_zeros(images.shape[-2:])
            total[..., rows, columns] += part
            count[rows, columns] += 1
        return total.div_(count)

    def windows(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """The windows of a picture of this size, as slices of its rows and columns."""
        for rows in _positions(height, self.crop[0], self.stride[0]):
            for columns in _positions(width, self.crop[1], self.stride[1]):
                yield rows, columns


def _positions(length: int, crop: int, stride: int) -> Iterator[slice]:
    for index in range(max(length - crop + stride - 1, 0) // stride + 1):
        end = min(index * stride + crop, length)
        yield slice(max(end - crop, 0), end)
