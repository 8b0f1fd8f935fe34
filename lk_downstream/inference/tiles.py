"""Objects in images of any size: found in overlapping tiles, of which each object is kept once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from lk_downstream.data.rows import Rows
from lk_downstream.errors import InputError

OVERLAP = 0.5  # IoU above which two boxes of a class are of one object
EDGE = 2.0  # pixels: a box that comes as near to a border within the image may be cut off there

Found = dict[str, np.ndarray]  # ``boxes``, ``scores`` and ``labels``, see ``Detections``


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Where the tiles of a side lie; the last one is moved back inside.

    Raises:
        InputError: Tiles would not go on.
    """
    if not 0 <= overlap < tile:
        raise InputError(
            f"tile is {tile} and overlap is {overlap}: tiles of at least 1 pixel overlap by less than a side"
        )
    starts = range(0, max(length - overlap, 1), tile - overlap)
    return list(dict.fromkeys((max(0, min(start, length - tile)), min(start + tile, length)) for start in starts))


def find_in_tiles(
    find: Callable[[list[Tensor]], list[Found]],
    rows: Rows,
    tile: int,
    overlap: int,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Objects of the whole image, best first.

    A box that a border between tiles cuts off is left out where it is no larger than the overlap: the next tile has the
    whole object. Of boxes of a class that overlap the best one stays. Larger objects than the overlap may be found in
    parts.

    Args:
        find: Objects in tiles uint8 (C, h, w) of one size, in their own pixels.
        rows: The image.
        tile: Side of a tile in pixels.
        overlap: Of neighbours, in pixels.
        batch: Tiles that are given at once.
        progress: Told how many rows are done, of how many.
    """
    height, width = rows.size
    kept: list[Found] = []
    for top, bottom in spans(height, tile, overlap):
        band = rows.read(top, bottom)
        columns = spans(width, tile, overlap)
        for first in range(0, len(columns), batch):
            together = columns[first : first + batch]
            for (left, right), found in zip(together, find([band[:, :, a:b] for a, b in together])):
                kept.append(_placed(found, (left, top, right, bottom), (width, height), overlap))
        if progress:
            progress(bottom, height)
    whole = {name: np.concatenate([found[name] for found in kept]) for name in ("boxes", "scores", "labels")}
    boxes, scores, labels = (torch.from_numpy(whole[name]) for name in ("boxes", "scores", "labels"))
    best = batched_nms(boxes.float(), scores.float(), labels, OVERLAP).numpy()
    return {name: values[best] for name, values in whole.items()}


def _placed(found: Found, place: tuple[int, int, int, int], size: tuple[int, int], overlap: int) -> dict[str, Any]:
    """Objects of a tile in pixels of the image, without those that the tile cuts off and a neighbour has whole."""
    left, top, right, bottom = place
    boxes = found["boxes"] + np.array([left, top, left, top], found["boxes"].dtype)
    cut = np.zeros(len(boxes), bool)
    sides = (
        (0, left, left > 0, 1),
        (1, top, top > 0, 1),
        (2, right, right < size[0], -1),
        (3, bottom, bottom < size[1], -1),
    )
    for axis, border, inside, sign in sides:
        if inside:
            length = boxes[:, axis % 2 + 2] - boxes[:, axis % 2]
            cut |= (sign * (boxes[:, axis] - border) < EDGE) & (length <= overlap - 2 * EDGE)
    return {"boxes": boxes[~cut], "scores": found["scores"][~cut], "labels": found["labels"][~cut]}
