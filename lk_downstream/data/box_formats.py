"""The forms in which tools write boxes, and how one that is not the expected one shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

BoxFormat = Literal["xywh", "xyxy", "cxcywh", "relative_xywh", "relative_xyxy", "relative_cxcywh"]

_TO_CORNERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "xywh": lambda first, second: np.concatenate((first, first + second), axis=1),
    "xyxy": lambda first, second: np.concatenate((first, second), axis=1),
    "cxcywh": lambda first, second: np.concatenate((first - second / 2, first + second / 2), axis=1),
}
_WITHIN = 1e-3  # a rounded fraction may end a little beyond its image
_BEYOND = 1.0  # pixels


def corners(boxes: np.ndarray, sizes: np.ndarray, form: BoxFormat) -> np.ndarray:
    """Boxes as x1, y1, x2, y2 in pixels.

    Args:
        boxes: (N, 4), of one of the forms: the upper left corner, or the centre, with width and height, or two opposite
            corners; in pixels, or as fractions of the image (``relative_``).
        sizes: (N, 2), widths and heights of their images.
        form: Which of them.
    """
    found = _TO_CORNERS[form.removeprefix("relative_")](boxes[:, :2], boxes[:, 2:])
    return found * np.tile(sizes, 2) if form.startswith("relative_") else found


def other_forms(boxes: np.ndarray, sizes: np.ndarray) -> list[BoxFormat]:
    """The forms in which boxes must have been written that cannot be x, y, width, height in pixels; mostly none.

    They are fractions if none has a value above 1; and two corners if, read as corner and size, most of them reach
    beyond their image, and read as corners, none.

    Args:
        boxes: (N, 4), as they stand in a file.
        sizes: (N, 2), widths and heights of their images.
    """
    if not len(boxes):
        return []
    if (boxes >= 0).all() and (boxes <= 1 + _WITHIN).all() and (sizes > 2).all():
        ones = np.ones_like(sizes)
        fitting = [form for form in _TO_CORNERS if _fits(corners(boxes, ones, form), ones, _WITHIN).all()]
        return [f"relative_{form}" for form in fitting]
    if 2 * _fits(corners(boxes, sizes, "xywh"), sizes, _BEYOND).sum() < len(boxes):
        return ["xyxy"] if _fits(boxes, sizes, _BEYOND).all() else []
    return []


def _fits(boxes: np.ndarray, sizes: np.ndarray, margin: float) -> np.ndarray:
    """Which boxes x1, y1, x2, y2 have a size and lie within their image, bool (N,)."""
    inside = (boxes >= -margin).all(1) & (boxes <= np.tile(sizes, 2) + margin).all(1)
    return inside & (boxes[:, 2:] > boxes[:, :2]).all(1)
