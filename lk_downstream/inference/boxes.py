"""Detections of several scales and mirror images, merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from lk_downstream.data.transforms import resize_image
from lk_downstream.detectors.batch import Detections
from lk_downstream.errors import InputError

DIVISOR = 32  # of the sides of a batch: the largest stride of the backbones
# Images uint8 (N, 3, H, W), sizes int64 (N, 2) without padding, N original sizes (2,) -> detections in original pixels.
Finder = Callable[[Tensor, Tensor, Sequence[Tensor]], Detections]


class MultiScaleBoxes:
    """Detections of resized copies of an image and of their mirror images, of which the best of alike ones are kept.

    As mmdetection's ``DetTTAModel``: the detections of all copies are put together, and of those of a class that
    overlap the one with the highest score stays. The copies are made of the image that the data module gives, resized
    to ``data.scale``: raise that and take ratios of at most 1, so that none is enlarged from a smaller one. Masks of
    all copies are held at once, a byte for each pixel of each detection.

    Args:
        ratios: Sides of the copies, in sides of the given image.
        flip: Add the mirror image of every copy.
        overlap: IoU above which two boxes of a class are of one object.
        keep: Most detections of an image.
    """

    def __init__(
        self,
        ratios: Sequence[float] = (0.75, 1.0),
        flip: bool = True,
        overlap: float = 0.5,
        keep: int = 100,
    ):
        if not ratios or min(ratios) <= 0:
            raise InputError(f"ratios of MultiScaleBoxes are {list(ratios)}: give one or more positive numbers")
        if not 0 < overlap <= 1 or keep < 1:
            raise InputError(f"MultiScaleBoxes has overlap {overlap} and keep {keep}: an IoU above 0, and at least 1")
        self.ratios, self.flip, self.overlap, self.keep = tuple(ratios), flip, overlap, keep

    def __call__(self, find: Finder, images: Tensor, sizes: Tensor, original_sizes: Sequence[Tensor]) -> Detections:
        """Detections in pixels of the original images, best first.

        Args:
            find: Detects in one copy.
            images: uint8 (N, 3, H, W), resized and padded.
            sizes: int64 (N, 2), height and width without the padding.
            original_sizes: N times (2,), height and width before the resize.
        """
        found = [
            self._as_they_were(find(copies, shapes, original_sizes), original_sizes, flipped)
            for copies, shapes, flipped in self._copies(images, sizes)
        ]
        return [self._merged(parts) for parts in zip(*found)]

    def _copies(self, images: Tensor, sizes: Tensor) -> Iterator[tuple[Tensor, Tensor, bool]]:
        for ratio in self.ratios:
            shapes = [[max(1, round(side * ratio)) for side in size] for size in sizes.tolist()]
            height, width = (-(-max(sides) // DIVISOR) * DIVISOR for sides in zip(*shapes))
            contents = [
                resize_image(image[:, :h, :w], shape) for image, (h, w), shape in zip(images, sizes.tolist(), shapes)
            ]
            for flipped in (False, True) if self.flip else (False,):
                batch = images.new_zeros(len(images), images.shape[1], height, width)
                for place, content, (h, w) in zip(batch, contents, shapes):
                    place[:, :h, :w] = content.flip(-1) if flipped else content
                yield batch, sizes.new_tensor(shapes), flipped

    @staticmethod
    def _as_they_were(found: Detections, original_sizes: Sequence[Tensor], flipped: bool) -> Detections:
        if not flipped:
            return found
        turned = []
        for detection, size in zip(found, original_sizes):
            left, top, right, bottom = detection["boxes"].unbind(-1)
            width = size[1].to(left)
            boxes = torch.stack((width - right, top, width - left, bottom), -1)
            masks = {"masks": detection["masks"].flip(-1)} if "masks" in detection else {}
            turned.append({**detection, "boxes": boxes, **masks})
        return turned

    def _merged(self, parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        boxes, scores = together["boxes"].float(), together["scores"].float()
        kept = batched_nms(boxes, scores, together["labels"], self.overlap)[: self.keep]
        return {name: values[kept] for name, values in together.items()}
