"""Mixup and cutmix without a second copy of the batch."""

from __future__ import annotations

from collections.abc import Iterator

from timm.data import Mixup
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor


class PairwiseMixup(Mixup):
    """timm's, by the same draws; on a CPU two images at a time, which stay in the processor's cache.

    timm mixes a batch with a reversed copy of itself. Memory for that copy, anew for each batch, costs a CPU more than
    all of the arithmetic.
    """

    def _mix_batch(self, x: Tensor) -> float:
        """Mix the first image with the last, and so on, in place; gives the share of the image itself."""
        share, cut = self._params_per_batch()
        if share == 1:
            return share
        if cut:
            (top, bottom, left, right), share = cutmix_bbox_and_lam(
                x.shape, share, ratio_minmax=self.cutmix_minmax, correct_lam=self.correct_lam
            )
            for one, other in _pairs(x[:, :, top:bottom, left:right]):
                kept = one.clone()
                one.copy_(other.flip(0))
                other.copy_(kept.flip(0))
        else:
            for one, other in _pairs(x):
                gap = other.flip(0).sub_(one).mul_(1 - share)
                one.add_(gap)
                other.sub_(gap.flip(0))
        return share


def _pairs(images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of the first half of a batch, and those of the second that mirror them."""
    half = len(images) // 2
    step = 1 if images.device.type == "cpu" else half
    for start in range(0, half, step):
        yield images[start : start + step], images[len(images) - start - step : len(images) - start]
