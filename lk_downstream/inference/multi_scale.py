"""Averaging over several scales and mirror images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from lk_downstream.data.transforms import keep_ratio_size, resize_image
from lk_downstream.errors import InputError
from lk_downstream.inference.class_maps import add_softmax
from lk_downstream.inference.rules import Inference, Network, Whole


class MultiScale(Inference):
    """Class probabilities, averaged over resized copies of the image and their mirror images.

    The sizes are those of one of two rules, which differ:

    * ``0.x``, mmsegmentation's until 2022 (``MultiScaleFlipAug``, ``aug_test``), which the published multi-scale
      metrics of ConvNeXt and RepLKNet use: the rule's ``scale`` times each ratio, and the image fitted into that.
    * ``1.x``, mmsegmentation's since (``TestTimeAug``, ``SegTTAModel``): the image's own size times each ratio; the
      rule's ``scale`` has no part in it.

    Every copy is resized from the original image. Two maps of all classes at the image's size are held at once:
    the sum of the probabilities, and the logits of one copy.

    Args:
        rule: How each copy is evaluated; by default whole. The published ConvNeXt results are whole, RepLKNet's are
            by the rule of the single-scale result.
        ratios: The scales.
        flip: Add the mirror image of every copy.
        form: ``0.x`` or ``1.x``.
    """

    def __init__(
        self,
        rule: Whole | None = None,
        ratios: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
        flip: bool = True,
        form: Literal["0.x", "1.x"] = "0.x",
    ):
        if not ratios or min(ratios) <= 0:
            raise InputError(f"ratios of the multi-scale rule are {list(ratios)}: give one or more positive numbers")
        if form not in ("0.x", "1.x"):
            raise InputError(f"form of the multi-scale rule is {form!r}: it must be '0.x' or '1.x'")
        self.rule = rule or Whole()
        self.ratios = tuple(ratios)
        self.flip = flip
        self.form = form

    def __call__(self, network: Network, images: Tensor, align_corners: bool = False) -> Tensor:
        """Probabilities float32 (N, classes, H, W), see :class:`Inference`."""
        total, number = None, 0
        for size in self.sizes(*images.shape[-2:]):
            resized = resize_image(images, size)
            for flip in (False, True) if self.flip else (False,):
                logits = self.rule.maps(network, resized, images.shape[-2:], align_corners, flip).full()
                total = torch.zeros_like(logits) if total is None else total
                add_softmax(total, logits)
                del logits  # before the next copy's
                number += 1
        return total.div_(number)

    probabilities = __call__

    def sizes(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Height and width of the copies of an image of this size."""
        scale = self.rule.scale if self.form == "0.x" else None
        for ratio in self.ratios:
            if self.form == "0.x":
                long, short = scale or (width, height)
                target = (int(long * ratio), int(short * ratio))
            else:
                target = (int(width * ratio + 0.5), int(height * ratio + 0.5))
            yield keep_ratio_size(height, width, target)
