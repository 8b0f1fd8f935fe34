"""From the detector's input back to the original image: boxes rescaled, masks pasted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lk_downstream.detectors.boxes import numbers


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks of a whole image from masks within boxes, sampled bilinearly at the pixels' middles (as mmdet's).

    Args:
        masks: probabilities (K, m, m).
        boxes: (K, 4) xyxy in pixels.
        size: (H, W) of the image.
        threshold: from this probability on a pixel belongs to the object.

    Returns:
        Bool (K, H, W).
    """
    height, width = size
    image = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    for out, mask, (x1, y1, x2, y2) in zip(image, masks.float(), boxes.float().tolist()):
        # Only pixels whose middle is near the box: beyond it the samples are zero.
        left, right = max(int(x1) - 1, 0), min(int(x2) + 2, width)
        top, bottom = max(int(y1) - 1, 0), min(int(y2) + 2, height)
        if x2 <= x1 or y2 <= y1 or left >= right or top >= bottom:
            continue
        x = (torch.arange(left, right, device=mask.device, dtype=torch.float32) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(top, bottom, device=mask.device, dtype=torch.float32) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), dim=-1)
        sampled = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        out[top:bottom, left:right] = sampled >= threshold
    return image


def to_original(
    detection: dict[str, Tensor], original_size: tuple[int, int], scale: float | tuple[float, float]
) -> dict[str, Tensor]:
    """One image's detections in pixels of its original.

    Args:
        detection: what `Detector.predict` returns for one image.
        original_size: (H, W) of the original.
        scale: by how much the original was resized: one factor, or those of its width and its height.

    Returns:
        ``boxes``, ``scores``, ``labels`` and, if given, ``masks`` bool (K, H, W).
    """
    x, y = (scale, scale) if isinstance(scale, (int, float)) else scale
    boxes = detection["boxes"] / numbers((x, y, x, y), detection["boxes"])
    result = {**detection, "boxes": boxes}
    if "masks" in detection:
        result["masks"] = paste_masks(detection["masks"], boxes, original_size)
    return result
