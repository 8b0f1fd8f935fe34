"""Test-time rules on one scale: how an image of any size becomes class scores at that size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lk_downstream.data.transforms import keep_ratio_size, resize_image
from lk_downstream.errors import InputError
from lk_downstream.inference.class_maps import ClassMaps, Window

# Images uint8 (N, 3, h, w) -> logits (N, classes, h', w'). They may be, and for the sake of memory should be, at the
# stride of the network: the rules resize them.
Network = Callable[[Tensor], Tensor]


class Inference(ABC):
    """A test-time rule."""

    @abstractmethod
    def __call__(self, network: Network, images: Tensor, align_corners: bool = False) -> Tensor:
        """Scores at the images' own size.

        Args:
            network: Maps images uint8 (N, 3, h, w) to logits (N, classes, h', w') of any h' and w'.
            images: uint8 (N, 3, H, W).
            align_corners: How logits are resized.

        Returns:
            float32 (N, classes, H, W).
        """

    def predict(self, network: Network, images: Tensor, align_corners: bool = False) -> Tensor:
        """Class indices uint8 (N, H, W); arguments as those of the call."""
        return self(network, images, align_corners).argmax(1).to(torch.uint8)

    def probabilities(self, network: Network, images: Tensor, align_corners: bool = False) -> Tensor:
        """Of each class float32 (N, classes, H, W); arguments as those of the call."""
        return self(network, images, align_corners).softmax(1)


class Whole(Inference):
    """The whole image in one pass; scores are logits.

    Args:
        scale: The image is resized, keeping its aspect ratio, to the largest size whose long side is at most the
            larger and whose short side is at most the smaller of the two numbers, as in the papers; None: as it is.
    """

    def __init__(self, scale: tuple[int, int] | None = (2048, 512)):
        if scale is not None and min(scale) < 1:
            raise InputError(f"scale {tuple(scale)} of the inference rule: both sides must be at least 1")
        self.scale = scale

    def __call__(self, network: Network, images: Tensor, align_corners: bool = False) -> Tensor:
        """Logits float32 (N, classes, H, W), see :class:`Inference`."""
        return self.maps(network, self.resized(images), images.shape[-2:], align_corners).full()

    def predict(self, network: Network, images: Tensor, align_corners: bool = False) -> Tensor:
        """Class indices uint8 (N, H, W), without a full-size map of all classes."""
        return self.maps(network, self.resized(images), images.shape[-2:], align_corners).argmax()

    def logits(self, network: Network, images: Tensor, align_corners: bool = False) -> Tensor:
        """Logits float32 (N, classes, h, w) of resized images uint8 (N, 3, h, w), at their size."""
        return self.maps(network, images, images.shape[-2:], align_corners).full()

    def resized(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) in the size in which the network sees them."""
        if self.scale is None:
            return images
        return resize_image(images, keep_ratio_size(*images.shape[-2:], self.scale))

    def maps(
        self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool = False, flip: bool = False
    ) -> ClassMaps:
        """Logits of resized images.

        Args:
            network: See :class:`Inference`.
            images: uint8 (N, 3, h, w).
            size: Height and width of the images before the resize, at which the logits are wanted.
            align_corners: How logits are resized.
            flip: Show the network the mirror image, and mirror its logits.
        """
        images = images.flip(-1) if flip else images
        return ClassMaps(list(self._windows(network, images)), images.shape[-2:], tuple(size), align_corners, flip)

    def _windows(self, network: Network, images: Tensor) -> Iterator[Window]:
        height, width = images.shape[-2:]
        yield Window(slice(0, height), slice(0, width), network(images))


class Slide(Whole):
    """Overlapping windows, whose logits are averaged where they overlap.

    The last window of a row or column is moved back inside the image; an image smaller than a window is taken whole.

    Args:
        crop: Side of a window, or (height, width).
        stride: Distance of windows; the published results have two thirds of the window, rounded down, which is the
            default.
        scale: See :class:`Whole`.
        batch: How many windows pass the network at once; more may be faster on a GPU and need more memory.
    """

    def __init__(
        self,
        crop: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        scale: tuple[int, int] | None = (2048, 512),
        batch: int = 1,
    ):
        super().__init__(scale)
        self.crop = (crop, crop) if isinstance(crop, int) else tuple(crop)
        if stride is None:
            stride = tuple(side * 2 // 3 for side in self.crop)
        self.stride = (stride, stride) if isinstance(stride, int) else tuple(stride)
        if not all(0 < step <= side for step, side in zip(self.stride, self.crop)):
            raise InputError(f"stride {self.stride} of the sliding window must be from 1 to its crop size {self.crop}")
        if batch < 1:
            raise InputError(f"batch of the sliding window is {batch}: it must be at least 1")
        self.batch = batch

    def positions(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """The windows of an image of this size, as slices of its rows and columns."""
        columns = list(_positions(width, self.crop[1], self.stride[1]))
        return [(row, column) for row in _positions(height, self.crop[0], self.stride[0]) for column in columns]

    def _windows(self, network: Network, images: Tensor) -> Iterator[Window]:
        positions = self.positions(*images.shape[-2:])
        for first in range(0, len(positions), self.batch):
            together = positions[first : first + self.batch]
            logits = network(torch.cat([images[..., rows, columns] for rows, columns in together]))
            for (rows, columns), part in zip(together, logits.split(len(images))):
                yield Window(rows, columns, part)


def _positions(length: int, crop: int, stride: int) -> Iterator[slice]:
    for index in range(max(length - crop + stride - 1, 0) // stride + 1):
        end = min(index * stride + crop, length)
        yield slice(max(end - crop, 0), end)
