"""What a detector is given beside the images: their sizes, and the objects to learn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lk_downstream.detectors.boxes import not_empty
from lk_downstream.errors import InputError

Sizes = list[tuple[int, int]]
"""(h, w) of each image without padding, in pixels."""

Targets = list[dict[str, Tensor]]
"""For each image ``boxes`` (G, 4) xyxy in pixels, ``labels`` int64 (G,) and, for masks, ``masks`` (G, H, W)."""

Detections = list[dict[str, Tensor]]
"""For each image ``boxes`` (K, 4) xyxy in pixels, ``scores`` (K,), ``labels`` int64 (K,) and, for masks, ``masks``."""


def as_sizes(sizes: Tensor | Sequence[tuple[int, int]]) -> Sizes:
    """Sizes as numbers, from a tensor (N, 2) or a list."""
    return [(int(h), int(w)) for h, w in (sizes.tolist() if isinstance(sizes, Tensor) else sizes)]


def learnable(targets: Sequence[dict[str, Tensor]], masks: bool) -> Targets:
    """The objects that can be learnt: no crowd regions (``iscrowd``), no boxes of zero or negative width or height.

    Args:
        targets: as `Targets`, perhaps with ``iscrowd`` (G,).
        masks: whether masks are needed.

    Raises:
        InputError: masks are needed and missing.
    """
    kept = []
    for target in targets:
        if masks and "masks" not in target:
            raise InputError(
                "the detector has mask heads but the targets no masks: set data.masks to true or leave out the heads"
            )
        boxes = target["boxes"].as_subclass(Tensor).reshape(-1, 4).float()
        wanted = not_empty(boxes)
        if "iscrowd" in target:
            wanted &= ~target["iscrowd"].bool()
        wanted = wanted.nonzero().squeeze(1)  # once for all of them
        found = {"boxes": boxes[wanted], "labels": target["labels"].long()[wanted]}
        if masks:
            found["masks"] = target["masks"].as_subclass(Tensor)[wanted]
        kept.append(found)
    return kept
